import threading


class Once:
    def __init__(self):
        self.lock = threading.Lock()

    def enter(self):
        return self.lock.acquire(blocking=False)  # OK: never waits


async def refresh(once, load):
    if once.enter():
        try:
            await load()
        finally:
            once.lock.release()
