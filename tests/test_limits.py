"""Semaphore, BoundedSemaphore, Lock, Event: promises 1, 2, 4 and 13 of DESIGN section 5, and asyncio's contract.

No permit is lost or doubled, whatever is cancelled when and how; waiters are served in order, weighted ones included;
freed permits are somebody's in the same turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import gc
import inspect
import itertools
import logging
import os
import pickle
import random
import sys
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
from support.cancels import EVERY_STEP, cancels, in_cell
from support.loops import PLAIN, Cell, VirtualLoop, run

import loopwright
from loopwright import BoundedSemaphore, Event, Lock, LoopMismatch, Semaphore, _loopwright, errors
from loopwright.testing import Play, cancel_sweep, random_cancels

Limit = Semaphore | Lock
"""What has permits; a BoundedSemaphore is a Semaphore."""

LIMITS: list[Callable[[], Limit]] = [Semaphore, lambda: BoundedSemaphore(1), Lock]
each_limit = pytest.mark.parametrize("make", LIMITS, ids=["Semaphore", "BoundedSemaphore", "Lock"])
ALL = [*LIMITS, Event]
each_object = pytest.mark.parametrize("make", ALL, ids=["Semaphore", "BoundedSemaphore", "Lock", "Event"])


async def turns(n: int = 3) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def blocked(make: Callable[[], Any]) -> tuple[Any, Callable[[], Any]]:
    """An object that makes its next waiter wait, and the method to be awaited."""
    thing = make()
    if isinstance(thing, Event):
        return thing, thing.wait
    assert thing.try_acquire()
    return thing, thing.acquire


def unblock(thing: Any) -> None:
    thing.set() if isinstance(thing, Event) else thing.release()


# ------------------------------------------------------------------------------- promise 1: a cancel loses no permit


@each_limit
def test_promise_1_cancelled_in_the_tick_of_the_wake_up_passes_the_permit_on(cell: Cell, make: Any) -> None:
    async def main() -> None:
        limit = make()
        await limit.acquire()
        victim, heir = (asyncio.create_task(limit.acquire(), name=name) for name in ("victim", "heir"))
        await turns()
        assert limit.waiting == 2
        limit.release()  # reserved for the victim ...
        assert limit.value == 0 and limit.locked()
        victim.cancel()  # ... which is cancelled before it runs
        with pytest.raises(asyncio.CancelledError):
            await victim
        assert await heir is True
        assert (limit.value, limit.waiting) == (0, 0)
        limit.release()
        assert (limit.value, limit.locked()) == (1, False)

    run(main, cell)


@each_limit
def test_promise_1_cancelled_before_the_wake_up_in_the_same_tick(cell: Cell, make: Any) -> None:
    async def main() -> None:
        limit = make()
        await limit.acquire()
        victim, heir = (asyncio.create_task(limit.acquire()) for _ in range(2))
        await turns()
        victim.cancel()
        assert limit.waiting == 1, "a cancelled waiter leaves the line at once"
        limit.release()
        await heir
        assert victim.cancelled()
        assert (limit.value, limit.waiting) == (0, 0)

    run(main, cell)


@each_limit
def test_promise_1_the_last_waiter_cancelled_after_its_wake_up_frees_the_permit(cell: Cell, make: Any) -> None:
    async def main() -> None:
        limit = make()
        async with limit:
            victim = asyncio.create_task(limit.acquire())
            await turns()
        victim.cancel()
        await asyncio.wait([victim])
        assert victim.cancelled()
        assert (limit.value, limit.locked(), limit.waiting) == (1, False, 0)

    run(main, cell)


def test_promise_1_a_wake_up_and_a_cancel_of_everybody_in_one_tick(cell: Cell) -> None:
    async def main() -> None:
        semaphore = Semaphore(0)
        tasks = [asyncio.create_task(semaphore.acquire(n)) for n in (1, 2, 3, 1)]
        await turns()
        semaphore.release(7)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        assert (semaphore.value, semaphore.waiting) == (7, 0)

    run(main, cell)


def test_promise_1_a_cancelled_big_request_lets_the_small_ones_behind_it_pass(cell: Cell) -> None:
    async def main() -> None:
        semaphore = Semaphore(1)
        big = asyncio.create_task(semaphore.acquire(5))
        small = asyncio.create_task(semaphore.acquire())
        await turns()
        assert not small.done()
        big.cancel()
        await small
        assert semaphore.value == 0

    run(main, cell)


def test_promise_1_the_cancelled_error_is_the_one_that_arrived(cell: Cell) -> None:
    """A new CancelledError in its place escapes anyio's scopes, which know their own by its message."""

    async def main() -> None:
        lock = Lock()
        await lock.acquire()
        task = asyncio.create_task(lock.acquire())
        await turns()
        task.cancel("why")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("why",)
        task = asyncio.create_task(lock.acquire())
        await turns()
        lock.release()
        task.cancel("after the wake-up")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("after the wake-up",)
        assert not lock.locked()

    run(main, cell)


def test_promise_1_uncancel_and_cancelling_are_as_for_asyncio(cell: Cell) -> None:
    async def main() -> None:
        async def patient(lock: Any) -> tuple[int, int]:
            task = asyncio.current_task()
            assert task is not None
            try:
                await lock.acquire()
            except asyncio.CancelledError:
                before = task.cancelling()
                return before, task.uncancel()
            raise AssertionError("not cancelled")

        results = []
        for lock in (asyncio.Lock(), Lock()):
            await lock.acquire()
            task = asyncio.create_task(patient(lock))
            await turns()
            task.cancel()
            results.append(await task)
        assert results == [(1, 0), (1, 0)]

    run(main, cell)


async def semaphore_keeps_its_permits(play: Play) -> None:
    """Five users, weights 1 to 3, at three permits."""
    semaphore = BoundedSemaphore(3)
    out = 0

    async def user(n: int) -> None:
        nonlocal out
        async with semaphore.permit(n):
            out += n
            assert out <= 3
            try:
                await asyncio.sleep(0)
            finally:
                out -= n

    for name, n in zip("abcde", (2, 1, 3, 1, 2), strict=True):
        play.spawn(user(n), name=name)
    await play.finished()
    assert (semaphore.value, semaphore.waiting, semaphore.locked()) == (3, 0, False)


