HANDLERS = {}


def handles(event):
    def register(fn):
        HANDLERS[event] = fn
        return fn

    return register


async def dispatch(event, payload):
    handler = HANDLERS[event]
    return handler(payload)
