"""Limits in Redis against redis-py's own lock and a bare round trip. ``python benches/bench_redis.py [FILE.json]``

Of time that passed, on a Redis of its own on loopback (``tests/support/servers.py``), with one client of ten
connections: the median and the 99th percentile of one use. Nothing where redis-py or the server is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).resolve().parent.parent / place) for place in ("tests", "tools")]

from harness import Row, loops, percentile, rated, save

CONNECTIONS = 10
TASKS = 20
ROUNDS = 9

Use = Callable[[], Awaitable[object]]


async def one_after_the_other(use: Use, n: int) -> list[float]:
    """Seconds of each use."""
    spent = []
    for _ in range(n):
        began = time.perf_counter()
        await use()
        spent.append(time.perf_counter() - began)
    return spent


async def at_once(block: Callable[[], Any], n: int) -> list[float]:
    """20 tasks want it as fast as they get it: seconds that each wait took."""
    waits = []

    async def worker() -> None:
        for _ in range(n // TASKS):
            began = time.perf_counter()
            async with block():
                waits.append(time.perf_counter() - began)
                await asyncio.sleep(0)

    await asyncio.gather(*(worker() for _ in range(TASKS)))
    return waits


def entered(block: Callable[[], Any]) -> Use:
    async def use() -> None:
        async with block():
            pass

    return use


async def compared(  # noqa: PLR0913 (each is a setting of its own)
    operation: str,
    cases: dict[str, Callable[[int], Awaitable[list[float]]]],
    *,
    n: int,
    baseline: str,
    ours: str,
    target: float | None,
    loop_name: str,
) -> list[Row]:
    """Two rows: the median and the 99th percentile."""
    found: dict[float, dict[str, list[float]]] = {share: {case: [] for case in cases} for share in (0.5, 0.99)}
    for case in cases.values():
        await case(n // 4)
    for _ in range(ROUNDS):
        for name, case in cases.items():
            spent = await case(n)
            for share, values in found.items():
                values[name].append(percentile(spent, share))
    return [
        rated(Row(f"{operation}: p{share * 100:.0f}", baseline, ours, target, loop=loop_name), values)
        for share, values in found.items()
    ]


async def measured(url: str, loop_name: str) -> list[Row]:
    redis = importlib.import_module("redis.asyncio")
    shared = importlib.import_module("loopwright.integrations.redis")
    async with redis.Redis.from_pool(redis.BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS)) as client:
        common: dict[str, Any] = {"redis": client, "name": f"bench-{loop_name}"}
        lock, semaphore = shared.Lock(**common), shared.Semaphore(3, **common)
        limiter = shared.RateLimiter(1e9, **common)
        breaker = shared.CircuitBreaker(**common)

        def theirs() -> Any:
            return client.lock("bench-theirs", timeout=30)

        async def ping_twice() -> None:
            await client.ping()
            await client.ping()

        async def nothing() -> None:
            pass

        def sequential(use: Use) -> Callable[[int], Awaitable[list[float]]]:
            return lambda n: one_after_the_other(use, n)

        rows = await compared(
            "in Redis: take and give back, uncontended",
            {
                "redis-py Lock": sequential(entered(theirs)),
                "Lock": sequential(entered(lambda: lock)),
                "Semaphore": sequential(entered(lambda: semaphore)),
                "PING, twice": sequential(ping_twice),
            },
            n=400,
            baseline="redis-py Lock",
            ours="Lock",
            target=None,
            loop_name=loop_name,
        )
        rows += await compared(
            "in Redis: one question",
            {
                "PING": sequential(client.ping),
                "RateLimiter.acquire": sequential(limiter.acquire),
                "CircuitBreaker, closed": sequential(lambda: breaker.call(nothing)),
            },
            n=400,
            baseline="PING",
            ours="RateLimiter.acquire",
            target=None,
            loop_name=loop_name,
        )
        rows += await compared(
            "in Redis: wait for a lock that 20 tasks want",
            {
                "redis-py Lock": lambda n: at_once(theirs, n // 10),  # it asks ten times a second
                "Lock": lambda n: at_once(lambda: lock, n),
            },
            n=400,
            baseline="redis-py Lock",
            ours="Lock",
            target=None,
            loop_name=loop_name,
        )
        for limit in (lock, semaphore, breaker):
            await limit.aclose()
        return rows


def main() -> None:
    rows: list[Row] = []
    with contextlib.suppress(ImportError):
        importlib.import_module("redis.asyncio")
        import debian  # noqa: PLC0415 (tools/, as the servers need it)
        from support.servers import KINDS, Servers  # noqa: PLC0415

        if debian.find(KINDS["redis"].program) is not None:
            with Servers() as servers, servers.one("redis") as server:
                for name, factory in loops().items():
                    with asyncio.Runner(loop_factory=factory) as runner:
                        rows += runner.run(measured(server.url, name))
    save(rows)


if __name__ == "__main__":
    main()
