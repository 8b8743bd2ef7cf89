import asyncio

running: set[asyncio.Task] = set()


def spawn(coro):
    task = asyncio.create_task(coro)
    running.add(task)
    task.add_done_callback(running.discard)
    return task


async def tick():
    await asyncio.sleep(1)


async def handle():
    spawn(tick())  # OK: the helper keeps it
