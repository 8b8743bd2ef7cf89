import functools
import random
import time


def retrying(attempts):
    def decorate(fn):
        @functools.wraps(fn)
        async def inner(*args, **kwargs):
            for attempt in range(attempts):
                try:
                    return await fn(*args, **kwargs)
                except OSError:
                    _pause(attempt)
            return await fn(*args, **kwargs)

        return inner

    return decorate


def _pause(attempt):
    time.sleep(random.uniform(0, 2**attempt))  # BUG: LW101


@retrying(3)
async def push(session, item):
    await session.put(item)