async def an_unfair_semaphore_keeps_its_permits(play: Play) -> None:
    semaphore = Semaphore(1, fair=False)

    async def user() -> None:
        for _ in range(2):
            async with semaphore:
                await asyncio.sleep(0)

    for name in "abcd":
        play.spawn(user(), name=name)
    await play.finished()
    assert (semaphore.value, semaphore.waiting) == (1, 0)


async def the_lock_excludes(play: Play) -> None:
    lock = Lock()
    inside: list[str] = []

    async def user(name: str) -> None:
        async with lock:
            assert not inside
            inside.append(name)
            try:
                await asyncio.sleep(0)
            finally:
                inside.remove(name)

    for name in "abcd":
        play.spawn(user(name), name=name)
    await play.finished()
    assert not lock.locked() and lock.waiting == 0


async def the_event_wakes_all(play: Play) -> None:
    event = Event()
    passed: list[str] = []

    async def waiter(name: str) -> None:
        assert await event.wait() is True
        passed.append(name)

    async def setter() -> None:
        await turns(2)
        event.set()
        event.clear()  # too late: those who stood in line pass
        await turns(2)

    for name in "abc":
        play.spawn(waiter(name), name=name)
    setting = play.spawn(setter(), name="setter", catches=True)
    await asyncio.wait([setting])
    event.set()
    await play.finished()
    for name in "abc":
        assert (name in passed) is not play.tasks[name].cancelled()
    assert event.waiting == 0


async def grants_pass_on_in_order(play: Play) -> None:
    """Waiters a, b, c; three permits come one by one. Whoever is cancelled, the others are served in order."""
    semaphore = Semaphore(0)
    served: list[str] = []

    async def waiter(name: str) -> None:
        await semaphore.acquire()
        served.append(name)

    async def giver() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            semaphore.release()

    for name in "abc":
        play.spawn(waiter(name), name=name)
    giving = play.spawn(giver(), name="giver")
    await asyncio.wait([giving])
    await turns(4)
    missing = sum(not task.done() for task in play.tasks.values())
    if missing:  # the giver was cancelled
        assert giving.cancelled()
        semaphore.release(missing)
    await play.finished()
    assert served == sorted(served)
    assert len(served) == sum(not play.tasks[name].cancelled() for name in "abc")


SWEEPS = [
    (semaphore_keeps_its_permits, "bc"),
    (an_unfair_semaphore_keeps_its_permits, "bc"),
    (the_lock_excludes, "bc"),
    (the_event_wakes_all, ["b", "setter"]),
    (grants_pass_on_in_order, ["a", "b", "giver"]),
]


@pytest.mark.parametrize(
    ("scenario", "victim"), [pytest.param(s, v, id=f"{s.__name__}-{v}") for s, vs in SWEEPS for v in vs]
)
def test_promise_1_a_cancel_at_every_step(cell: Cell, scenario: Any, victim: str) -> None:
    assert cancel_sweep(scenario, victims=victim, **EVERY_STEP, **in_cell(cell)).count("cancel") >= 2


class Ledger:
    """What is out, and who stands in line in what order: the naive twin of a limit."""

    def __init__(self, permits: int) -> None:
        self.permits = permits
        self.out = 0
        self.line: list[int] = []
        self.tickets = itertools.count()

    @contextlib.contextmanager
    def waits(self) -> Iterator[Callable[[], None]]:
        """Around an acquire that may stand in line; call the result when it was served."""
        ticket = next(self.tickets)
        self.line.append(ticket)

        def served() -> None:
            earlier = list(itertools.takewhile(lambda number: number != ticket, self.line))
            if earlier:
                # They have been cancelled or served too, and have yet to run: a cancel in the step in which a waiter
                # joins the line (Play.step) can wake it before its task watches for that.
                loop = asyncio.get_running_loop()
                loop.call_soon(loop.call_soon, overtaken, earlier)

        def overtaken(earlier: list[int]) -> None:
            for number in earlier:
                assert number not in self.line, f"number {ticket} was served before number {number}"

        try:
            yield served
        finally:
            self.line.remove(ticket)

    @contextlib.contextmanager
    def holds(self, n: int) -> Iterator[None]:
        self.out += n
        assert self.out <= self.permits, f"{self.out} of {self.permits} permits are out"
        try:
            yield
        finally:
            self.out -= n


def semaphore_traffic(make: Callable[[random.Random], Semaphore], *, resize: bool = False) -> Any:  # noqa: PLR0915 (a story of its own)
    """Users of every kind at a small semaphore: weighted, with timeouts, in scopes, without waiting."""

    async def semaphore_under_random_cancels(play: Play) -> None:  # noqa: PLR0915
        rng = play.rng
        semaphore = make(rng)
        most = permits = semaphore.value
        ledger = Ledger(permits + (3 if resize else 0))
        fair = semaphore.stats().fair

        async def block(acquire: Awaitable[Any]) -> None:
            with ledger.waits() as served:
                await acquire
                if fair:
                    served()

        async def user() -> None:
            for _ in range(rng.randint(1, 3)):
                await play.pause(2)
                n = rng.randint(1, most)
                how = rng.random()
                if how < 0.2:
                    if not semaphore.try_acquire(n):
                        continue
                elif how < 0.3:
                    try:
                        async with asyncio.timeout(rng.choice((0, 1e-9, 1))):
                            await block(semaphore.acquire(n))
                    except TimeoutError:
                        continue
                elif how < 0.4:
                    with anyio.move_on_after(rng.choice((0, 1))) as scope:
                        await block(semaphore.acquire(n))
                    if scope.cancelled_caught:
                        continue
                elif how < 0.6:
                    async with semaphore.permit(n):
                        with ledger.holds(n):
                            await play.pause(2)
                    continue
                else:
                    await block(semaphore.acquire(n))
                try:
                    with ledger.holds(n):
                        await play.pause(2)
                finally:
                    semaphore.release(n)

        async def resizer() -> None:
            assert isinstance(semaphore, BoundedSemaphore)
            try:
                for _ in range(rng.randint(1, 4)):
                    await play.pause(2)
                    semaphore.limit = permits + rng.randint(0, 3)
            finally:
                semaphore.limit = permits

        for number in range(rng.randint(2, 6)):
            play.spawn(user(), name=f"user-{number}")
        if resize:
            play.spawn(resizer(), name="resizer")
        await play.finished()
        assert (semaphore.value, semaphore.waiting, ledger.out) == (permits, 0, 0)
        assert not semaphore.locked()

    return semaphore_under_random_cancels


