import asyncio


class Connector:
    def __init__(self, limit: int) -> None:
        self._permits = asyncio.Semaphore(limit)

    async def connect(self, host: str):
        async with self._permits:
            return await asyncio.open_connection(host, 443)  # BUG: LW303
