"""offload against asyncio.to_thread and anyio: calls that take no time: the way there and back.

``python benches/bench_offload.py [FILE.json]``
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable

import anyio.to_process
import anyio.to_thread
from harness import Row, compare, save

from loopwright import offload


def nothing() -> None:
    """The work."""


def one_by_one(call: Callable[[], Awaitable[object]]) -> Callable[[int], Awaitable[object]]:
    async def case(n: int) -> None:
        for _ in range(n):
            await call()

    return case


def at_once(call: Callable[[], Awaitable[object]], tasks: int) -> Callable[[int], Awaitable[object]]:
    """So many tasks, each of which makes one call after another."""

    async def case(n: int) -> None:
        async def calls() -> None:
            for _ in range(n // tasks):
                await call()

        await asyncio.gather(*(calls() for _ in range(tasks)))

    return case


THREADS: dict[str, Callable[[], Awaitable[object]]] = {
    "asyncio.to_thread": lambda: asyncio.to_thread(nothing),
    "anyio.to_thread": lambda: anyio.to_thread.run_sync(nothing),
    "loopwright": lambda: offload(nothing),
}

pool = concurrent.futures.ProcessPoolExecutor(1)

PROCESSES: dict[str, Callable[[], Awaitable[object]]] = {
    "ProcessPoolExecutor": lambda: asyncio.get_running_loop().run_in_executor(pool, nothing),
    "anyio.to_process": lambda: anyio.to_process.run_sync(nothing),
    "loopwright": lambda: offload(nothing, on="process"),
}


def main() -> None:
    rows: list[Row] = [
        compare(
            "a call in a thread, one by one",
            {name: one_by_one(call) for name, call in THREADS.items()},
            n=1_000,
            baseline="asyncio.to_thread",
            target=2.0,
        ),
        compare(
            "calls in threads, from 20 tasks",
            {name: at_once(call, 20) for name, call in THREADS.items()},
            n=2_000,
            baseline="asyncio.to_thread",
            target=2.0,
        ),
        compare(
            "a call in a process, one by one",
            {name: one_by_one(call) for name, call in PROCESSES.items()},
            n=300,
            baseline="ProcessPoolExecutor",
        ),
    ]
    save(rows)
    pool.shutdown()


if __name__ == "__main__":
    main()