def named(scenario: Any, name: str) -> Any:
    scenario.__qualname__ = name
    return scenario


async def lock_under_random_cancels(play: Play) -> None:
    rng = play.rng
    lock = Lock()
    ledger = Ledger(1)

    async def user() -> None:
        for _ in range(rng.randint(1, 3)):
            await play.pause(2)
            how = rng.random()
            if how < 0.2:
                if lock.try_acquire():
                    try:
                        with ledger.holds(1):
                            await play.pause(2)
                    finally:
                        lock.release()
            elif how < 0.35:
                with anyio.move_on_after(0), contextlib.ExitStack() as stack:
                    await lock.acquire()
                    stack.callback(lock.release)
                    with ledger.holds(1):
                        await play.pause(2)
            else:
                with ledger.waits() as served:
                    await lock.acquire()
                    served()
                try:
                    with ledger.holds(1):
                        await play.pause(2)
                finally:
                    lock.release()

    for number in range(rng.randint(2, 6)):
        play.spawn(user(), name=f"user-{number}")
    await play.finished()
    assert (lock.locked(), lock.waiting, ledger.out) == (False, 0, 0)


async def event_under_random_cancels(play: Play) -> None:
    rng = play.rng
    event = Event()
    state = {"sets": 0}

    async def waiter() -> None:
        for _ in range(rng.randint(1, 4)):
            await play.pause(2)
            sets, was_set = state["sets"], event.is_set()
            if rng.random() < 0.3:
                with anyio.move_on_after(0) as scope:
                    await event.wait()
                if scope.cancelled_caught:
                    continue
            else:
                await event.wait()
            assert was_set or state["sets"] > sets, "passed before the event was set"

    async def setter() -> None:
        while True:
            await play.pause(3)
            state["sets"] += 1
            event.set()
            if rng.random() < 0.7:
                event.clear()

    for number in range(rng.randint(2, 6)):
        play.spawn(waiter(), name=f"waiter-{number}")
    setting = asyncio.create_task(setter())
    await play.finished()
    setting.cancel()
    await asyncio.wait([setting])
    assert event.waiting == 0


def any_bounded(rng: random.Random) -> Semaphore:
    return BoundedSemaphore(rng.choice((1, 2, 3, 5)))


def any_plain(rng: random.Random) -> Semaphore:
    return Semaphore(rng.choice((1, 2, 3, 5)))


def any_unfair(rng: random.Random) -> Semaphore:
    return Semaphore(rng.choice((1, 2, 3)), fair=False)


