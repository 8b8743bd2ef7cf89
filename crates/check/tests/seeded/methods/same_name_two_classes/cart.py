from clients import AsyncInventory, Inventory


class Cart:
    def __init__(self) -> None:
        self.remote = AsyncInventory()
        self.legacy = Inventory()
        self.lines: list[str] = []

    async def available(self) -> bool:
        for sku in self.lines:
            if await self.remote.stock(sku) == 0 and self.legacy.stock(sku) == 0:
                return False
        return True
