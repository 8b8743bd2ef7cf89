import asyncio


async def _lookup(name):
    await asyncio.sleep(0.1)
    return name.upper()


def lookup(name):
    return asyncio.run(_lookup(name))  # BUG: LW104
