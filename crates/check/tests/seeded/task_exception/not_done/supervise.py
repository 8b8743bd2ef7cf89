import asyncio


async def supervise(jobs):
    tasks = [asyncio.create_task(job()) for job in jobs]
    await asyncio.wait(tasks, timeout=5)
    for task in tasks:
        if task.exception() is not None:  # BUG: LW208
            print("failed", task)
