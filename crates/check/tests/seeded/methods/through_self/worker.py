import asyncio
import time


class Poller:
    interval = 2.0

    def __init__(self, source):
        self.source = source
        self.running = True

    def _back_off(self, failures: int) -> None:
        time.sleep(min(self.interval * failures, 30))  # BUG: LW101

    def _handle_failure(self, failures: int) -> None:
        if failures > 3:
            self._back_off(failures)

    async def run(self) -> None:
        failures = 0
        while self.running:
            try:
                await self.source.poll()
                failures = 0
            except ConnectionError:
                failures += 1
                self._handle_failure(failures)
            await asyncio.sleep(self.interval)


async def main(source):
    task = asyncio.create_task(Poller(source).run())
    await task
