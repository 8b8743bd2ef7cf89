import asyncio


class Client:
    def __init__(self, limit):
        self.limit = asyncio.Semaphore(limit)  # OK: one for all calls

    async def get(self, session, url):
        async with self.limit:
            return await session.get_text(url)
