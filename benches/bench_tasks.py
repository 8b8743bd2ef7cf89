"""TaskGroup, race and Background against their peers. ``python benches/bench_tasks.py [FILE.json]``

The row's floor is what no group can go below without wrapping the user's coroutine (DESIGN section 3, rule 8): the
loop's own ``create_task`` and a done callback that does nothing.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import Any

from harness import Case, Row, compare, loops, save

import loopwright

SPAWNED = 10_000


def peer(name: str) -> Any:
    """A library, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


anyio, aiotools, aiojobs = peer("anyio"), peer("aiotools"), peer("aiojobs")


async def nothing() -> None:
    pass


def group_of(make: Callable[[], Any]) -> Case:
    async def case(n: int) -> None:
        async with make() as group:
            for _ in range(n):
                group.create_task(nothing())

    return case


async def floor(n: int) -> None:
    """create_task and a no-op done callback in a shared context; the last one wakes the waiter."""
    loop = asyncio.get_running_loop()
    alive: set[asyncio.Task[None]] = set()

    def ignore(_task: asyncio.Task[None]) -> None:
        pass

    for _ in range(n):
        task = loop.create_task(nothing())
        alive.add(task)
        task.add_done_callback(ignore)
    await task


async def spawned(n: int) -> None:
    async with loopwright.TaskGroup(limit=100) as group:
        for _ in range(n):
            await group.spawn(nothing)


async def semaphored(n: int) -> None:
    """What people write for a limit: a semaphore that is acquired before the task is made."""
    semaphore = asyncio.Semaphore(100)
    async with asyncio.TaskGroup() as group:
        for _ in range(n):
            await semaphore.acquire()
            group.create_task(nothing()).add_done_callback(lambda _: semaphore.release())


async def anyio_group(n: int) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(n):
            group.start_soon(nothing)


async def aiojobs_scheduler(n: int) -> None:
    async with aiojobs.Scheduler(limit=None) as scheduler:
        jobs = [await scheduler.spawn(nothing()) for _ in range(n)]
        for job in jobs:
            await job.wait()


async def background(n: int) -> None:
    async with loopwright.Background() as jobs:
        for _ in range(n):
            jobs.spawn(nothing())


async def background_sets(n: int) -> None:
    """The idiom of asyncio's documentation: a set that keeps the tasks, and a callback that discards them."""
    tasks: set[asyncio.Task[None]] = set()
    for _ in range(n):
        task = asyncio.create_task(nothing())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    while tasks:
        await asyncio.wait(tasks)


async def raced(n: int) -> None:
    for _ in range(n):
        await loopwright.race(nothing(), nothing())


async def raced_by_hand(n: int) -> None:
    for _ in range(n):
        tasks = [asyncio.ensure_future(nothing()), asyncio.ensure_future(nothing())]
        done, losers = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in losers:
            task.cancel()
        await asyncio.gather(*losers, return_exceptions=True)
        done.pop().result()


def main() -> None:
    rows: list[Row] = []
    for name, factory in loops().items():
        settings: dict[str, Any] = {"loop_factory": factory, "loop_name": name}
        peers = {
            **({"anyio": anyio_group} if anyio else {}),
            **({"aiotools": group_of(aiotools.TaskGroup)} if aiotools else {}),
        }
        rows += [
            compare(
                "TaskGroup spawn + wait, 1e4",
                {
                    "asyncio": group_of(asyncio.TaskGroup),
                    "loopwright": group_of(loopwright.TaskGroup),
                    "create_task + no-op callback": floor,
                    **peers,
                },
                n=SPAWNED,
                target=1.2,
                **settings,
            ),
            compare(
                "TaskGroup(limit=100) spawn, 1e4",
                {"asyncio": semaphored, "loopwright": spawned},
                n=SPAWNED,
                **settings,
            ),
            compare("race of two", {"asyncio": raced_by_hand, "loopwright": raced}, n=2_000, **settings),
        ]
        if hasattr(loopwright, "Background"):
            rows.append(
                compare(
                    "Background spawn + close, 1e4",
                    {
                        "asyncio": background_sets,
                        "loopwright": background,
                        **({"aiojobs": aiojobs_scheduler} if aiojobs else {}),
                    },
                    n=SPAWNED,
                    **settings,
                )
            )
    save(rows)


if __name__ == "__main__":
    main()
