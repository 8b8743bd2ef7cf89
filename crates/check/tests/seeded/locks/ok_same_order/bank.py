import asyncio

accounts = asyncio.Lock()
journal = asyncio.Lock()


async def transfer(store, amount):
    async with accounts, journal:
        await store.move(amount)


async def audit(store):
    async with accounts:
        async with journal:  # OK: the same order everywhere
            await store.check()
