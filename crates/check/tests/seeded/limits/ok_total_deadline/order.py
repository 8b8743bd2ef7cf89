import asyncio


async def order(shop, basket):
    async with asyncio.timeout(2):  # OK: one limit for both
        stock = await shop.reserve(basket)
        return stock, await shop.pay(basket)
