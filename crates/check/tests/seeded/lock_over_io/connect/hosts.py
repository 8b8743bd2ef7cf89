import asyncio


class Hosts:
    def __init__(self):
        self._lock = asyncio.Lock()
        self._connections = {}

    async def get(self, host):
        async with self._lock:
            if host not in self._connections:
                self._connections[host] = await asyncio.open_connection(host, 22)  # BUG: LW406
            return self._connections[host]
