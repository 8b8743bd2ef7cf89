"""RateLimiter: no window has too many, whatever is cancelled when; in order; nobody waits in vain."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import inspect
import itertools
import pickle
import random
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Awaitable
from typing import Any

import anyio
import pytest
from support.cancels import EVERY_STEP, cancels, in_cell
from support.loops import PLAIN, Cell, VirtualLoop, run

from loopwright import Keyed, LoopwrightError, RateLimiter, RateLimitExceeded, _loopwright, timeout
from loopwright.testing import Play, SimLoop, cancel_sweep, random_cancels

RATE = 100_000
"""For cells on real time: a place in line costs microseconds."""


def simulate(main: Any) -> Any:
    with asyncio.Runner(loop_factory=SimLoop) as runner:
        return runner.run(main())


def now() -> float:
    return asyncio.get_running_loop().time()


async def turns(n: int = 3) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


class Passed:
    """Who passed when, and the promise about it."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self.times: list[tuple[float, int]] = []

    def add(self, n: int = 1) -> None:
        self.times.append((now(), n))

    def check(self) -> None:
        if not isinstance(asyncio.get_running_loop(), SimLoop):
            return  # real time goes on between the moment that counts and the look at the clock
        for first, (start, _) in enumerate(self.times):
            total = 0
            for end, n in self.times[first:]:
                total += n
                most = self.rate * (end - start) + self.burst
                assert total <= most + 1e-6, f"{total} passed in {end - start} s, {most} may"


# ------------------------------------------------------------------------------- over any window


def test_a_burst_then_one_after_the_other() -> None:
    async def main() -> list[float]:
        limiter, passed = RateLimiter(10, burst=3), []

        async def user() -> None:
            async with limiter:
                passed.append(round(now(), 6))

        await asyncio.gather(*(user() for _ in range(6)))
        await asyncio.sleep(10)
        await asyncio.gather(*(user() for _ in range(4)))
        return passed

    assert simulate(main) == [0, 0, 0, 0.1, 0.2, 0.3, 10.3, 10.3, 10.3, 10.4]


@pytest.mark.parametrize(
    ("arguments", "burst"),
    [((10,), 10), ((2.7,), 2), ((0.5,), 1), ((600, 60), 600), ((5, 60.0), 5), ((1e-3, 1e-3), 1)],
)
def test_the_burst_is_what_passes_in_one_period(arguments: Any, burst: int) -> None:
    limiter = RateLimiter(*arguments)
    assert limiter.burst == burst
    assert [limiter.try_acquire() for _ in range(burst)] == [True] * burst


async def no_window_has_too_many(play: Play) -> None:
    """Five users of weights 1 to 3; whoever is cancelled, those who pass keep to the rate."""
    limiter, passed = RateLimiter(RATE, burst=3), Passed(RATE, 3)

    async def user(n: int) -> None:
        await limiter.acquire(n)
        passed.add(n)
        async with limiter:
            passed.add()

    for name, n in zip("abcde", (2, 1, 3, 1, 2), strict=True):
        play.spawn(user(n), name=name)
    await play.finished()
    passed.check()
    assert limiter.waiting == 0
    assert limiter.stats().admitted == sum(n for _, n in passed.times)


async def what_a_cancelled_waiter_would_have_got_is_the_next_ones(play: Play) -> None:
    limiter = RateLimiter(RATE, burst=1)
    assert limiter.try_acquire()
    served: list[str] = []

    async def user(name: str) -> None:
        await limiter.acquire()
        served.append(name)

    start = now()
    for name in "abcd":
        play.spawn(user(name), name=name)
    await play.finished()
    alive = [name for name in "abcd" if not play.tasks[name].cancelled()]
    assert served == alive
    if isinstance(asyncio.get_running_loop(), SimLoop):
        assert now() - start <= len(alive) / RATE + 1e-9, "a cancel cost the others time"
    assert limiter.waiting == 0


SWEEPS = [no_window_has_too_many, what_a_cancelled_waiter_would_have_got_is_the_next_ones]


@pytest.mark.parametrize("victim", "bc")
@pytest.mark.parametrize("scenario", SWEEPS, ids=lambda scenario: scenario.__name__)
def test_a_cancel_at_every_step(cell: Cell, scenario: Any, victim: str) -> None:
    where = in_cell(cell)
    report = cancel_sweep(scenario, victims=victim, **EVERY_STEP, **where)
    if where["loop_factory"] is None:  # in real time its turn may have come before anybody could cancel it
        assert report.count("cancel") >= 2


