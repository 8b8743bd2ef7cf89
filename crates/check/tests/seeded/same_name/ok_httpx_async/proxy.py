import httpx


class Upstream:
    def __init__(self):
        self.client = httpx.AsyncClient()

    def request(self, path):
        return self.client.get(path)

    async def text(self, path):
        response = await self.request(path)  # OK: a coroutine
        return response.text
