"""Flaws that take hours to show, or that show in how long something took: found in virtual time, in milliseconds.

Each asserts on the loop's clock or lets an hour pass. On a real clock nobody waits for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

from corpus import defect, healthy


def now() -> float:
    """The loop's clock."""
    return asyncio.get_running_loop().time()


@defect("unbounded growth", found_by="time")
async def finished_tasks_kept() -> None:
    """The service keeps each finished task in a list "to await them later"."""
    kept: list[asyncio.Task[None]] = []

    async def service() -> None:
        while True:
            kept.append(asyncio.create_task(asyncio.sleep(0.1)))
            await asyncio.sleep(1)

    task = asyncio.create_task(service())
    try:
        await asyncio.sleep(60)
        assert len(kept) <= 10, f"{len(kept)} tasks kept after a minute"
    finally:
        task.cancel()
        await asyncio.wait([task])


@healthy("finished tasks are dropped", like=finished_tasks_kept)
async def finished_tasks_dropped() -> None:
    """A set, and `add_done_callback(discard)`."""
    kept: set[asyncio.Task[None]] = set()

    async def service() -> None:
        while True:
            task = asyncio.create_task(asyncio.sleep(0.1))
            kept.add(task)
            task.add_done_callback(kept.discard)
            await asyncio.sleep(1)

    task = asyncio.create_task(service())
    try:
        await asyncio.sleep(60)
        assert len(kept) <= 10, f"{len(kept)} tasks kept after a minute"
    finally:
        task.cancel()
        await asyncio.wait([task, *kept])


@defect("awaited one after the other", found_by="time")
async def awaited_in_turn() -> None:
    """`[await fetch(url) for url in urls]` takes the sum of the times, not the longest."""
    started = now()
    for _ in range(10):
        await asyncio.sleep(1)
    assert now() - started <= 1


@healthy("all at once", like=awaited_in_turn)
async def awaited_at_once() -> None:
    """`gather` takes the longest of the times."""
    started = now()
    await asyncio.gather(*[asyncio.sleep(1) for _ in range(10)])
    assert now() - started <= 1


async def slow_call(seconds: float) -> None:
    await asyncio.sleep(seconds)
    raise ConnectionError


async def attempts(call: Callable[[], Awaitable[None]], timeout: float) -> None:
    """Three attempts, each with its own timeout."""
    for _ in range(3):
        try:
            async with asyncio.timeout(timeout):
                await call()
        except (TimeoutError, ConnectionError):
            continue
        return
    raise TimeoutError


@defect("a timeout per attempt taken for a timeout in all", found_by="time")
async def timeout_per_attempt() -> None:
    """The caller allows 5 seconds; the retry gives each of its three attempts 5 seconds."""
    started = now()
    try:
        await attempts(lambda: slow_call(60), 5)
    except TimeoutError:
        pass
    assert now() - started <= 5


@healthy("one deadline around all attempts", like=timeout_per_attempt)
async def timeout_in_all() -> None:
    """`asyncio.timeout(5)` outside, the attempts inside."""
    started = now()
    try:
        async with asyncio.timeout(5):
            await attempts(lambda: slow_call(60), 2)
    except TimeoutError:
        pass
    assert now() - started <= 5


@defect("drift: the interval starts when the work ends", found_by="time")
async def interval_drifts() -> None:
    """`work(); sleep(60)` is not every minute."""
    ticks = []

    async def every_minute() -> None:
        while True:
            ticks.append(now())
            await asyncio.sleep(3)  # the work
            await asyncio.sleep(60)

    task = asyncio.create_task(every_minute())
    try:
        await asyncio.sleep(3600 - 1)
        assert len(ticks) == 60, f"{len(ticks)} ticks in an hour"
    finally:
        task.cancel()
        await asyncio.wait([task])


@healthy("the next time is computed, not counted", like=interval_drifts)
async def interval_kept() -> None:
    """It sleeps until the next multiple of a minute."""
    ticks = []

    async def every_minute() -> None:
        started = now()
        while True:
            ticks.append(now())
            await asyncio.sleep(3)
            await asyncio.sleep(started + 60 * len(ticks) - now())

    task = asyncio.create_task(every_minute())
    try:
        await asyncio.sleep(3600 - 1)
        assert len(ticks) == 60, f"{len(ticks)} ticks in an hour"
    finally:
        task.cancel()
        await asyncio.wait([task])


@defect("timer leaked: it fires after the close", found_by="time")
async def timer_left_armed() -> None:
    """`close` forgets the idle timer, which fires a minute later on a closed session."""
    session = SimpleNamespace(closed=False, late=0)

    def on_idle() -> None:
        session.late += session.closed

    asyncio.get_running_loop().call_later(60, on_idle)
    await asyncio.sleep(1)
    session.closed = True
    await asyncio.sleep(120)
    assert not session.late


@healthy("timer cancelled by the close", like=timer_left_armed)
async def timer_cancelled() -> None:
    """The handle of `call_later` is kept, and cancelled."""
    session = SimpleNamespace(closed=False, late=0)

    def on_idle() -> None:
        session.late += session.closed

    timer = asyncio.get_running_loop().call_later(60, on_idle)
    try:
        await asyncio.sleep(1)
    finally:
        session.closed = True
        timer.cancel()
    await asyncio.sleep(120)
    assert not session.late


@defect("a pool that forgets how many it may run", found_by="time")
async def concurrency_decays() -> None:
    """A limit by a list that is never emptied: after the first five, one at a time."""
    tasks: list[asyncio.Task[None]] = []
    started = now()
    for _ in range(25):
        if len(tasks) >= 5:
            await asyncio.wait([tasks[-1]])
        tasks.append(asyncio.create_task(asyncio.sleep(1)))
    await asyncio.wait(tasks)
    assert now() - started <= 5


@healthy("a semaphore knows how many run", like=concurrency_decays)
async def concurrency_kept() -> None:
    """Five at once, from the first to the last."""
    permits = asyncio.Semaphore(5)

    async def job() -> None:
        async with permits:
            await asyncio.sleep(1)

    started = now()
    await asyncio.gather(*[job() for _ in range(25)])
    assert now() - started <= 5


@defect("backoff that starts anew with each success in between", found_by="time")
async def retry_storm() -> None:
    """A flapping server answers every second call; the delay never grows, and it is asked 9,600 times an hour."""
    calls = []

    async def poll() -> None:
        delay = 0.5
        while True:
            calls.append(now())
            if len(calls) % 2:
                delay *= 2
            else:
                delay = 0.25
            await asyncio.sleep(delay)

    task = asyncio.create_task(poll())
    try:
        await asyncio.sleep(3600)
        assert len(calls) <= 1000, f"{len(calls)} calls in an hour"
    finally:
        task.cancel()
        await asyncio.wait([task])