async def limiter_under_random_cancels(play: Play) -> None:
    """Users of every kind: weighted, with deadlines, in scopes, without waiting; rates that change."""
    rng = play.rng
    burst = rng.choice((1, 2, 5))
    limiter, passed = RateLimiter(RATE, burst=burst), Passed(RATE, burst)
    line: list[object] = []

    async def block(acquire: Awaitable[Any], n: int) -> None:
        ticket = object()
        line.append(ticket)
        try:
            await acquire
            passed.add(n)
        finally:
            line.remove(ticket)

    async def user() -> None:
        for _ in range(rng.randint(1, 4)):
            await play.pause(2)
            n = rng.randint(1, burst)
            how = rng.random()
            if how < 0.2:
                if limiter.try_acquire(n):
                    passed.add(n)
            elif how < 0.4:
                try:
                    async with timeout(rng.choice((0, 1 / RATE, 10 / RATE))):
                        await block(limiter.acquire(n), n)
                except TimeoutError:
                    continue
            elif how < 0.5:
                with anyio.move_on_after(rng.choice((0, 2 / RATE))):
                    await block(limiter.acquire(n), n)
            elif how < 0.6:
                async with limiter:
                    passed.add()
            else:
                await block(limiter.acquire(n), n)

    for number in range(rng.randint(2, 6)):
        play.spawn(user(), name=f"user-{number}")
    await play.finished()
    passed.check()
    assert (limiter.waiting, line) == (0, [])


@pytest.mark.timeout(600)
def test_random_cancels() -> None:
    random_cancels(limiter_under_random_cancels, cancels(share=0.05), seed=1)


def test_random_cancels_in_every_cell(cell: Cell) -> None:
    if cell != PLAIN:
        random_cancels(limiter_under_random_cancels, cancels(cell=cell, share=0.1), seed=2, **in_cell(cell))


def test_a_waiter_that_runs_late_does_not_let_two_pass_at_once() -> None:
    """The loop is busy for a while: what was granted meanwhile passes when it runs, and counts then."""

    class Busy(VirtualLoop):
        pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Busy)
        limiter, passed = RateLimiter(1, burst=1), []

        async def user() -> None:
            await limiter.acquire()
            passed.append(loop.time())

        users = [asyncio.create_task(user()) for _ in range(3)]
        await turns()
        assert loop.advance()
        await turns(2)  # in the first of them the timer goes off and grants
        assert (passed, limiter.waiting) == ([0], 2)
        loop._virtual_now = 5.0  # between the grant and the run
        while not all(task.done() for task in users):
            await turns(6)
            loop.advance()
        assert passed[:2] == [0, 5]
        assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(passed))

    with asyncio.Runner(loop_factory=Busy) as runner:
        runner.run(main())


# ------------------------------------------------------------------------------- in order


def test_first_come_first_served(cell: Cell) -> None:
    async def main() -> None:
        limiter, order = RateLimiter(10_000, burst=4), []

        async def user(number: int) -> None:
            await limiter.acquire(1 + number % 3)
            order.append(number)

        await asyncio.gather(*(user(number) for number in range(30)))
        assert order == sorted(order)

    run(main, cell)


def test_a_big_request_is_not_starved_by_small_ones() -> None:
    """aiolimiter lets the small ones pass for as long as they come."""

    async def main() -> None:
        limiter = RateLimiter(10, burst=10)
        assert limiter.try_acquire(10)
        served: dict[str, float] = {}

        async def small() -> None:
            while True:
                await limiter.acquire()
                await asyncio.sleep(0)

        smalls = [asyncio.create_task(small()) for _ in range(5)]
        await turns()

        async def big() -> None:
            await limiter.acquire(10)
            served["big"] = now()

        await big()
        assert served["big"] == pytest.approx(1.5)  # five small ones were there before, then it
        for task in smalls:
            task.cancel()
        await asyncio.wait(smalls)

    simulate(main)


def test_nobody_who_comes_later_overtakes(cell: Cell) -> None:
    async def main() -> None:
        limiter = RateLimiter(1e-3, burst=5)
        assert limiter.try_acquire(3)
        first = asyncio.create_task(limiter.acquire(5))
        await turns()
        assert not limiter.try_acquire(1), "there is room for one, and somebody waits"
        limiter.set_rate(1000, burst=5)
        assert await first is True

    run(main, cell)


