import asyncio


class Resolver:
    def __init__(self):
        self._pending: dict[str, asyncio.Future] = {}

    async def resolve(self, host):
        if host in self._pending:
            return await self._pending[host]  # BUG: LW205
        future = self._pending[host] = asyncio.get_running_loop().create_future()
        try:
            address = await self._ask(host)
            future.set_result(address)
            return address
        finally:
            del self._pending[host]

    async def _ask(self, host):
        await asyncio.sleep(0.1)
        return "10.0.0.1"
