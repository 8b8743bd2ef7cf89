import asyncio


async def audit(event):
    await asyncio.sleep(1)


async def handle(events):
    tasks = set()
    for event in events:
        task = asyncio.create_task(audit(event))  # BUG: LW206
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    return len(tasks)
