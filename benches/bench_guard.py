"""What the guard of ``loopwright run`` costs for each task created. ``python benches/bench_guard.py [FILE.json]``"""

from __future__ import annotations

import asyncio

from harness import Case, compare, loops, save

from loopwright._launch.places import INSIDE
from loopwright._loopwright import TaskFactory

BATCH = 100


async def nothing() -> None:
    pass


async def spawn(n: int) -> None:
    for _ in range(n // BATCH):
        for task in [asyncio.create_task(nothing()) for _ in range(BATCH)]:
            await task


def with_factory(factory: object) -> Case:
    async def case(n: int) -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)  # type: ignore[arg-type]
        try:
            await spawn(n)
        finally:
            loop.set_task_factory(None)

    return case


def plain_python(loop: asyncio.AbstractEventLoop, coro: object, **kwargs: object) -> object:
    """The least that a task factory can do."""
    return asyncio.Task(coro, loop=loop, **kwargs)  # type: ignore[arg-type]


def main() -> None:
    cases = {
        "asyncio": with_factory(None),
        "guarded": with_factory(TaskFactory(INSIDE)),
        "a factory that adds nothing": with_factory(plain_python),
    }
    save(
        [
            compare(
                "create_task + await, guarded", cases, n=20_000, ours="guarded", loop_name=name, loop_factory=factory
            )
            for name, factory in loops().items()
        ]
    )


if __name__ == "__main__":
    main()
