import asyncio
import queue


class Inbox:
    def __init__(self) -> None:
        self._items: queue.Queue[bytes] = queue.Queue()

    def put(self, item: bytes) -> None:
        self._items.put(item)

    def next(self) -> bytes:
        return self._items.get()  # BUG: LW101


async def pump(inbox: Inbox, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(inbox.next())
        await writer.drain()
