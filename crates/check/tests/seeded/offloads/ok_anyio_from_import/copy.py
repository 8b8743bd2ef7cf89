import time

from anyio import to_thread


class Device:
    def reset(self) -> None:
        time.sleep(1)

    async def recover(self) -> None:
        # OK: a bound method in a worker thread
        await to_thread.run_sync(self.reset, abandon_on_cancel=True)
