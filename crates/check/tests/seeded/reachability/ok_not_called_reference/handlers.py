import time


def slow():
    time.sleep(1)


def quick():
    return 1


SYNC_HANDLERS = {"slow": slow}


async def names():
    return sorted(SYNC_HANDLERS)  # OK: names them, calls none


async def describe():
    return slow.__doc__ or quick()  # OK: not called
