"""One of several processes that share a limit in Redis: ``-m support.redis_crowd URL KIND NAME SECONDS SETTINGS``.

What it does under the limit it writes to a stream on the server, whose order and clock are the judge: ``+n`` after it
has got permits and ``-n`` before it gives them back; of a rate, when the server had said that it may go.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextvars import ContextVar
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis

from loopwright.integrations.redis import RateLimiter, Semaphore

TASKS = 50


class Witnessed(RateLimiter):
    """Keeps what the server said, for the log."""

    place: ContextVar[str] = ContextVar("place")

    async def _reply(self, trip: asyncio.Task[Any], patience: float | None = None) -> Any:
        reply = await super()._reply(trip, patience)
        self.place.set(reply[2].decode())
        return reply


async def semaphore(redis: Any, name: str, end: float, settings: dict[str, Any]) -> None:
    shared = Semaphore(redis=redis, name=name, **settings)

    async def work(number: int) -> None:
        n = 1 + number % 3
        while time.monotonic() < end:
            async with shared.permit(n) as lease:
                entry = {"pid": os.getpid(), "token": lease.token}
                await redis.xadd(f"{name}:log", entry | {"n": n})
                await asyncio.sleep(0.001)
                await redis.xadd(f"{name}:log", entry | {"n": -n})

    await asyncio.gather(*(work(number) for number in range(TASKS)))
    await shared.aclose()


async def rate(redis: Any, name: str, end: float, settings: dict[str, Any]) -> None:
    limiter = Witnessed(redis=redis, name=name, **settings)

    async def work(number: int) -> None:
        n = 1 + number % 3
        while time.monotonic() < end:
            await limiter.acquire(n)
            await redis.xadd(f"{name}:log", {"n": n, "at": limiter.place.get()})

    await asyncio.gather(*(work(number) for number in range(TASKS)))


async def hold(redis: Any, name: str, settings: dict[str, Any]) -> None:
    """Takes all there is, stands in line for more, and waits to be killed."""
    shared = Semaphore(redis=redis, name=name, **settings)
    await shared.acquire(2)
    await asyncio.gather(*(shared.acquire() for _ in range(3)))


async def main(url: str, kind: str, name: str, seconds: float, settings: dict[str, Any]) -> None:
    pool = BlockingConnectionPool.from_url(url, max_connections=20, timeout=60, socket_timeout=None)
    async with Redis(connection_pool=pool) as redis:
        settings["reply_timeout"] = 60
        if kind == "hold":
            return await hold(redis, name, settings)
        await redis.incr(f"{name}:ready")
        await redis.blpop([f"{name}:go"], timeout=100)
        end = time.monotonic() + seconds
        await {"semaphore": semaphore, "rate": rate}[kind](redis, name, end, settings)


if __name__ == "__main__":
    url, kind, name, seconds, settings = sys.argv[1:]
    asyncio.run(main(url, kind, name, float(seconds), json.loads(settings)))
