import asyncio
import signal


class App:
    def __init__(self):
        self.stopping = asyncio.Event()

    def stop(self, reason="signal"):
        self.stopping.set()

    def on_signal(self, signum, frame):
        self.stopping.set()

    async def run(self):
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)  # OK
        loop.add_signal_handler(signal.SIGINT, self.on_signal, signal.SIGINT, None)  # OK: two arguments
        signal.signal(signal.SIGHUP, self.on_signal)  # OK: two by contract
        await self.stopping.wait()
