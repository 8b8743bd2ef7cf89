import asyncio


async def consumer(queue, handle):
    while (item := await queue.get()) is not None:
        await handle(item)


async def run(items, handle):
    queue = asyncio.Queue(100)
    consumers = [asyncio.create_task(consumer(queue, handle)) for _ in range(3)]
    for item in items:
        await queue.put(item)
    await queue.put(None)  # BUG: LW501
    await asyncio.gather(*consumers)