# ------------------------------------------------------------------------------- nobody waits in vain


def test_a_deadline_that_cannot_be_met_fails_at_once() -> None:
    async def main() -> None:
        limiter = RateLimiter(1, burst=1)
        assert limiter.try_acquire()
        with pytest.raises(RateLimitExceeded, match=r"would wait 1\.000 s.* 0\.500 s are left") as caught:
            async with timeout(0.5):
                await limiter.acquire()
        assert (now(), caught.value.retry_after) == (0, 1.0)
        async with timeout(60), timeout(1.1):
            await limiter.acquire()
        assert now() == pytest.approx(1)
        waiting = [asyncio.create_task(limiter.acquire()) for _ in range(3)]
        await turns()
        with pytest.raises(RateLimitExceeded) as caught:  # those in line come first
            async with timeout(3.5):
                await limiter.acquire()
        assert caught.value.retry_after == pytest.approx(4)
        assert limiter.stats().refused == 2
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        async with timeout(1.1):
            await limiter.acquire()
        assert now() == pytest.approx(2)

    simulate(main)


def test_what_needs_no_waiting_needs_no_time(cell: Cell) -> None:
    async def main() -> None:
        limiter = RateLimiter(5)
        async with timeout(60), limiter:
            await limiter.acquire(2)
        assert limiter.stats().acquired == 2

    run(main, cell)


def test_timeouts_of_asyncio_end_the_wait_when_they_pass() -> None:
    async def main() -> None:
        limiter = RateLimiter(1)
        assert limiter.try_acquire()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.25):
                await limiter.acquire()
        assert (now(), limiter.waiting) == (0.25, 0)

    simulate(main)


def test_retry_after_is_how_long_acquire_would_wait() -> None:
    async def main() -> None:
        limiter = RateLimiter(2, burst=4)
        assert limiter.retry_after(4) == 0
        await limiter.acquire(4)
        for n in (1, 3, 4):
            waits = limiter.retry_after(n)
            start = now()
            await limiter.acquire(n)
            assert now() - start == pytest.approx(waits) == pytest.approx(n / 2)

    simulate(main)


def test_in_a_thread_without_a_loop() -> None:
    limiter = RateLimiter(2000, burst=1)
    start = time.monotonic()
    for _ in range(21):
        while not limiter.try_acquire():
            time.sleep(limiter.retry_after())
    assert time.monotonic() - start >= 0.01 - 1e-6


# ------------------------------------------------------------------------------- another rate


def test_another_rate_holds_for_those_in_line_too() -> None:
    async def main() -> None:
        limiter, passed = RateLimiter(1, burst=1), []
        assert limiter.try_acquire()

        async def user() -> None:
            await limiter.acquire()
            passed.append(round(now(), 6))

        users = [asyncio.create_task(user()) for _ in range(4)]
        await asyncio.sleep(1.5)
        limiter.set_rate(10, burst=1)
        await asyncio.sleep(0.1)
        limiter.set_rate(1, per=2, burst=1)
        await asyncio.gather(*users)
        # Half of the second one was paid at the old rate, the rest of it is paid at ten times that.
        assert passed == [1.0, 1.55, pytest.approx(2.6), pytest.approx(4.6)]
        assert (limiter.rate, limiter.per, limiter.burst) == (1, 2, 1)

    simulate(main)


def test_a_change_fills_no_bucket() -> None:
    limiter = RateLimiter(1e-3, burst=10)
    assert limiter.try_acquire(10)
    limiter.set_rate(2e-3, burst=10)
    assert not limiter.try_acquire()
    limiter.set_rate(2e-3, burst=12)
    assert limiter.try_acquire(2) and not limiter.try_acquire()


def test_who_asks_for_more_than_there_will_ever_be_hears_it(cell: Cell) -> None:
    async def main() -> None:
        limiter = RateLimiter(1e-3, burst=5)
        for call in (limiter.acquire, limiter.try_acquire, limiter.retry_after):
            with pytest.raises(ValueError, match=r"n=6\) can never succeed: burst=5"):
                call(6)
        assert limiter.try_acquire(5)
        big = asyncio.create_task(limiter.acquire(5))
        small = asyncio.create_task(limiter.acquire(1))
        await turns()
        limiter.set_rate(1000, burst=2)
        with pytest.raises(ValueError, match=r"acquire\(n=5\) can never succeed: burst=2"):
            await big
        assert await small is True

    run(main, cell)


