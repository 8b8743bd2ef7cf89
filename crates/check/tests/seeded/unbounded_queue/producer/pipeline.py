import asyncio


class Pipeline:
    def __init__(self):
        self.lines = asyncio.Queue()  # BUG: LW408

    def on_line(self, line):
        self.lines.put_nowait(line)

    async def consume(self, sink):
        while True:
            await sink.write(await self.lines.get())
