import asyncio


def outcome(task: asyncio.Task):
    if task.cancelled() or task.exception():
        return None
    return task.result()  # OK: asyncio's result() never waits


async def collect(coros):
    tasks = [asyncio.create_task(coro) for coro in coros]
    done, _ = await asyncio.wait(tasks)
    return [outcome(task) for task in done]