RANDOM = {
    "Semaphore": (semaphore_traffic(any_plain), 0.6),
    "Semaphore(fair=False)": (semaphore_traffic(any_unfair), 0.4),
    "BoundedSemaphore": (semaphore_traffic(any_bounded), 0.6),
    "BoundedSemaphore with a limit that changes": (semaphore_traffic(any_bounded, resize=True), 0.4),
    "Lock": (lock_under_random_cancels, 1.0),
    "Event": (event_under_random_cancels, 1.0),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", RANDOM)
def test_promise_1_random_cancels(what: str) -> None:
    scenario, share = RANDOM[what]
    random_cancels(named(scenario, f"{what} under cancels"), cancels(share=share), seed=1)


@pytest.mark.parametrize("what", RANDOM)
def test_promise_1_random_cancels_in_every_cell(cell: Cell, what: str) -> None:
    if cell != PLAIN:
        scenario, share = RANDOM[what]
        random_cancels(
            named(scenario, f"{what} under cancels, {cell}"), cancels(cell=cell, share=share), seed=2, **in_cell(cell)
        )


# --------------------------------------------------------------------------------------------------- promise 2: FIFO


@each_limit
def test_promise_2_first_come_first_served(cell: Cell, make: Any) -> None:
    async def main() -> None:
        limit = make()
        await limit.acquire()
        order: list[int] = []

        async def user(number: int) -> None:
            async with limit:
                order.append(number)

        tasks = [asyncio.create_task(user(number)) for number in range(20)]
        await turns()
        limit.release()
        await asyncio.gather(*tasks)
        assert order == list(range(20))

    run(main, cell)


def test_promise_2_a_big_request_is_not_starved_by_small_ones(cell: Cell) -> None:
    async def main() -> None:
        semaphore = Semaphore(4)
        await semaphore.acquire(4)
        order: list[str] = []

        async def user(name: str, n: int) -> None:
            await semaphore.acquire(n)
            order.append(name)

        tasks = [asyncio.create_task(user(name, n)) for name, n in (("big", 3), ("small", 1), ("two", 2))]
        await turns()
        for _ in range(2):
            semaphore.release()
            await turns()
            assert order == [] and semaphore.waiting == 3
        assert semaphore.value == 2  # kept together for the big one
        for _ in range(4):
            semaphore.release()
            await turns()
        assert order == ["big", "small", "two"]
        await asyncio.gather(*tasks)

    run(main, cell)


def test_promise_2_a_big_request_gets_its_turn_while_small_ones_keep_coming(cell: Cell) -> None:
    async def main() -> None:
        semaphore = Semaphore(3)
        running, served = True, 0

        async def small() -> None:
            nonlocal served
            while running:
                async with semaphore:
                    served += 1
                    await asyncio.sleep(0)

        tasks = [asyncio.create_task(small()) for _ in range(9)]
        await turns(20)
        before = served
        async with semaphore.permit(3):
            assert served - before <= 9 + 3, "the nine who came before, and those inside, no more"
        running = False
        await asyncio.gather(*tasks)

    run(main, cell)


@each_limit
def test_promise_2_nobody_barges(cell: Cell, make: Any) -> None:
    async def main() -> None:
        limit = make()
        await limit.acquire()
        waiter = asyncio.create_task(limit.acquire())
        await turns()
        assert not limit.try_acquire()
        limit.release()
        assert limit.locked(), "it is the waiter's already"
        assert not limit.try_acquire()
        late = asyncio.create_task(limit.acquire())
        await turns()
        assert waiter.done() and not late.done()
        limit.release()
        await late

    run(main, cell)


def test_promise_2_free_permits_too_few_for_the_first_in_line_are_not_for_newcomers(cell: Cell) -> None:
    async def main() -> None:
        semaphore = Semaphore(2)
        waiter = asyncio.create_task(semaphore.acquire(3))
        await turns()
        assert semaphore.value == 2
        assert not semaphore.try_acquire()
        assert semaphore.locked()
        semaphore.release()
        await waiter

    run(main, cell)


def test_promise_2_unless_unfair(cell: Cell) -> None:
    async def main() -> None:
        semaphore = Semaphore(1, fair=False)
        await semaphore.acquire()
        order: list[str] = []

        async def user(name: str) -> None:
            async with semaphore:
                order.append(name)

        tasks = [asyncio.create_task(user(name)) for name in "ab"]
        await turns()
        for _ in range(3):  # whoever runs takes what is free
            semaphore.release()
            assert semaphore.value == 1
            assert semaphore.try_acquire()
            await turns()
            assert order == []
        semaphore.release()
        await asyncio.gather(*tasks)
        assert order == ["a", "b"], "a waiter that was woken for nothing keeps its place"
        assert semaphore.value == 1

    run(main, cell)


def test_event_wakes_waiters_in_order_in_one_turn(cell: Cell) -> None:
    async def main() -> None:
        event = Event()
        order: list[int] = []

        async def waiter(number: int) -> None:
            assert await event.wait() is True
            order.append(number)

        tasks = [asyncio.create_task(waiter(number)) for number in range(100)]
        await turns()
        assert event.waiting == 100
        event.set()
        await asyncio.gather(*tasks)
        assert order == list(range(100))
        assert await event.wait() is True
        event.clear()
        assert not event.is_set()

    run(main, cell)


def test_event_a_woken_waiter_passes_though_the_flag_was_cleared(cell: Cell) -> None:
    async def main() -> None:
        event = Event()
        waiter = asyncio.create_task(event.wait())
        await turns()
        event.set()
        event.clear()
        late = asyncio.create_task(event.wait())
        assert await waiter is True
        await turns()
        assert not late.done()
        event.set()
        await late

    run(main, cell)


# ----------------------------------------------------------------------- promise 4: freed capacity wakes in the turn


def test_promise_4_a_release_reserves_in_the_same_turn(cell: Cell) -> None:
    async def main() -> None:
        semaphore = Semaphore(0)
        tasks = [asyncio.create_task(semaphore.acquire()) for _ in range(100)]
        await turns()
        semaphore.release(100)
        assert semaphore.value == 0, "reserved"
        done, _ = await asyncio.wait(tasks, timeout=0.5)
        assert len(done) == 100

    run(main, cell)


def test_promise_4_raising_the_limit_serves_waiters_at_once(cell: Cell) -> None:
    async def main() -> None:
        semaphore = BoundedSemaphore(1)
        await semaphore.acquire()
        tasks = [asyncio.create_task(semaphore.acquire()) for _ in range(3)]
        await turns()
        semaphore.limit = 3
        assert (semaphore.value, semaphore.limit) == (0, 3)
        await turns()
        assert [task.done() for task in tasks] == [True, True, False]
        semaphore.limit += 1
        await tasks[2]
        semaphore.release(4)
        assert semaphore.value == 4

    run(main, cell)


def test_a_limit_of_zero_is_a_pause(cell: Cell) -> None:
    async def main() -> None:
        semaphore = BoundedSemaphore(0)
        waiter = asyncio.create_task(semaphore.acquire())
        await turns()
        assert not semaphore.try_acquire() and semaphore.waiting == 1
        semaphore.limit = 1
        await waiter

    run(main, cell)


def test_promise_4_lowering_the_limit_takes_nothing_from_holders(cell: Cell) -> None:
    async def main() -> None:
        semaphore = BoundedSemaphore(3)
        await semaphore.acquire(3)
        waiter = asyncio.create_task(semaphore.acquire())
        await turns()
        semaphore.limit = 1
        assert (semaphore.limit, semaphore.value) == (1, -2)
        for _ in range(2):
            semaphore.release()
            await turns()
            assert not waiter.done()
        semaphore.release()
        await waiter
        assert semaphore.value == 0
        semaphore.release()
        with pytest.raises(ValueError, match="released too many times"):
            semaphore.release()

    run(main, cell)


def test_promise_4_a_cancelled_waiter_wakes_the_next(cell: Cell) -> None:
    async def main() -> None:
        semaphore = Semaphore(1)
        big = asyncio.create_task(semaphore.acquire(3))
        small = asyncio.create_task(semaphore.acquire())
        await turns()
        big.cancel()
        assert semaphore.value == 0, "reserved for the small one in the very turn of the cancel"
        await small

    run(main, cell)


# ----------------------------------------------------------------------------------------------- limits and misuse


def test_releasing_more_than_was_acquired_is_legal_for_a_semaphore() -> None:
    semaphore = Semaphore(1)
    semaphore.release()
    semaphore.release(3)
    assert semaphore.value == 5
    assert semaphore.try_acquire(5)


def test_releasing_more_than_was_acquired_raises_for_the_others() -> None:
    bounded = BoundedSemaphore(3)
    assert bounded.try_acquire(2)
    with pytest.raises(ValueError, match=r"release\(n=3\) while 2 of 3 permits are out"):
        bounded.release(3)
    bounded.release(2)
    with pytest.raises(ValueError, match=r"released too many times"):
        bounded.release()
    assert bounded.value == 3
    with pytest.raises(RuntimeError, match="not acquired"):
        Lock().release()


@pytest.mark.parametrize("make", LIMITS[1:], ids=["BoundedSemaphore", "Lock"])
def test_a_second_release_does_not_steal_what_is_reserved_for_the_next(cell: Cell, make: Any) -> None:
    async def main() -> None:
        limit = make()
        await limit.acquire()
        waiter = asyncio.create_task(limit.acquire())
        await turns()
        limit.release()
        with pytest.raises((ValueError, RuntimeError), match=r"too many times|not acquired"):
            limit.release()
        await waiter
        assert limit.value == 0 and not limit.try_acquire()
        limit.release()
        assert limit.value == 1

    run(main, cell)


def test_what_can_never_be_served_raises_at_once() -> None:
    bounded = BoundedSemaphore(2)
    for call in (bounded.acquire, bounded.try_acquire, bounded.permit):
        with pytest.raises(ValueError, match=r"n=3.*can never succeed.*2 permits in all.*raise the limit"):
            call(3)
    assert bounded.value == 2


WRONG_NUMBERS = [True, 1.0, float("nan"), "1", None.__class__, -1]


@pytest.mark.parametrize("wrong", WRONG_NUMBERS, ids=repr)
def test_misuse_names_the_value_and_the_fix(wrong: Any) -> None:
    shown = "NoneType" if wrong is None.__class__ else str(wrong)
    error = ValueError if wrong == -1 else TypeError
    fix = "0 or more" if wrong == -1 else "pass a whole number"
    bounded = BoundedSemaphore(2)

    def set_limit(value: Any) -> None:
        bounded.limit = value

    for what, make in {
        r"Semaphore\(value": Semaphore,
        r"BoundedSemaphore\(value": BoundedSemaphore,
        "limit": set_limit,
    }.items():
        with pytest.raises(error, match=f"{what}.*({fix}.*{shown}|{shown}.*{fix})"):
            make(wrong)
    assert bounded.limit == 2
    semaphore = Semaphore(5)
    fix = "1 or more" if wrong == -1 else fix
    for method in (semaphore.acquire, semaphore.try_acquire, semaphore.release, semaphore.permit):
        with pytest.raises(error, match=f"n.*({fix}.*{shown}|{shown}.*{fix})"):
            method(wrong)
    assert semaphore.value == 5


def test_zero_permits_are_not_asked_for_or_given() -> None:
    for method in (Semaphore().acquire, Semaphore().try_acquire, Semaphore().release, Semaphore().permit):
        with pytest.raises(ValueError, match="1 or more, got 0"):
            method(0)


def test_numbers_out_of_range() -> None:
    for call in (Semaphore, BoundedSemaphore, Semaphore().acquire, Semaphore().release):
        with pytest.raises(ValueError, match="out of range"):
            call(1 << 70)


def test_there_is_no_with_statement() -> None:
    for thing in (Semaphore(), BoundedSemaphore(1), Lock()):
        with pytest.raises((TypeError, AttributeError)), thing:  # type: ignore[attr-defined]
            pass


# -------------------------------------------------------------------------------------------------- loops and threads


@each_object
def test_another_loop_gets_a_clear_error_while_waiters_stand_in_line(make: Any) -> None:
    thing, wait = blocked(make)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        waiter = first.create_task(wait())
        first.run_until_complete(asyncio.sleep(0))
        with pytest.raises(LoopMismatch, match=r"different event loop: 1 waiter\(s\).*one object per loop") as caught:
            second.run_until_complete(wait())
        assert isinstance(caught.value, RuntimeError)
        assert thing.waiting == 1
        unblock(thing)
        assert first.run_until_complete(waiter) is True
        if not isinstance(thing, Event):
            other = second.create_task(wait())  # the first loop's have gone: it is free for another
            second.run_until_complete(asyncio.sleep(0))
            assert thing.waiting == 1
            unblock(thing)
            assert second.run_until_complete(other) is True
    finally:
        first.close()
        second.close()


@each_object
def test_one_object_outlives_loops(cell: Cell, make: Any) -> None:
    thing, wait = blocked(make)

    async def main() -> None:
        waiter = asyncio.create_task(wait())
        await turns()
        assert thing.waiting == 1
        unblock(thing)
        assert await waiter is True
        if isinstance(thing, Event):
            thing.clear()

    for _ in range(3):
        run(main, cell)
    assert thing.waiting == 0


@each_object
def test_a_loop_that_ends_with_waiters_leaves_the_object_free(cell: Cell, make: Any) -> None:
    thing, wait = blocked(make)

    async def main() -> None:
        task = asyncio.create_task(wait())  # cancelled by the runner
        await turns()
        assert not task.done()

    for _ in range(2):
        run(main, cell)
        assert thing.waiting == 0


def test_outside_of_a_loop() -> None:
    lock, semaphore, event = Lock(), Semaphore(2), Event()
    assert lock.try_acquire() and not lock.try_acquire()
    lock.release()
    assert semaphore.try_acquire(2) and semaphore.value == 0
    event.set()
    op = Semaphore(0).acquire()
    with pytest.raises(RuntimeError, match="no running event loop"):
        op.send(None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is a Unix call")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_after_a_fork_the_child_starts_anew() -> None:
    semaphore = Semaphore(1)

    async def use() -> None:
        async with semaphore:
            waiter = asyncio.create_task(semaphore.acquire())
            await turns()
        await waiter
        semaphore.release()

    async def main() -> int:
        await use()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                asyncio.events._set_running_loop(None)  # type: ignore[attr-defined]
                run(use)
                code = 0 if semaphore.value == 1 else 2
            finally:
                os._exit(code)
        await use()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])  # noqa: ASYNC222 (it ends at once)

    assert run(main) == 0


