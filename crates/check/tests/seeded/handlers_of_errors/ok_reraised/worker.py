import asyncio
import logging

log = logging.getLogger(__name__)


async def guarded(work, cleanup):
    try:
        return await work()
    except asyncio.CancelledError:
        log.info("cancelled")
        raise  # OK
    except BaseException:
        cleanup()
        raise  # OK


async def resilient(work):
    try:
        await work()
    except Exception:  # OK: does not catch CancelledError
        log.exception("failed")
