class Client:
    def __init__(self, connect):
        self._connection = None
        self._connect = connect

    async def connection(self):
        if self._connection is None:
            self._connection = await self._connect()  # BUG: LW504
        return self._connection
