import asyncio


class Cache:
    def __init__(self):
        self._lock = asyncio.Lock()
        self._values = {}

    async def get(self, key, load):
        value = self._values.get(key)
        async with self._lock:  # OK: asyncio's lock, meant for this
            if key not in self._values:
                value = self._values[key] = await load(key)
        return value
