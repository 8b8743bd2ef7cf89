import asyncio


async def fetch(name):
    await asyncio.sleep(0.1)
    return name


def fetch_sync(name):
    return asyncio.run(fetch(name))


async def isolated(name):
    # OK: a loop of its own, in a thread of its own
    return await asyncio.to_thread(fetch_sync, name)
