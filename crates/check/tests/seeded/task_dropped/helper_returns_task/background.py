import asyncio


def in_background(coro, name=None):
    return asyncio.create_task(coro, name=name)