# ------------------------------------------------------------------------------------------------------------- memory


@each_object
def test_weak_references_and_dictionaries(make: Any) -> None:
    thing = make()
    reference = weakref.ref(thing)
    assert reference() is thing
    assert {thing: 1}[thing] == 1
    del thing
    assert reference() is None


@pytest.mark.usefixtures("only_new_garbage")
@each_object
def test_cycles_are_collected(make: Any) -> None:
    kind = type(make())
    cyclic = type("Cyclic", (kind,), {})
    gc.collect()
    references = []
    for _ in range(100):
        thing = cyclic(1) if issubclass(kind, BoundedSemaphore) else cyclic()
        thing.me = thing
        references.append(weakref.ref(thing))
    del thing
    gc.collect()
    assert not any(reference() for reference in references)


@pytest.mark.usefixtures("only_new_garbage")
@each_limit
def test_cycles_through_cached_methods_are_collected(cell: Cell, make: Any) -> None:
    async def main() -> list[Any]:
        references = []
        for _ in range(100):
            limit = make()
            async with limit:
                pass
            references.append(weakref.ref(limit))
        return references

    references = run(main, cell)
    gc.collect()
    assert not any(reference() for reference in references)


@pytest.mark.usefixtures("only_new_garbage")
@each_object
def test_an_abandoned_waiter_is_collected_with_its_object(make: Any) -> None:
    """Nobody can wake it any more: object, operation, future, task and coroutine are one cycle."""
    thing, wait = blocked(make)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # Task was destroyed but it is pending
    task = loop.create_task(wait())
    loop.run_until_complete(asyncio.sleep(0))
    assert thing.waiting == 1
    references = [weakref.ref(thing), weakref.ref(task)]
    loop.close()
    del thing, wait, task, loop
    gc.collect()
    assert not any(reference() for reference in references)


