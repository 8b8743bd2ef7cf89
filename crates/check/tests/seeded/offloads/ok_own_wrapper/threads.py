import asyncio
import functools


async def in_thread(function, *args, **kwargs):
    call = functools.partial(function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(None, call)
