"""The sweep itself: it passes what is right, and finds what is broken."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

import pytest
from support.sweep import Failure, Play, count_steps, random_schedules, sweep


async def semaphore_keeps_its_permits(play: Play) -> None:
    semaphore = asyncio.Semaphore(2)

    async def user() -> None:
        async with semaphore:
            await play.pause()

    for name in "abcde":
        play.spawn(user(), name=name)
    await play.finished()
    assert semaphore._value == 2, f"{semaphore._value} of 2 permits are left"
    assert not semaphore.locked()


def queue_scenario(make_queue: type) -> object:
    async def queue_keeps_its_items(play: Play) -> None:
        queue = make_queue(2)
        put: list[int] = []
        got: list[int] = []

        async def producer(first: int) -> None:
            for item in range(first, first + 3):
                await play.pause()
                await queue.put(item)
                put.append(item)

        async def consumer() -> None:
            while True:
                got.append(await queue.get())
                await play.pause()

        producers = [play.spawn(producer(first), name=f"producer-{first}") for first in (0, 10)]
        consumers = [play.spawn(consumer(), name=f"consumer-{n}") for n in (1, 2)]
        while not all(task.done() for task in producers):
            await asyncio.sleep(0)
            while all(task.done() for task in consumers) and not queue.empty():
                got.append(queue.get_nowait())  # the consumers were cancelled: take their part
        for task in consumers:
            task.cancel()
        await play.finished()
        while not queue.empty():
            got.append(queue.get_nowait())
        assert sorted(got) == sorted(put), f"put {put}, got {got}"

    return queue_keeps_its_items


class LossyQueue(asyncio.Queue):
    """Hands an item to a waiting getter before the getter runs, as some libraries do: a cancel loses it."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self.waiting: deque[asyncio.Future[int]] = deque()

    def _put(self, item: int) -> None:
        while self.waiting:
            waiter = self.waiting.popleft()
            if not waiter.done():
                waiter.set_result(item)
                return
        super()._put(item)

    async def get(self) -> int:
        if not self.empty():
            return self.get_nowait()
        waiter = asyncio.get_running_loop().create_future()
        self.waiting.append(waiter)
        return await waiter


async def one_item(play: Play) -> None:
    queue, got = LossyQueue(), []

    async def consumer() -> None:
        got.append(await queue.get())

    async def producer() -> None:
        await asyncio.sleep(0)
        await queue.put(1)

    play.spawn(consumer(), name="consumer-1")
    play.spawn(producer(), name="producer")
    await play.finished()
    assert len(got) + queue.qsize() == 1, "lost"


class ForgetfulSemaphore(asyncio.Semaphore):
    """Forgets to pass on the wake-up of a waiter that is cancelled after it was woken."""

    async def acquire(self) -> bool:
        while self._value <= 0:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters = self._waiters or deque()
            self._waiters.append(waiter)
            await waiter
        self._value -= 1
        return True

    def release(self) -> None:
        self._value += 1
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


async def forgetful(play: Play) -> None:
    semaphore = ForgetfulSemaphore(1)

    async def user() -> None:
        await semaphore.acquire()
        await asyncio.sleep(0)
        semaphore.release()

    for name in "abc":
        play.spawn(user(), name=name)
    await play.finished()


async def swallows(play: Play) -> None:
    async def deaf() -> None:
        for _ in range(3):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)

    play.spawn(deaf(), name="deaf")
    await play.finished()


def test_asyncio_semaphore_passes() -> None:
    result = sweep(semaphore_keeps_its_permits, victim="c")
    assert result.points >= 5
    assert result.doubles > result.points
    assert random_schedules(semaphore_keeps_its_permits, 500, seed=1) >= 500


def test_asyncio_queue_passes() -> None:
    scenario = queue_scenario(asyncio.Queue)
    sweep(scenario, victim="consumer-1")
    sweep(scenario, victim="producer-0")
    random_schedules(scenario, 500, seed=1)


def test_a_lost_item_is_found() -> None:
    with pytest.raises(Failure, match=r"consumer-1 cancelled at step \d+: AssertionError: lost"):
        sweep(one_item, victim="consumer-1", second=False)
    with pytest.raises(Failure, match=r"seed=3, only=\d+"):
        random_schedules(queue_scenario(LossyQueue), 2000, seed=3)


def test_a_lost_wake_up_is_a_hang_that_names_the_cancel_point() -> None:
    with pytest.raises(Failure, match=r"(?s)b cancelled at step \d+: hangs after \d+ steps; asleep:.*  c \("):
        sweep(forgetful, victim="b")


def test_a_swallowed_cancel_is_found() -> None:
    with pytest.raises(Failure, match="swallowed"):
        sweep(swallows, victim="deaf")


def test_a_failing_run_can_be_repeated() -> None:
    with pytest.raises(Failure) as first:
        random_schedules(queue_scenario(LossyQueue), 5000, seed=7)
    run = int(str(first.value).split("only=")[1].split(")")[0])
    with pytest.raises(Failure) as again:
        random_schedules(queue_scenario(LossyQueue), 1, seed=7, only=run)
    assert str(again.value) == str(first.value)


def test_time_is_virtual() -> None:
    async def naps(play: Play) -> None:
        async def nap() -> None:
            await asyncio.sleep(3600)

        play.spawn(nap(), name="nap")
        await play.finished()

    assert count_steps(naps) > 0
    sweep(naps, victim="nap")


def test_any_loop_will_do() -> None:
    uvloop = pytest.importorskip("uvloop")
    sweep(semaphore_keeps_its_permits, victim="c", loop_factory=uvloop.new_event_loop)
    random_schedules(semaphore_keeps_its_permits, 300, loop_factory=uvloop.new_event_loop)
    random_schedules(semaphore_keeps_its_permits, 300, setup=lambda loop: loop.set_debug(True))