def test_an_abandoned_coroutine_leaves_the_line_at_once(cell: Cell) -> None:
    async def main() -> None:
        semaphore = Semaphore(1)
        await semaphore.acquire()

        async def user() -> None:
            await semaphore.acquire()

        coroutine = user()
        coroutine.send(None)
        heir = asyncio.create_task(semaphore.acquire())
        await turns()
        assert semaphore.waiting == 2
        semaphore.release()
        coroutine.close()  # it was served, it never ran
        await heir
        assert (semaphore.value, semaphore.waiting) == (0, 0)

    run(main, cell)


def test_an_operation_dropped_after_its_grant_gives_the_permit_back(cell: Cell) -> None:
    async def main() -> None:
        semaphore = Semaphore(0)
        op = semaphore.acquire()
        op.send(None)
        assert semaphore.waiting == 1
        semaphore.release()
        assert (semaphore.value, semaphore.waiting) == (0, 1)
        del op
        assert (semaphore.value, semaphore.waiting) == (1, 0)
        op = semaphore.acquire(2)
        op.send(None)
        del op  # it stands in line
        semaphore.release()
        assert (semaphore.value, semaphore.waiting) == (2, 0), "nobody is there any more to take them"

    run(main, cell)


# ---------------------------------------------------------------------------------------------- what the user sees


def test_subclasses_with_an_init_of_their_own(cell: Cell) -> None:
    class PerHost(Semaphore):
        def __init__(self, host: str, *, most: int = 2) -> None:
            super().__init__(most)
            self.host = host

    class Door(Lock):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    class Flag(Event):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    class Resizable(BoundedSemaphore):
        def __init__(self, *, config: dict[str, int]) -> None:
            super().__init__(config["limit"], fair=False)

    class Careless(Semaphore):
        def __init__(self, name: str) -> None:  # forgets super().__init__()
            self.name = name

    async def main() -> None:
        host = PerHost("a.example", most=1)
        async with host:
            waiter = asyncio.create_task(host.acquire())
            await turns()
            assert host.locked() and host.host == "a.example"
        await waiter
        async with Door("d") as bound:
            assert bound is None
        flag = Flag("f")
        flag.set()
        await flag.wait()
        assert Resizable(config={"limit": 4}).stats() == loopwright.SemaphoreStats(4, 4, 0, 0, 0, False)
        assert Careless("c").value == 1
        assert "PerHost" in repr(host)

    run(main, cell)


def test_overridden_methods_are_called(cell: Cell) -> None:
    class Counting(Semaphore):
        releases = 0

        def release(self, n: int = 1) -> None:
            self.releases += n
            super().release(n)

        async def acquire(self, n: int = 1) -> bool:  # type: ignore[override]
            return await super().acquire(n)

    async def main() -> None:
        semaphore = Counting(1)
        await semaphore.acquire()
        semaphore.release()
        assert semaphore.releases == 1

    run(main, cell)


def test_repr() -> None:
    async def main() -> None:
        assert repr(Semaphore(2)).startswith("<loopwright.Semaphore object at 0x")
        assert "[unlocked, value:2]" in repr(Semaphore(2))
        assert "[locked, value:0]" in repr(Semaphore(0))
        assert "[unlocked, value:2, limit:2]" in repr(BoundedSemaphore(2))
        assert "[unlocked]" in repr(Lock())
        assert "[unset]" in repr(Event())
        lock = Lock()
        await lock.acquire()
        op = lock.acquire()
        assert repr(op) == "<Lock.acquire not started>"
        task = asyncio.create_task(op)
        await turns()
        assert "[locked, waiters:1]" in repr(lock)
        assert repr(op) == "<Lock.acquire waiting>"
        assert "Lock.acquire" in repr(task), "a task names what it waits for"
        lock.release()
        await task
        assert repr(op) == "<operation finished>"
        event = Event()
        waiter = asyncio.create_task(event.wait())
        await turns()
        assert "[unset, waiters:1]" in repr(event)
        event.set()
        await waiter
        assert "[set]" in repr(event)
        assert "permit(2) of <loopwright.Semaphore" in repr(Semaphore(3).permit(2))

    run(main)


def test_stats(cell: Cell) -> None:
    async def main() -> None:
        semaphore = Semaphore(1)
        assert semaphore.stats() == loopwright.SemaphoreStats(1, None, 0, 0, 0, True)
        await semaphore.acquire()
        waiter = asyncio.create_task(semaphore.acquire())
        await turns()
        assert semaphore.stats() == loopwright.SemaphoreStats(0, None, 1, 1, 1, True)
        semaphore.release()
        await waiter
        assert semaphore.stats() == loopwright.SemaphoreStats(0, None, 0, 2, 1, True)
        assert BoundedSemaphore(3, fair=False).stats() == loopwright.SemaphoreStats(3, 3, 0, 0, 0, False)
        assert Lock().stats() == loopwright.LockStats(1, 1, 0, 0, 0, True)
        event = Event()
        assert event.stats() == loopwright.EventStats(False, 0)
        event.set()
        assert event.stats() == loopwright.EventStats(True, 0)
        with pytest.raises(dataclasses.FrozenInstanceError):
            event.stats().set = False  # type: ignore[misc]

    run(main, cell)


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_pickle_and_have_one_root(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, errors.LoopwrightError)
    if issubclass(kind, BaseExceptionGroup):
        return  # tested with what raises it
    more = ("the result",) if name in ("ProcessError", "ProcessTimeout") else ()
    error = kind("what, 3 of 4, do this", *more)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and again.args == error.args and vars(again) == vars(error)


def test_a_raised_loop_mismatch_pickles() -> None:
    lock = Lock()
    assert lock.try_acquire()
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    waiter = first.create_task(lock.acquire())
    first.run_until_complete(asyncio.sleep(0))
    with pytest.raises(LoopMismatch) as caught:
        second.run_until_complete(lock.acquire())
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    lock.release()
    first.run_until_complete(waiter)
    first.close()
    second.close()


# ------------------------------------------------------------------------------------------------ one-shot operations


@each_object
def test_nothing_happens_before_the_await_and_a_forgotten_one_warns(make: Any) -> None:
    thing = make()
    method = thing.wait if isinstance(thing, Event) else thing.acquire
    kind = type(thing).__name__
    with pytest.warns(RuntimeWarning, match=rf"^'{kind}\.(acquire|wait)' was never awaited$"):
        method()
    assert thing.waiting == 0
    if not isinstance(thing, Event):
        assert thing.value == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method().close()


