import asyncio


async def fetch(session, url):
    limit = asyncio.Semaphore(100)  # BUG: LW405
    async with limit:
        async with session.get(url) as response:
            return await response.read()


async def fetch_all(session, urls):
    return await asyncio.gather(*(fetch(session, url) for url in urls))
