import asyncio
import signal


class App:
    def __init__(self):
        self.stopping = asyncio.Event()

    def on_signal(self, signum, frame):
        self.stopping.set()

    async def run(self):
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sig, self.on_signal)  # BUG: LW508
        await self.stopping.wait()
