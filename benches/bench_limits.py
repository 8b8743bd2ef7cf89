"""Semaphore, Lock, Event against asyncio's and anyio's. ``python benches/bench_limits.py [FILE.json]``"""

from __future__ import annotations

import asyncio
import sys

from harness import Case, Row, compare, loops, save

import loopwright

try:
    import anyio
except ImportError:
    anyio = None  # type: ignore[assignment]


# DESIGN section 7: more where `async with` binds its methods anew each time.
UNCONTENDED = 5.0 if sys.version_info[:2] in {(3, 11), (3, 13)} else 4.0


def uncontended(make: object) -> Case:
    async def case(n: int) -> None:
        lock = make()  # type: ignore[operator]
        for _ in range(n):
            async with lock:
                pass

    return case


def contended(make: object, tasks: int = 100) -> Case:
    async def case(n: int) -> None:
        semaphore = make()  # type: ignore[operator]

        async def worker() -> None:
            for _ in range(n // tasks):
                async with semaphore:
                    await asyncio.sleep(0)

        await asyncio.gather(*(worker() for _ in range(tasks)))

    return case


def woken_together(make: object, tasks: int = 100) -> Case:
    """``tasks`` waiters, all served in one turn."""

    async def case(n: int) -> None:
        semaphore = make()  # type: ignore[operator]

        async def waiter() -> None:
            for _ in range(n // tasks):
                await semaphore.acquire()

        waiters = [asyncio.ensure_future(waiter()) for _ in range(tasks)]
        for _ in range(n // tasks):
            await asyncio.sleep(0)
            for _ in range(tasks):
                semaphore.release()
            await asyncio.sleep(0)
        await asyncio.gather(*waiters)

    return case


def ping_pong(make: object) -> Case:
    async def case(n: int) -> None:
        ping, pong = make(), make()  # type: ignore[operator]

        async def other() -> None:
            for _ in range(n // 2):
                await ping.wait()
                ping.clear()
                pong.set()

        task = asyncio.ensure_future(other())
        for _ in range(n // 2):
            ping.set()
            await pong.wait()
            pong.clear()
        await task

    return case


def main() -> None:
    rows: list[Row] = []
    for name, factory in loops().items():
        settings = {"loop_factory": factory, "loop_name": name}
        peers = {"anyio": uncontended(lambda: anyio.Semaphore(1))} if anyio else {}
        rows += [
            compare(
                "Semaphore uncontended `async with`",
                {
                    "asyncio": uncontended(lambda: asyncio.Semaphore(1)),
                    "loopwright": uncontended(lambda: loopwright.Semaphore(1)),
                    **peers,
                },
                n=20_000,
                target=UNCONTENDED,
                **settings,  # type: ignore[arg-type]
            ),
            compare(
                "Lock uncontended `async with`",
                {
                    "asyncio.Semaphore": uncontended(lambda: asyncio.Semaphore(1)),
                    "loopwright": uncontended(loopwright.Lock),
                    "asyncio.Lock": uncontended(asyncio.Lock),
                },
                baseline="asyncio.Semaphore",
                n=20_000,
                target=UNCONTENDED,
                **settings,  # type: ignore[arg-type]
            ),
            compare(
                "Semaphore(10), 100 tasks contending",
                {
                    "asyncio": contended(lambda: asyncio.Semaphore(10)),
                    "loopwright": contended(lambda: loopwright.Semaphore(10)),
                    **({"anyio": contended(lambda: anyio.Semaphore(10))} if anyio else {}),
                },
                n=20_000,
                target=1.7,
                **settings,  # type: ignore[arg-type]
            ),
            compare(
                "100 waiters woken in one tick",
                {
                    "asyncio": woken_together(lambda: asyncio.Semaphore(0)),
                    "loopwright": woken_together(lambda: loopwright.Semaphore(0)),
                },
                n=20_000,
                target=3,
                **settings,  # type: ignore[arg-type]
            ),
            compare(
                "AdaptiveLimit uncontended `async with`",
                {
                    "asyncio.Semaphore": uncontended(lambda: asyncio.Semaphore(1)),
                    "loopwright": uncontended(loopwright.AdaptiveLimit),
                    "loopwright.Semaphore": uncontended(lambda: loopwright.Semaphore(1)),
                },
                baseline="asyncio.Semaphore",
                n=20_000,
                **settings,  # type: ignore[arg-type]
            ),
            compare(
                "Event set/wait ping-pong",
                {"asyncio": ping_pong(asyncio.Event), "loopwright": ping_pong(loopwright.Event)},
                n=10_000,
                **settings,  # type: ignore[arg-type]
            ),
        ]
    save(rows)


if __name__ == "__main__":
    main()
