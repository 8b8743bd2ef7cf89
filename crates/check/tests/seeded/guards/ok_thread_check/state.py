import asyncio
import threading
import time


class State:
    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.loop_thread = threading.get_ident()

    def settle(self):
        if threading.get_ident() == self.loop_thread:
            raise RuntimeError("settle() belongs to worker threads")
        time.sleep(1)


async def work(state):
    await asyncio.to_thread(state.settle)  # OK
