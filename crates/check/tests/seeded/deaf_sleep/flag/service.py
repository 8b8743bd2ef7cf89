import asyncio


class Service:
    def __init__(self):
        self.running = True

    def stop(self):
        self.running = False

    async def run(self, check):
        while self.running:
            await check()
            await asyncio.sleep(60)  # BUG: LW410
