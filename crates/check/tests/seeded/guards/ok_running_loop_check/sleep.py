import asyncio
import time


def pause(seconds):
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        time.sleep(seconds)  # OK: no loop runs here
        return None
    return loop.create_task(asyncio.sleep(seconds))


async def step():
    await pause(0.1)
