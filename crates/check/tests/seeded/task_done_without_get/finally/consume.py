import asyncio


async def consume(queue: asyncio.Queue, handle) -> None:
    while True:
        try:
            item = await queue.get()  # BUG: LW507
            await handle(item)
        except ValueError as error:
            print(error)
        finally:
            queue.task_done()  # BUG: LW507
