import asyncio
import time


class SyncClient:
    def fetch(self, key):
        time.sleep(1)
        return key


class AsyncClient:
    async def fetch(self, key):
        await asyncio.sleep(1)
        return key
