import asyncio
import time


class Bus:
    def __init__(self, loop):
        self.loop = loop

    def _deliver(self, message):
        time.sleep(message["delay"])  # BUG: LW103

    def publish(self, message):
        self.loop.call_soon_threadsafe(lambda: self._deliver(message))


async def main():
    return Bus(asyncio.get_running_loop())
