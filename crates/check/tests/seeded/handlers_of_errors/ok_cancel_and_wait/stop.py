import asyncio
import contextlib


class Ticker:
    def __init__(self, tick):
        self.task = asyncio.create_task(self._run(tick))

    async def _run(self, tick):
        while True:
            tick()
            await asyncio.sleep(1)

    async def stop(self):
        self.task.cancel()
        try:
            await self.task
        except asyncio.CancelledError:  # OK: the task that was just cancelled
            pass


async def stop_all(tasks):
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
