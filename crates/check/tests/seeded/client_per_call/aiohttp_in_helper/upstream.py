import aiohttp


async def fetch(path):
    async with aiohttp.ClientSession() as session:  # BUG: LW301
        async with session.get("http://upstream.internal" + path) as answer:
            return await answer.json()
