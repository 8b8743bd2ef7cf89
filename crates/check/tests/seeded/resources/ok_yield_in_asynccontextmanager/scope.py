import asyncio
from contextlib import asynccontextmanager


@asynccontextmanager
async def limited(seconds):
    async with asyncio.timeout(seconds):
        yield  # OK: a context manager, entered and left in one task


async def use(work):
    async with limited(3):
        await work()
