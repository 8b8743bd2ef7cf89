import threading


class Shared:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def take(self, seconds: float) -> bool:
        return self.lock.acquire(timeout=seconds)  # BUG: LW101


async def enter(shared: Shared) -> None:
    if not shared.take(30):
        raise TimeoutError