@each_object
def test_an_operation_can_be_awaited_once(cell: Cell, make: Any) -> None:
    async def main() -> None:
        thing = make()
        if isinstance(thing, Event):
            thing.set()
        op = thing.wait() if isinstance(thing, Event) else thing.acquire()
        assert await op is True
        with pytest.raises(RuntimeError, match=r"cannot reuse.*call the method again"):
            await op
        waiting, wait = blocked(make)
        op = wait()
        task = asyncio.create_task(op)
        await turns()
        with pytest.raises(RuntimeError, match="still waits"):
            await op
        unblock(waiting)
        await task

    run(main, cell)


@each_object
def test_close_while_waiting_leaves_the_line(cell: Cell, make: Any) -> None:
    async def main() -> None:
        thing, wait = blocked(make)
        op = wait()
        op.send(None)
        assert thing.waiting == 1
        op.close()
        assert thing.waiting == 0
        op.close()
        with pytest.raises(RuntimeError, match="cannot reuse"):
            op.send(None)

    run(main, cell)


@each_object
def test_throw_while_waiting_leaves_the_line_and_raises_that_very_object(cell: Cell, make: Any) -> None:
    async def main() -> None:
        thing, wait = blocked(make)
        op = wait()
        op.send(None)
        error = KeyError("mine")
        with pytest.raises(KeyError) as caught:
            op.throw(error)
        assert caught.value is error
        assert thing.waiting == 0
        unstarted = wait()
        with pytest.raises(ZeroDivisionError):
            unstarted.throw(ZeroDivisionError)

    run(main, cell)


@each_limit
def test_close_after_the_grant_hands_it_on(cell: Cell, make: Any) -> None:
    async def main() -> None:
        limit = make()
        await limit.acquire()
        op = limit.acquire()
        op.send(None)
        heir = asyncio.create_task(limit.acquire())
        await turns()
        limit.release()
        op.close()
        await heir
        assert (limit.value, limit.waiting) == (0, 0)

    run(main, cell)


@each_object
def test_an_operation_is_a_coroutine_to_asyncio(cell: Cell, make: Any) -> None:
    async def main() -> None:
        def fresh() -> Any:
            thing = make()
            if isinstance(thing, Event):
                thing.set()
                return thing.wait()
            return thing.acquire()

        op = fresh()
        assert asyncio.iscoroutine(op) and inspect.isawaitable(op) and not asyncio.isfuture(op)
        assert await op is True
        assert await asyncio.create_task(fresh(), name="own") is True
        assert await asyncio.ensure_future(fresh()) is True
        assert await asyncio.gather(fresh(), fresh()) == [True, True]
        assert await asyncio.wait_for(fresh(), 1) is True
        assert await asyncio.shield(fresh()) is True
        done, _ = await asyncio.wait([asyncio.create_task(fresh())])
        assert [task.result() for task in done] == [True]
        async with asyncio.TaskGroup() as group:
            task = group.create_task(fresh())
        assert task.result() is True
        for future in asyncio.as_completed([fresh(), fresh()]):
            assert await future is True

    run(main, cell)


@each_object
def test_timeouts_of_asyncio_end_the_wait(cell: Cell, make: Any) -> None:
    async def main() -> None:
        thing, wait = blocked(make)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wait(), 0.001)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await wait()
        task = asyncio.current_task()
        assert task is not None and task.cancelling() == 0
        assert thing.waiting == 0

    run(main, cell)


def test_from_a_thread(cell: Cell) -> None:
    async def main() -> None:
        semaphore = Semaphore(1)
        loop = asyncio.get_running_loop()

        def outside() -> bool:
            async def take() -> bool:
                return await semaphore.acquire()

            return asyncio.run_coroutine_threadsafe(take(), loop).result(10)

        assert await loop.run_in_executor(None, outside) is True
        assert semaphore.value == 0

    run(main, cell)


# ------------------------------------------------------------------------------------------------- contexts, batches


def test_context_variables_survive_a_wait(cell: Cell) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody")

    async def main() -> None:
        semaphore, event, seen = Semaphore(0), Event(), []

        async def waiter(name: str) -> None:
            variable.set(name)
            await semaphore.acquire()
            seen.append((name, variable.get()))
            await event.wait()
            variable.set(f"{name} again")
            await asyncio.sleep(0)
            seen.append((name, variable.get()))

        variable.set("main")
        tasks = [asyncio.create_task(waiter(name)) for name in "ab"]
        await turns()
        variable.set("releaser")
        semaphore.release(2)
        await turns()
        event.set()
        await asyncio.gather(*tasks)
        assert seen == [("a", "a"), ("b", "b"), ("a", "a again"), ("b", "b again")]
        assert variable.get() == "releaser"

    run(main, cell)


def test_a_keyboard_interrupt_in_the_middle_of_a_batch_loses_nobody(cell: Cell) -> None:
    loop = cell.new_loop()
    loop.set_debug(cell.debug)
    try:
        event, passed = Event(), []

        async def waiter(number: int) -> None:
            await event.wait()
            if number in (2, 5):
                raise KeyboardInterrupt
            passed.append(number)

        tasks = []

        async def start() -> None:
            tasks.extend(loop.create_task(waiter(number)) for number in range(8))
            await turns()

        loop.run_until_complete(start())
        event.set()
        interrupts = 0
        while not all(task.done() for task in tasks):
            loop.call_soon(loop.stop)
            try:
                loop.run_forever()
            except KeyboardInterrupt:
                interrupts += 1
        assert interrupts >= 1  # uvloop ends a turn before it raises
        assert passed == [0, 1, 3, 4, 6, 7]
        for number in (2, 5):
            assert isinstance(tasks[number].exception(), KeyboardInterrupt)
    finally:
        loop.close()


def test_an_error_in_a_done_callback_goes_to_the_exception_handler(cell: Cell) -> None:
    async def main() -> None:
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
        semaphore = Semaphore(0)
        fut = semaphore.acquire().__await__().send(None)

        def broken(_: Any) -> None:
            raise ValueError("broken")

        fut.add_done_callback(broken)
        waiter = asyncio.create_task(semaphore.acquire())
        await turns()
        semaphore.release(2)
        assert await waiter is True
        assert [str(error) for error in reported] == ["broken"]

    run(main, cell)


