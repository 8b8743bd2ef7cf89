import asyncio


class Token:
    async def _refresh(self):
        await asyncio.sleep(0.1)
        self.value = "new"

    def refresh(self):
        return self._refresh()
