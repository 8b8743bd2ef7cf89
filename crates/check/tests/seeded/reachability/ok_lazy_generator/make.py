import asyncio
import time


def slow_numbers():
    for n in range(3):
        time.sleep(1)
        yield n


async def start(worker):
    numbers = slow_numbers()  # OK: nothing runs yet
    await asyncio.to_thread(worker, numbers)