# ------------------------------------------------------------------------------- loops and threads


def test_threads_share_one_limit() -> None:
    limiter = RateLimiter(1e-6, burst=1000)
    passed = [0] * 8

    def worker(number: int) -> None:
        while limiter.try_acquire():
            passed[number] += 1

    threads = [threading.Thread(target=worker, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passed) == 1000 == limiter.stats().admitted


@pytest.mark.default_only
def test_tasks_of_several_loops_stand_in_one_line() -> None:
    limiter = RateLimiter(5000, burst=1)
    passed: list[str] = []

    async def users(name: str) -> None:
        async def user() -> None:
            for _ in range(20):
                async with limiter:
                    passed.append(name)

        await asyncio.gather(*(user() for _ in range(5)))

    threads = [threading.Thread(target=asyncio.run, args=(users(name),)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(passed) == sorted("abc" * 100)
    assert limiter.waiting == 0


@pytest.mark.default_only
def test_a_loop_that_is_closed_under_its_waiter_does_not_hold_up_the_others() -> None:
    limiter = RateLimiter(100, burst=1)
    assert limiter.try_acquire()
    abandoned = asyncio.new_event_loop()
    task = abandoned.create_task(limiter.acquire())  # type: ignore[arg-type]
    abandoned.run_until_complete(asyncio.sleep(0))
    assert limiter.waiting == 1
    abandoned.close()
    run(limiter.acquire)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        del task
        gc.collect()


def test_one_object_outlives_loops(cell: Cell) -> None:
    limiter = RateLimiter(1000, burst=1)

    async def main() -> None:
        for _ in range(2):
            async with limiter:
                pass

    run(main, cell)
    run(main, cell)
    assert limiter.waiting == 0


def test_virtual_time_is_the_time_of_who_asks() -> None:
    """The same limiter: five pass in each second, be it a real one or a simulated one."""
    limiter = RateLimiter(5)

    async def main() -> None:
        assert limiter.retry_after(5) <= 1  # another clock: time counts from here on
        await asyncio.sleep(10)
        for _ in range(3):
            for _ in range(5):
                assert limiter.try_acquire()
            assert not limiter.try_acquire()
            await asyncio.sleep(1)

    simulate(main)
    simulate(main)


# ------------------------------------------------------------------------------- the object


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ((0,), {}, ValueError, r"RateLimiter\(rate=...\) must be more than 0 and finite, got 0"),
        ((float("inf"),), {}, ValueError, "more than 0 and finite, got inf"),
        ((float("nan"),), {}, ValueError, "more than 0 and finite, got nan"),
        (("5",), {}, TypeError, r"RateLimiter\(rate=...\) must be a number, got '5'"),
        ((True,), {}, TypeError, "must be a number, got True"),
        ((1, -1), {}, ValueError, r"RateLimiter\(per=...\) must be more than 0"),
        ((1e-300, 1e300), {}, ValueError, "is not a rate to count with"),
        ((1,), {"burst": 0}, ValueError, r"RateLimiter\(burst=...\) must be 1 or more, got 0"),
        ((1,), {"burst": 1.5}, TypeError, r"RateLimiter\(burst=...\) must be an int"),
        ((1,), {"burst": 2**60}, ValueError, "out of range"),
    ],
)
def test_misuse_names_the_value_and_the_fix(arguments: Any, keywords: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        RateLimiter(*arguments, **keywords)
    if "rate" in message or "burst" in message:
        with pytest.raises(error):
            RateLimiter(1).set_rate(*arguments, **keywords)


@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_what_is_no_number_of_calls_is_refused(n: Any) -> None:
    limiter = RateLimiter(5)
    for call in (limiter.acquire, limiter.try_acquire, limiter.retry_after):
        with pytest.raises((TypeError, ValueError), match=r"RateLimiter\.\w+\(n=...\) must be"):
            call(n)


def test_stats_and_repr_tell_the_state() -> None:
    async def main() -> None:
        limiter = RateLimiter(4, per=2, burst=3)
        await limiter.acquire(2)
        assert not limiter.try_acquire(2)
        waiter = asyncio.create_task(limiter.acquire(3))
        await turns()
        assert dataclasses.asdict(limiter.stats()) == {
            "rate": 4.0,
            "per": 2.0,
            "burst": 3,
            "available": 1.0,
            "waiting": 1,
            "acquired": 1,
            "admitted": 2,
            "waited": 1,
            "refused": 1,
        }
        assert "[4 per 2 s, available:1.0 of 3, waiters:1]" in repr(limiter)
        await waiter
        with pytest.raises(dataclasses.FrozenInstanceError):
            limiter.stats().rate = 5  # type: ignore[misc]

    simulate(main)


def test_as_good_as_new_when_nothing_is_used_up() -> None:
    async def main() -> None:
        limiter = RateLimiter(2, burst=2)
        assert limiter.is_quiescent()
        await limiter.acquire(2)
        assert not limiter.is_quiescent()
        await asyncio.sleep(0.9)
        assert not limiter.is_quiescent()
        await asyncio.sleep(0.2)
        assert limiter.is_quiescent()
        limiter.set_rate(3, burst=2)
        assert not limiter.is_quiescent()

    simulate(main)


def test_keyed_gives_up_what_is_full_and_nothing_else() -> None:
    async def main() -> None:
        per_host = Keyed(lambda _host: RateLimiter(1, burst=1), max_keys=2)
        async with per_host["busy"]:
            pass
        waiter = asyncio.create_task(per_host["line"].acquire())
        await turns()
        for number in range(100):
            assert per_host[number].burst == 1
        assert not per_host["busy"].try_acquire()
        await waiter
        await asyncio.sleep(5)
        for number in range(100):
            assert per_host[number].burst == 1
        assert "busy" not in per_host and len(per_host) == 2

    simulate(main)


def test_nothing_happens_before_the_await_and_a_forgotten_one_warns() -> None:
    limiter = RateLimiter(5)
    with pytest.warns(RuntimeWarning, match=r"'RateLimiter\.acquire' was never awaited"):
        limiter.acquire()
        gc.collect()
    assert limiter.stats().acquired == 0
    marked = inspect.iscoroutinefunction if sys.version_info >= (3, 12) else asyncio.iscoroutinefunction
    assert marked(RateLimiter.acquire)


def test_an_uncontended_pass_makes_no_call_into_the_loop() -> None:
    class Counting(asyncio.SelectorEventLoop):
        calls = 0

        def call_soon(self, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return super().call_soon(*args, **kwargs)

        def call_at(self, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return super().call_at(*args, **kwargs)

    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Counting)
        limiter = RateLimiter(1e6, burst=1000)
        before = loop.calls
        for _ in range(100):
            async with limiter:
                await limiter.acquire(2)
        return loop.calls - before

    with asyncio.Runner(loop_factory=Counting) as runner:
        assert runner.run(main()) == 0


def test_a_crowd_has_one_timer_and_leaves_none_behind() -> None:
    async def main() -> None:
        limiter = RateLimiter(1, burst=1)
        assert limiter.try_acquire()
        crowd = [asyncio.create_task(limiter.acquire()) for _ in range(100)]
        await turns()
        hub: Any = asyncio.get_running_loop()._loopwright_hub  # type: ignore[attr-defined]
        assert hub.deadlines() == (1, 1.0)
        random.Random(5).shuffle(crowd)
        for task in crowd:
            task.cancel()
        await asyncio.wait(crowd)
        assert hub.deadlines() == (0, None)
        assert (limiter.waiting, now()) == (0, 0)

    simulate(main)


def test_an_abandoned_waiter_is_collected_with_its_limiter() -> None:
    loop = asyncio.new_event_loop()
    limiter = RateLimiter(1e-3)
    assert limiter.try_acquire()
    task = loop.create_task(limiter.acquire())  # type: ignore[arg-type]
    loop.run_until_complete(asyncio.sleep(0))
    gone = weakref.ref(limiter)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    del loop, task, limiter
    _loopwright._forget_cached_hub()  # the loop that this thread ran last
    gc.collect()
    assert gone() is None


def test_subclasses_can_have_an_init_of_their_own() -> None:
    class PerMinute(RateLimiter):
        def __init__(self, rate: float) -> None:
            super().__init__(rate, per=60, burst=1)

    limiter = PerMinute(30)
    assert (limiter.rate, limiter.per, limiter.burst) == (30, 60, 1)
    assert limiter.try_acquire() and not limiter.try_acquire()


def test_the_error_pickles_and_is_what_is_caught_already() -> None:
    error = pickle.loads(pickle.dumps(RateLimitExceeded("late", 1.5)))
    assert (str(error), error.retry_after) == ("late", 1.5)
    assert isinstance(error, TimeoutError) and isinstance(error, LoopwrightError)
