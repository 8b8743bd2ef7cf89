import asyncio


class Scheduler:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()

    def spawn(self, coro) -> asyncio.Task:
        task = self.loop.create_task(coro)
        return task


class Crawler:
    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    async def visit(self, url: str) -> None:
        print(url)

    async def start(self, urls: list[str]) -> None:
        for url in urls:
            self.scheduler.spawn(self.visit(url))  # BUG: LW202
