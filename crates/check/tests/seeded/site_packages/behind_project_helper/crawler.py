import asyncio

from limits import take


async def crawl(urls, get):
    for url in urls:
        take(url.host)
        await get(url)


async def main(urls, get):
    await asyncio.create_task(crawl(urls, get))
