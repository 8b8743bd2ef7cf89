import asyncio
import urllib.request


def get(url):
    return urllib.request.urlopen(url).status  # BUG: LW101


def schedule(urls):
    async def one(url):
        return get(url)

    async def everything():
        return await asyncio.gather(*(one(url) for url in urls))

    return everything()


asyncio.run(schedule(["http://a.internal"]))
