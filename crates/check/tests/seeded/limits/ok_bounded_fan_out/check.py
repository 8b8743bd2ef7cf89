import asyncio

MIRRORS = ["a", "b", "c"]


async def ping(name):
    await asyncio.sleep(0)
    return name


async def check():
    return await asyncio.gather(*(ping(name) for name in MIRRORS))  # OK: three


async def crawl(urls, get):
    limit = asyncio.Semaphore(10)  # OK: shared by all calls of one()

    async def one(url):
        async with limit:
            return await get(url)

    return await asyncio.gather(*(one(url) for url in urls))
