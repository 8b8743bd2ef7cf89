import asyncio
import logging

log = logging.getLogger(__name__)


async def worker(queue: asyncio.Queue, handle) -> None:
    while True:
        item = await queue.get()
        try:
            await handle(item)
        except:  # BUG: LW204
            log.exception("item failed")
