import asyncio
import os


def walk(root):
    for path, _, names in os.walk(root):
        for name in names:
            yield os.path.join(path, name)


async def listing(root):
    # OK: nothing of a generator runs before list() in the thread
    return await asyncio.to_thread(list, walk(root))
