import aiohttp


class Api:
    base = "http://api.internal"

    async def raw(self, path):
        async with aiohttp.ClientSession() as session:
            return await session.get(self.base + path)  # BUG: LW305

    async def json(self, path):
        response = await self.raw(path)
        return await response.json()
