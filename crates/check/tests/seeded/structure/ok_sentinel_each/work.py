import asyncio


async def consumer(queue, handle):
    while (item := await queue.get()) is not None:
        await handle(item)


async def run(items, handle, n=3):
    queue = asyncio.Queue(100)
    consumers = [asyncio.create_task(consumer(queue, handle)) for _ in range(n)]
    for item in items:
        await queue.put(item)
    for _ in consumers:
        await queue.put(None)  # OK: one for each
    await asyncio.gather(*consumers)
