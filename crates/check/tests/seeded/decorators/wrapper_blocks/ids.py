import itertools

from throttle import throttled

_counter = itertools.count()


@throttled(per_second=50)
def next_id():
    return next(_counter)


async def create(store, body):
    key = next_id()
    await store.put(key, body)
    return key
