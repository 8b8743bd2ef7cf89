import time


class LazyService:
    """Connects when something is first asked of it."""

    def __init__(self, factory):
        self._factory = factory
        self._target = None

    def __getattr__(self, name):
        if self._target is None:
            time.sleep(1)  # BUG: LW101
            self._target = self._factory()
        return getattr(self._target, name)


async def ping(service: LazyService):
    return await service.ping_async()
