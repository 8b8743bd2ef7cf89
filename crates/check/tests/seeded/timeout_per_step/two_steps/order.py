import asyncio


async def order(shop, basket):
    """Has to be over within two seconds."""
    stock = await asyncio.wait_for(shop.reserve(basket), 1)
    receipt = await asyncio.wait_for(shop.pay(basket), 1)  # BUG: LW409
    return stock, receipt
