import asyncio


async def fetch(session, url):
    return await session.get(url)


async def crawl(session, urls):
    return await asyncio.gather(*[fetch(session, url) for url in urls])  # BUG: LW404
