import asyncio


async def import_users(request, store):
    rows = await request.json()
    async with asyncio.TaskGroup() as group:
        for row in rows:
            group.create_task(store.insert(row))  # BUG: LW404
    return len(rows)
