import asyncio


class Listener:
    def __init__(self, source):
        self.source = source
        self.closed = False

    async def run(self):
        while not self.closed:
            try:
                message = await self.source.receive()
                await self.handle(message)
            except asyncio.CancelledError:  # BUG: LW204
                print("receive was cancelled")
            except ConnectionError:
                await self.source.reconnect()

    async def handle(self, message):
        print(message)
