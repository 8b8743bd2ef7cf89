import asyncio


class Hasher:
    def digest(self, data: bytes) -> str:
        return data.hex()

    async def digest_async(self, data: bytes) -> str:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, self.digest(data))  # BUG: LW107
