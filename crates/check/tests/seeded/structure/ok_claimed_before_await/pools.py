import asyncio


class Pools:
    def __init__(self, make):
        self._tasks = {}
        self._make = make

    async def get(self, key):
        if key not in self._tasks:
            self._tasks[key] = asyncio.ensure_future(self._make(key))  # OK: stored before anything is awaited
        return await asyncio.shield(self._tasks[key])
