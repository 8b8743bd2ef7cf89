"""A hundred thousand waiters, a million tasks, a million timeouts leave nothing behind; cycles are collected."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from support.loops import run

import loopwright
from loopwright import (
    BoundedSemaphore,
    CancelToken,
    Event,
    Keyed,
    Lock,
    PriorityQueue,
    Queue,
    Semaphore,
    TaskGroup,
    amap,
    finish,
    race,
    timeout,
)

WAITERS = 100_000
MILLION = 1_000_000
MOST = 2 * 2**20
"""Bytes of growth that are none: a hundred thousand of anything that leaks need more."""
ROUNDS = 5
"""The allocators grow for a round or two; what leaks grows in each."""


def rss() -> int:
    """Bytes of memory that the process has now."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * 4096
    except OSError:
        pytest.skip("/proc/self/statm is Linux")


def objects() -> int:
    gc.collect()
    return len(gc.get_objects())


async def leaves_nothing(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs it until a round leaves the process as large as it was; Python's objects are counted in each."""
    await work()
    more = 0
    for number in range(ROUNDS):
        live, before = objects(), rss()
        await work()
        grown, more = objects() - live, rss() - before
        print(f"{work.__qualname__}, round {number}: {more / 2**20:+.1f} MiB, {grown:+} objects")
        assert grown < 100
        if more < MOST:
            return
    raise AssertionError(f"grew by {more} bytes in the last of {ROUNDS} rounds")


def waiting(make: Callable[[], tuple[Callable[[], Any], Callable[[], Any]]], *, cancelled: bool) -> Any:
    async def crowd() -> None:
        wait, let_go = make()
        tasks = [asyncio.create_task(wait()) for _ in range(WAITERS)]
        await asyncio.sleep(0)
        if cancelled:
            for task in tasks:
                task.cancel()
        else:
            let_go()
        await asyncio.wait(tasks)

    return crowd


def semaphore() -> tuple[Any, Any]:
    semaphore = Semaphore(0)
    return semaphore.acquire, lambda: semaphore.release(WAITERS)


def bounded_semaphore() -> tuple[Any, Any]:
    semaphore = BoundedSemaphore(0)
    return semaphore.acquire, lambda: setattr(semaphore, "limit", WAITERS)


def lock() -> tuple[Any, Any]:
    lock = Lock()
    lock.try_acquire()

    async def wait() -> None:
        async with lock:
            pass

    return wait, lock.release


def event() -> tuple[Any, Any]:
    event = Event()
    return event.wait, event.set


def getters() -> tuple[Any, Any]:
    queue: Queue[int] = Queue()
    return queue.get, lambda: [queue.put_nowait(n) for n in range(WAITERS)]


def putters() -> tuple[Any, Any]:
    queue: PriorityQueue[int] = PriorityQueue(1)
    queue.put_nowait(0)

    def drain() -> None:
        async def get() -> None:
            for _ in range(WAITERS + 1):
                await queue.get()

        asyncio.get_running_loop().drain = asyncio.create_task(get())  # type: ignore[attr-defined]

    return lambda: queue.put(1), drain


def token() -> tuple[Any, Any]:
    token = CancelToken()
    return token.wait, token.cancel


@pytest.mark.usefixtures("only_new_garbage")
@pytest.mark.default_only
@pytest.mark.timeout(300)
@pytest.mark.parametrize("cancelled", [False, True], ids=["served", "cancelled"])
@pytest.mark.parametrize("make", [semaphore, bounded_semaphore, lock, event, getters, putters, token])
def test_a_hundred_thousand_waiters_leave_nothing(make: Any, cancelled: bool) -> None:
    crowd = waiting(make, cancelled=cancelled)
    crowd.__qualname__ = f"{WAITERS} at {make.__name__}, {'cancelled' if cancelled else 'served'}"
    run(lambda: leaves_nothing(crowd))


async def nothing(*_: object) -> None:
    pass


async def half_a_million_tasks() -> None:
    for _ in range(MILLION // 2 // 10_000):
        async with TaskGroup() as group:
            for _ in range(10_000):
                group.create_task(nothing())


async def half_a_million_timeouts() -> None:
    for _ in range(MILLION // 2):
        async with timeout(60):
            pass


async def half_a_million_items() -> None:
    queue: Queue[int] = Queue(10)

    async def produce() -> None:
        for n in range(MILLION // 2):
            await queue.put(n)
        queue.shutdown()

    producer = asyncio.create_task(produce())
    async for _ in queue:
        pass
    await producer


async def thousands_of_maps_races_and_finishes() -> None:
    for _ in range(2_000):
        await amap(nothing, range(3), limit=2)
        await race(nothing(), nothing())
        await finish(nothing())


PER_HOST: Keyed[int, Semaphore] = Keyed(lambda _: Semaphore(8), max_keys=1_000)
"""One that lives on, as they do: what it leaves behind would be found in it."""


async def a_million_keys() -> None:
    for n in range(MILLION // 2):
        async with PER_HOST[n]:
            pass
    for n in range(MILLION // 2):
        PER_HOST[-n]
    assert len(PER_HOST) == 1_000


async def a_crowd_of_keys_in_use() -> None:
    for n in range(WAITERS):
        PER_HOST[n].try_acquire()
    assert len(PER_HOST) >= WAITERS
    for n in range(WAITERS):
        PER_HOST[n].release()
    PER_HOST.sweep()
    assert len(PER_HOST) == 1_000


async def timeouts_that_fire() -> None:
    for _ in range(20_000):
        try:
            async with timeout(0):
                await asyncio.sleep(1)
        except TimeoutError:
            pass


@pytest.mark.usefixtures("only_new_garbage")
@pytest.mark.default_only
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "work",
    [
        half_a_million_tasks,
        half_a_million_timeouts,
        half_a_million_items,
        thousands_of_maps_races_and_finishes,
        timeouts_that_fire,
        a_million_keys,
        a_crowd_of_keys_in_use,
    ],
)
def test_a_million_leave_nothing(work: Any) -> None:
    run(lambda: leaves_nothing(work))


@pytest.mark.usefixtures("only_new_garbage")
@pytest.mark.parametrize(
    "make",
    [
        lambda: Semaphore(2),
        lambda: BoundedSemaphore(2),
        Lock,
        Event,
        Queue,
        loopwright.LifoQueue,
        PriorityQueue,
        TaskGroup,
    ],
)
def test_a_cycle_through_an_attribute_is_collected(make: Callable[[], Any]) -> None:
    kind = type(make())
    cyclic = type("Cyclic", (kind,), {})
    references = []

    async def main() -> None:  # some ask for the running loop
        for _ in range(50):
            thing = cyclic() if kind is not BoundedSemaphore else cyclic(1)
            thing.itself = thing
            references.append(weakref.ref(thing))

    run(main)
    gc.collect()
    assert not any(reference() is not None for reference in references)


@pytest.mark.usefixtures("only_new_garbage")
def test_a_cycle_through_an_item_is_collected() -> None:
    class Item:
        queue: object

    item = Item()
    queue: Queue[Item] = Queue()
    item.queue = queue
    queue.put_nowait(item)
    reference = weakref.ref(item)
    del item, queue
    gc.collect()
    assert reference() is None


def test_waits_leave_no_references(cell: Any) -> None:
    """What a task held while it waited is let go when it ends, without a collection."""

    class Payload:
        pass

    async def main() -> None:
        payload = Payload()
        reference = weakref.ref(payload)
        queue: Queue[Payload] = Queue()
        semaphore = Semaphore(1)

        async def hand_on() -> None:
            async with semaphore, timeout(60):
                await queue.put(await queue.get())

        task = asyncio.create_task(hand_on())
        await asyncio.sleep(0)
        queue.put_nowait(payload)
        await task
        await queue.get()
        references = sys.getrefcount(payload)
        assert references <= 3, gc.get_referrers(payload)
        del payload
        assert reference() is None

    gc.disable()
    try:
        run(main, cell)
    finally:
        gc.enable()
