import asyncio
import functools


def offloaded(fn):
    @functools.wraps(fn)
    async def inner(*args, **kwargs):
        return await asyncio.to_thread(fn, *args, **kwargs)

    return inner
