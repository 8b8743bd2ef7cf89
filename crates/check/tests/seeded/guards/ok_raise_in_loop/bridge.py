import asyncio


def call(coro):
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coro)
    raise RuntimeError("use the async client inside a loop")


async def fetch():
    return 1


async def main():
    try:
        return call(fetch())  # OK: raises before it could nest
    except RuntimeError:
        return await fetch()
