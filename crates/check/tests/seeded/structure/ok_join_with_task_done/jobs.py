import asyncio


async def worker(queue):
    while True:
        job = await queue.get()
        try:
            await job()
        finally:
            queue.task_done()  # OK: after a get


async def run(jobs):
    queue = asyncio.Queue(10)
    workers = [asyncio.create_task(worker(queue)) for _ in range(4)]
    for job in jobs:
        await queue.put(job)
    await queue.join()  # OK
    for task in workers:
        task.cancel()
