import asyncio


class Jobs:
    def __init__(self, group: asyncio.TaskGroup):
        self.group = group

    def start(self, coro):
        return self.group.create_task(coro)


async def job():
    await asyncio.sleep(0)


async def main():
    async with asyncio.TaskGroup() as group:
        jobs = Jobs(group)
        jobs.start(job())  # OK: the group keeps and awaits it
