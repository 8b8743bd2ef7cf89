import asyncio


class Parser:
    async def parse(self, reader):
        return (await reader.readline()).split()


async def handle(reader):
    async with asyncio.timeout(2):  # OK: readline waits
        return await Parser().parse(reader)
