import time


class Limiter:
    def __init__(self, per_second: float) -> None:
        self.gap = 1 / per_second
        self.next = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now < self.next:
            time.sleep(self.next - now)  # BUG: LW101
        self.next = max(now, self.next) + self.gap


limit = Limiter(20)


async def fetch_all(session, urls):
    for url in urls:
        limit()
        await session.get(url)
