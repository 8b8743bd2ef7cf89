import asyncio


async def messages(source, limit):
    async with asyncio.timeout(limit):
        async for message in source:
            yield message  # BUG: LW302


async def show(source):
    async for message in messages(source, 10):
        print(message)
