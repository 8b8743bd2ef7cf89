import asyncio


class Connector:
    def __init__(self):
        self.permits = asyncio.Semaphore(4)

    async def run(self, host, command):
        async with self.permits:
            reader, writer = await asyncio.open_connection(host, 22)
            try:
                writer.write(command)
                return await reader.read()  # OK: used inside
            finally:
                writer.close()
