import asyncio


async def load(sources):
    results = []
    async with asyncio.TaskGroup() as group:
        try:
            tasks = [group.create_task(source.read()) for source in sources]
            for task in tasks:
                results.append(await task)
        except Exception:  # BUG: LW209
            results.append(None)
    return results
