import asyncio


class Checkout:
    def __init__(self, ledger):
        self.ledger = ledger

    async def _commit(self, order):
        await self.ledger.write(order)
        await self.ledger.flush()

    async def finish(self, order):
        await asyncio.shield(self._commit(order))  # BUG: LW203
        return order.id
