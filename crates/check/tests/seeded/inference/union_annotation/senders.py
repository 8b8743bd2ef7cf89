import asyncio
import time


class Fast:
    def ack(self) -> None:
        pass


class Slow:
    def ack(self) -> None:
        time.sleep(0.3)  # BUG: LW101


async def consume(queue: asyncio.Queue, sender: Fast | Slow) -> None:
    while True:
        await queue.get()
        sender.ack()
