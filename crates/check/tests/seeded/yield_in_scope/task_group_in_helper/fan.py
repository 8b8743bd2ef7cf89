import asyncio
from contextlib import asynccontextmanager


@asynccontextmanager
async def workers(n, run):
    async with asyncio.TaskGroup() as group:
        for _ in range(n):
            group.create_task(run())
        yield group


async def results(queue, run):
    async with workers(4, run):
        while True:
            yield await queue.get()  # BUG: LW302