def test_in_debug_mode_the_slow_task_is_named_and_not_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        event = Event()

        async def slow() -> None:
            await event.wait()
            loop.slow_callback_duration = 0  # from here on everything is slow

        task = loop.create_task(slow(), name="the slow one")
        await turns()
        event.set()
        await task
        loop.slow_callback_duration = 10

    with caplog.at_level(logging.WARNING, logger="asyncio"):
        run(main, Cell(debug=True))
    messages = [record.getMessage() for record in caplog.records]
    assert any("the slow one" in message for message in messages), messages
    assert not any("drain" in message for message in messages), messages


# ----------------------------------------------------------------------------------------- anyio's level cancellation


@each_object
def test_anyio_move_on_after_ends_a_wait(cell: Cell, make: Any) -> None:
    async def main() -> None:
        thing, wait = blocked(make)
        with anyio.move_on_after(0.001) as scope:
            await wait()
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError), anyio.fail_after(0):
            await wait()
        assert thing.waiting == 0
        unblock(thing)
        assert await wait() is True

    run(main, cell)


@each_limit
def test_anyio_scope_cancelled_in_the_tick_of_the_wake_up(cell: Cell, make: Any) -> None:
    async def main() -> None:
        limit = make()
        await limit.acquire()
        scopes: list[anyio.CancelScope] = []

        async def victim() -> None:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                await limit.acquire()
                raise AssertionError("acquired")
            assert scope.cancelled_caught

        task = asyncio.create_task(victim())
        await turns()
        heir = asyncio.create_task(limit.acquire())
        await turns()
        limit.release()
        scopes[0].cancel()
        await task
        await heir
        assert (limit.value, limit.waiting) == (0, 0)

    run(main, cell)


def test_anyio_level_cancels_reach_every_await_and_a_shield_holds_them_off(cell: Cell) -> None:
    async def main() -> None:
        lock = Lock()
        await lock.acquire()
        cancelled = 0
        with anyio.CancelScope() as scope:
            scope.cancel()
            for _ in range(3):
                try:
                    await lock.acquire()
                except asyncio.CancelledError:
                    cancelled += 1
            with anyio.CancelScope(shield=True):
                waiter = asyncio.create_task(asyncio.sleep(0))
                waiter.add_done_callback(lambda _: lock.release())
                await lock.acquire()
            await anyio.sleep(1)
        assert scope.cancelled_caught
        assert cancelled == 3
        assert lock.locked() and lock.waiting == 0

    run(main, cell)


def test_anyio_task_group_cancels_waiters(cell: Cell) -> None:
    async def main() -> None:
        semaphore = Semaphore(2)

        async def user() -> None:
            async with semaphore:
                await anyio.sleep(10)

        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(user)
            await turns()
            assert semaphore.waiting == 4
            group.cancel_scope.cancel()
        assert (semaphore.value, semaphore.waiting) == (2, 0)

    run(main, cell)


# ---------------------------------------------------------------------------------------------- the public fallbacks

WITHOUT_PRIVATE: list[Callable[[Cell], None]] = [
    test_promise_1_a_wake_up_and_a_cancel_of_everybody_in_one_tick,
    test_promise_2_a_big_request_is_not_starved_by_small_ones,
    test_promise_2_unless_unfair,
    test_promise_4_raising_the_limit_serves_waiters_at_once,
    test_event_wakes_waiters_in_order_in_one_turn,
    test_context_variables_survive_a_wait,
    test_a_keyboard_interrupt_in_the_middle_of_a_batch_loses_nobody,
    test_stats,
]


@pytest.fixture
def only_public() -> Iterator[None]:
    """asyncio's public interface only."""
    _loopwright._use_private(False)
    try:
        yield
    finally:
        _loopwright._use_private(True)


@pytest.mark.usefixtures("only_public")
@pytest.mark.parametrize("test", WITHOUT_PRIVATE, ids=lambda test: test.__name__.removeprefix("test_"))
def test_with_nothing_but_public_interfaces(cell: Cell, test: Callable[[Cell], None]) -> None:
    test(cell)


@pytest.mark.usefixtures("only_public")
@pytest.mark.parametrize("make", LIMITS, ids=["Semaphore", "BoundedSemaphore", "Lock"])
def test_loops_with_nothing_but_public_interfaces(make: Any) -> None:
    test_another_loop_gets_a_clear_error_while_waiters_stand_in_line(make)
    test_one_object_outlives_loops(PLAIN, make)


@pytest.mark.usefixtures("only_public")
def test_sweep_with_nothing_but_public_interfaces() -> None:
    cancel_sweep(semaphore_keeps_its_permits, victims="c", **EVERY_STEP)


# ------------------------------------------------------------------------------------------- same steps as asyncio's


def test_an_uncontended_acquire_makes_no_call_into_the_loop() -> None:
    class Counting(VirtualLoop):
        calls = 0

        def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
            self.calls += 1
            return super().call_soon(callback, *args, context=context)

    loop = Counting()
    try:

        async def main() -> int:
            limits: list[Any] = [Semaphore(2), BoundedSemaphore(2), Lock()]
            event = Event()
            event.set()
            before = loop.calls
            for limit in limits:
                async with limit:
                    pass
                await limit.acquire()
                limit.release()
            async with limits[0].permit(2):
                pass
            await event.wait()
            return loop.calls - before

        assert loop.run_until_complete(main()) == 0
    finally:
        loop.close()


def test_a_batch_of_wake_ups_is_one_call_into_the_loop() -> None:
    class Counting(VirtualLoop):
        calls = 0

        def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
            self.calls += 1
            return super().call_soon(callback, *args, context=context)

    loop = Counting()
    try:

        async def main() -> int:
            event = Event()
            tasks = [loop.create_task(event.wait()) for _ in range(100)]
            await turns()
            before = loop.calls
            event.set()
            calls = loop.calls - before
            await asyncio.wait(tasks)
            return calls

        assert loop.run_until_complete(main()) == 1
    finally:
        loop.close()


def test_python_tasks_and_tracing(cell: Cell) -> None:
    """Tasks in pure Python (a subclass of ``asyncio.tasks._PyTask``), under a trace function."""
    python_task: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        lock = Lock()
        order: list[int] = []

        async def user(number: int) -> None:
            async with lock:
                await asyncio.sleep(0)
                order.append(number)

        tasks = [python_task(user(number), loop=loop) for number in range(5)]
        await turns(4)
        tasks[3].cancel()
        await asyncio.wait(tasks)
        assert order == [0, 1, 2, 4]

    before = sys.gettrace()
    sys.settrace(lambda *_: None)
    try:
        run(main, cell)
    finally:
        sys.settrace(before)
