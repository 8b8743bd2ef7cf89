import asyncio


async def one(n):
    await asyncio.sleep(0)
    return n


def make(n):
    return one(n)


async def ten():
    pending = []
    for n in range(10):
        pending.append(make(n))  # OK: gathered below
    return await asyncio.gather(*pending)
