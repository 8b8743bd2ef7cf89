import asyncio


class Client:
    def __init__(self, connect):
        self._lock = asyncio.Lock()
        self._value = None
        self._connect = connect

    async def value(self):
        async with self._lock:
            if self._value is None:
                self._value = await self._connect()  # OK: nobody else is here
        return self._value
