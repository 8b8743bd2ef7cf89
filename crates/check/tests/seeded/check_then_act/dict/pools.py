class Pools:
    def __init__(self, make):
        self._pools = {}
        self._make = make

    async def get(self, key):
        if key not in self._pools:
            self._pools[key] = await self._make(key)  # BUG: LW504
        return self._pools[key]
