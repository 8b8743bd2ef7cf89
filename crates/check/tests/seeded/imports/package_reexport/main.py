import shop


async def product(sku: str):
    return shop.find_product(sku)
