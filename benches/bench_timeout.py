"""timeout and CancelToken against asyncio's, anyio's. ``python benches/bench_timeout.py [FILE.json]``"""

from __future__ import annotations

import asyncio
import gc

from harness import Case, Row, compare, loops, save

import loopwright

try:
    import anyio
except ImportError:
    anyio = None  # type: ignore[assignment]


def enter_exit(make: object, turn_every: int | None = None) -> Case:
    """A timeout that never fires, with the collector on, as programs run.

    asyncio's timers are cancelled and not removed: they stay in the heap until the next turn of the loop, at least, and
    the collector visits them. So its cost depends on how many come and go between two turns; ours does not.
    """

    async def case(n: int) -> None:
        gc.enable()
        for i in range(n):
            async with make(60):  # type: ignore[operator]
                pass
            if turn_every and i % turn_every == 0:
                await asyncio.sleep(0)

    return case


def nested(make: object) -> Case:
    async def case(n: int) -> None:
        gc.enable()
        async with make(120), make(90):  # type: ignore[operator]
            for _ in range(n):
                async with make(60):  # type: ignore[operator]
                    pass

    return case


async def anyio_fail_after(n: int) -> None:
    gc.enable()
    for _ in range(n):
        with anyio.fail_after(60):
            pass


def expiring(make: object) -> Case:
    """A timeout that expires at once."""

    async def case(n: int) -> None:
        for _ in range(n):
            try:
                async with make(0):  # type: ignore[operator]
                    await asyncio.sleep(60)
            except TimeoutError:
                pass

    return case


def sleepers(sleep: object, tasks: int = 1_000) -> Case:
    """``tasks`` sleeps that are cancelled before they end."""

    async def case(n: int) -> None:
        for _ in range(n // tasks):
            asleep = [asyncio.ensure_future(sleep(60 + i)) for i in range(tasks)]  # type: ignore[operator]
            await asyncio.sleep(0)
            for task in asleep:
                task.cancel()
            await asyncio.gather(*asleep, return_exceptions=True)

    return case


def main() -> None:
    rows: list[Row] = []
    token = loopwright.CancelToken()
    for name, factory in loops().items():
        cases = {"asyncio": enter_exit(asyncio.timeout), "loopwright": enter_exit(loopwright.timeout)}
        if anyio is not None:
            cases["anyio.fail_after"] = anyio_fail_after
        rows.append(compare("timeout enter/exit", cases, n=100_000, target=9, loop_factory=factory, loop_name=name))
        cases = {"asyncio": enter_exit(asyncio.timeout, 100), "loopwright": enter_exit(loopwright.timeout, 100)}
        rows.append(compare("timeout, 100 a turn", cases, n=20_000, loop_factory=factory, loop_name=name))
        cases = {"asyncio": nested(asyncio.timeout), "loopwright": nested(loopwright.timeout)}
        rows.append(compare("timeout enter/exit, nested", cases, n=20_000, loop_factory=factory, loop_name=name))
        cases = {"asyncio": expiring(asyncio.timeout), "loopwright": expiring(loopwright.timeout)}
        rows.append(compare("timeout that expires", cases, n=5_000, loop_factory=factory, loop_name=name))
        cases = {"asyncio": sleepers(asyncio.sleep), "loopwright": sleepers(token.sleep)}
        rows.append(compare("sleep, cancelled, 1,000 at once", cases, n=5_000, loop_factory=factory, loop_name=name))
    save(rows)


if __name__ == "__main__":
    main()
