import time

from threads import in_thread


def write(key, value):
    time.sleep(0.1)
    return key, value


async def put(key, value):
    return await in_thread(write, key, value=value)  # OK: the project's own wrapper
