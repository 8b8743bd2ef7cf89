import time
from functools import wraps


def throttled(per_second):
    gap = 1 / per_second
    last = [0.0]

    def decorate(fn):
        @wraps(fn)
        def inner(*args, **kwargs):
            wait = last[0] + gap - time.monotonic()
            if wait > 0:
                time.sleep(wait)  # BUG: LW101
            last[0] = time.monotonic()
            return fn(*args, **kwargs)

        return inner

    return decorate
