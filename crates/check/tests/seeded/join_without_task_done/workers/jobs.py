import asyncio


async def worker(queue: asyncio.Queue) -> None:
    while True:
        job = await queue.get()
        await job()


async def run(jobs) -> None:
    queue: asyncio.Queue = asyncio.Queue(maxsize=10)
    workers = [asyncio.create_task(worker(queue)) for _ in range(4)]
    for job in jobs:
        await queue.put(job)
    await queue.join()  # BUG: LW502
    for task in workers:
        task.cancel()
