import asyncio
import time


class Sync:
    def send(self, data):
        time.sleep(0.1)


class Async:
    async def send(self, data):
        await asyncio.sleep(0.1)


async def send(client: Sync | Async, data):
    if isinstance(client, Sync):
        await asyncio.to_thread(client.send, data)  # OK: offloaded on this side
    else:
        await client.send(data)  # OK: async on this one
