import asyncio


async def supervise(jobs):
    tasks = {asyncio.create_task(job()) for job in jobs}
    done, pending = await asyncio.wait(tasks, timeout=5)
    for task in pending:
        task.cancel()
    for task in done:
        if not task.cancelled() and task.exception():  # OK: done, and not cancelled
            print("failed", task)
