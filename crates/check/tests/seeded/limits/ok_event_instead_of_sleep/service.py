import asyncio


class Service:
    def __init__(self):
        self.stopping = asyncio.Event()

    async def run(self, check):
        while not self.stopping.is_set():
            await check()
            try:
                await asyncio.wait_for(self.stopping.wait(), 60)  # OK: hears at once
            except TimeoutError:
                pass


async def heartbeat(send):
    while True:
        await send()
        await asyncio.sleep(30)  # OK: ends by cancel, which is heard
