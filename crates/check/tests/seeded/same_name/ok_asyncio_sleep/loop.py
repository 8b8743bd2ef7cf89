from asyncio import Queue, sleep


async def pump(queue: Queue, sink):
    while True:
        item = await queue.get()  # OK: asyncio's queue
        sink(item)
        await sleep(0.1)  # OK: asyncio's sleep
