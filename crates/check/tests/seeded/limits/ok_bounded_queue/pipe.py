import asyncio


async def pipe(source, sink, size=100):
    queue = asyncio.Queue(maxsize=size)  # OK: bounded

    async def produce():
        async for item in source:
            await queue.put(item)
        await queue.put(None)

    producer = asyncio.create_task(produce())
    while (item := await queue.get()) is not None:
        await sink(item)
    await producer
