import aiohttp


async def get(session: aiohttp.ClientSession, url: str) -> aiohttp.ClientResponse:
    async with session.get(url) as response:
        response.raise_for_status()
        return response  # BUG: LW305


async def title(session: aiohttp.ClientSession, url: str) -> str:
    response = await get(session, url)
    return (await response.text())[:80]
