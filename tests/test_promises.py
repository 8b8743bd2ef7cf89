"""Promises that hold across objects: deadlines at their time, groups that lose no error, everything at once."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from support.cancels import EVERY_STEP, cancels, in_cell
from support.loops import PLAIN, Cell

from loopwright import BoundedSemaphore, Event, Lock, Queue, TaskGroup, timeout
from loopwright.testing import Play, cancel_sweep, random_cancels

VIRTUAL = pytest.approx


async def nested_timeouts_fire_at_their_time(play: Play) -> None:
    """Five tasks with two timeouts each, the inner one sometimes later than the outer."""
    fired: list[float] = []

    async def user(outer: float, inner: float) -> None:
        loop, start = play.loop, play.loop.time()
        with pytest.raises(TimeoutError):
            async with timeout(outer):
                try:
                    async with timeout(inner):
                        await asyncio.sleep(100)
                except TimeoutError:
                    assert loop.time() - start == VIRTUAL(inner)
                    fired.append(inner)
                await asyncio.sleep(100)
        assert loop.time() - start == VIRTUAL(outer)
        fired.append(outer)

    for name, (outer, inner) in zip("abcde", [(5, 2), (3, 1), (4, 9), (2.5, 0.5), (7, 6)], strict=True):
        play.spawn(user(outer, inner), name=name)
    await play.finished()
    assert fired == sorted(fired)


async def timeouts_under_random_cancels(play: Play) -> None:
    rng, loop = play.rng, play.loop

    async def user() -> None:
        for _ in range(rng.randint(1, 4)):
            limit, work, start = rng.randint(1, 30) / 10, rng.randint(1, 30) / 10 + 0.05, loop.time()
            try:
                async with timeout(limit) as deadline:
                    if rng.random() < 0.3:
                        limit = rng.randint(1, 30) / 10
                        deadline.reschedule(start + limit)
                    await asyncio.sleep(work)
            except TimeoutError:
                assert limit < work
                assert loop.time() - start == VIRTUAL(limit)
            else:
                assert work < limit
                assert loop.time() - start == VIRTUAL(work)

    for number in range(rng.randint(2, 8)):
        play.spawn(user(), name=f"user-{number}")
    await play.finished()


async def a_limited_group_keeps_its_limit(play: Play) -> None:
    alive = 0

    async def child() -> None:
        nonlocal alive
        alive += 1
        assert alive <= 2
        try:
            await asyncio.sleep(0)
        finally:
            alive -= 1

    async def parent() -> None:
        async with TaskGroup(limit=2) as group:
            for _ in range(4):
                await group.spawn(child)
        assert alive == 0, "the group ended before its tasks"

    play.spawn(parent(), name="parent")
    await play.finished()
    assert alive == 0, "a task outlived its group"


async def spawners_pass_on_their_slot(play: Play) -> None:
    """Three tasks spawn into one group for one task at a time."""
    started: list[str] = []
    group = TaskGroup(limit=1)

    async def child(name: str) -> None:
        started.append(name)
        await asyncio.sleep(0)

    async def spawner(name: str) -> None:
        await group.spawn(child, name)

    async with group:
        for name in "abc":
            play.spawn(spawner(name), name=name)
        await play.finished()
    assert started == sorted(started)
    assert len(started) == sum(not task.cancelled() for task in play.tasks.values())


async def a_failing_group_loses_no_error(play: Play) -> None:
    raised: set[str] = set()

    async def child(name: str, delay: int) -> None:
        try:
            for _ in range(delay):
                await asyncio.sleep(0)
        finally:
            raised.add(name)
            raise ValueError(name)

    async def parent() -> None:
        try:
            async with TaskGroup() as group:
                for delay, name in enumerate(("first", "second", "third"), 1):
                    group.create_task(child(name, delay))
        except* ValueError as errors:
            assert {str(error) for error in errors.exceptions} == raised

    play.spawn(parent(), name="parent", catches=True)
    await play.finished()


async def a_service_under_random_cancels(play: Play) -> None:
    """Queue, semaphore, lock, event, timeout and group in one small service."""
    rng = play.rng
    queue: Queue[int] = Queue(2)
    limit, lock, ready = BoundedSemaphore(2), Lock(), Event()
    log: list[int] = []
    taken: list[int] = []
    running = 0

    async def work(item: int) -> None:
        nonlocal running
        async with limit:
            running += 1
            assert running <= 2
            try:
                async with timeout(rng.choice((None, 5.0))):
                    await play.pause(2)
                    async with lock:
                        log.append(item)
            finally:
                running -= 1

    async def server() -> None:
        await ready.wait()
        async with TaskGroup(limit=3) as group:
            async for item in queue:
                taken.append(item)
                queue.task_done()
                await group.spawn(work, item)

    numbers = itertools.count()
    put: list[int] = []

    async def client() -> None:
        for _ in range(rng.randint(1, 4)):
            item = next(numbers)
            await queue.put(item)
            put.append(item)
            await play.pause(1)

    servers = [play.spawn(server(), name=f"server-{n}") for n in range(2)]
    clients = [play.spawn(client(), name=f"client-{n}") for n in range(3)]
    await play.pause(3)
    ready.set()
    while not all(task.done() for task in clients):
        await asyncio.sleep(0)
        while all(task.done() for task in servers) and not queue.empty():
            taken.append(queue.get_nowait())
    queue.shutdown()
    await play.finished()
    while not queue.empty():
        taken.append(queue.get_nowait())
    assert sorted(taken) == sorted(put)
    assert set(log) <= set(taken)
    assert (limit.value, limit.waiting, lock.locked(), running) == (2, 0, False, 0)


SWEEPS = [
    (nested_timeouts_fire_at_their_time, "a"),
    (nested_timeouts_fire_at_their_time, "d"),
    (a_limited_group_keeps_its_limit, "parent"),
    (spawners_pass_on_their_slot, "b"),
    (spawners_pass_on_their_slot, "c"),
    (a_failing_group_loses_no_error, "parent"),
]


@pytest.mark.parametrize(("scenario", "victim"), SWEEPS, ids=[f"{s.__name__}-{v}" for s, v in SWEEPS])
def test_a_cancel_at_every_step(scenario: Any, victim: str) -> None:
    assert cancel_sweep(scenario, victims=victim, **EVERY_STEP).count("cancel") >= 3


@pytest.mark.parametrize("scenario", [timeouts_under_random_cancels, a_service_under_random_cancels])
def test_random_cancels(scenario: Any) -> None:
    random_cancels(scenario, cancels(share=0.1), seed=5, level="task")


def test_random_cancels_in_every_cell(cell: Cell) -> None:
    if cell != PLAIN:
        random_cancels(
            a_service_under_random_cancels, cancels(cell=cell, share=0.2), seed=6, level="task", **in_cell(cell)
        )
