from clients import AsyncClient


class App:
    def __init__(self):
        self.client = AsyncClient()

    async def handle(self, key):
        return await self.client.fetch(key)  # OK: the async one
