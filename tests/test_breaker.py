"""CircuitBreaker: resilience4j's states, exactly so many probes, and no cancel is a failure or loses a probe.

The table of states is tested in the core (crates/core/tests/breaker.rs); here is what asyncio adds.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import gc
import inspect
import logging
import pickle
import threading
import weakref
from contextlib import AsyncExitStack
from typing import Any

import pytest
from support.cancels import EVERY_STEP, cancels, in_cell
from support.loops import PLAIN, Cell, run

from loopwright import (
    BreakerChange,
    BreakerOpen,
    CircuitBreaker,
    Keyed,
    LoopwrightError,
    RateLimiter,
    RateLimitExceeded,
    timeout,
)
from loopwright.testing import Play, SimLoop, cancel_sweep, random_cancels

SMALL: dict[str, Any] = {"window": 4, "min_calls": 2, "open_for": 10, "half_open": 2}


def simulate(main: Any) -> Any:
    with asyncio.Runner(loop_factory=SimLoop) as runner:
        return runner.run(main())


async def turns(n: int = 3) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def fails() -> None:
    raise ConnectionResetError("gone")


async def answers() -> str:
    return "answer"


async def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(ConnectionResetError):
            await breaker.call(fails)


# ------------------------------------------------------------------------------- the states


def test_it_opens_refuses_probes_and_closes() -> None:
    async def main() -> None:
        breaker = CircuitBreaker(**SMALL, name="db")
        assert await breaker.call(answers) == "answer"
        await fail(breaker)
        assert breaker.state == "open"
        with pytest.raises(BreakerOpen, match=r"the breaker 'db' is open for 10\.000 s more") as caught:
            await breaker.call(answers)
        assert caught.value.retry_after == 10
        await asyncio.sleep(9)
        assert breaker.retry_after() == 1
        await asyncio.sleep(1)
        assert (breaker.state, breaker.retry_after()) == ("open", 0)
        await breaker.call(answers)
        assert breaker.state == "half_open"
        await breaker.call(answers)
        assert breaker.state == "closed"
        assert breaker.stats().window_calls == 0

    simulate(main)


def test_probes_that_fail_open_it_again() -> None:
    async def main() -> None:
        breaker = CircuitBreaker(**SMALL)
        await fail(breaker, 2)
        await asyncio.sleep(10)
        await breaker.call(answers)
        await fail(breaker)
        assert breaker.state == "open"
        with pytest.raises(BreakerOpen, match=r"the breaker is open for 10\.000 s more"):
            await breaker.call(answers)
        assert breaker.stats().opened == 2

    simulate(main)


def test_a_window_by_time_forgets() -> None:
    async def main() -> None:
        breaker = CircuitBreaker(window_time=32, min_calls=3, open_for=10)
        await fail(breaker, 2)
        await asyncio.sleep(32)
        await fail(breaker, 2)
        assert breaker.state == "closed"
        await breaker.call(answers)
        assert breaker.state == "open", "the third call of the last 32 seconds: two of three failed"

    simulate(main)


def test_slow_calls_open_it() -> None:
    async def main() -> None:
        breaker = CircuitBreaker(**SMALL, slow_call=1, slow_rate=0.5)

        async def call(seconds: float) -> None:
            async with breaker:
                await asyncio.sleep(seconds)

        # They overlap: each is timed by itself, whoever ends first.
        await asyncio.gather(call(0.5), call(1.0), call(0.9))
        assert breaker.state == "closed"
        await asyncio.gather(call(1.5), call(0.2))
        assert breaker.stats().window_slow == 1
        await call(1.1)
        assert (breaker.state, breaker.stats().slow) == ("open", 2)

    simulate(main)


def test_by_hand(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "loopwright.breaker")

    async def main() -> None:
        breaker = CircuitBreaker(open_for=10, name="x")
        breaker.isolate()
        await asyncio.sleep(1e6)
        with pytest.raises(
            BreakerOpen, match=r"'x' is isolated: no call passes until its close\(\) or open\(\)"
        ) as error:
            await breaker.call(answers)
        assert error.value.retry_after is None is breaker.retry_after()
        breaker.open()
        assert breaker.retry_after() == 10
        breaker.close()
        assert await breaker.call(answers) == "answer"

    simulate(main)
    assert caplog.messages == [
        "breaker x: closed -> isolated (asked)",
        "breaker x: isolated -> open (asked)",
        "breaker x: open -> closed (asked)",
    ]


# ------------------------------------------------------------------------------- so many probes


def test_no_more_probes_than_agreed_however_many_call(cell: Cell) -> None:
    async def main() -> None:
        breaker = CircuitBreaker(**{**SMALL, "open_for": 1e-9, "half_open": 3})
        breaker.open()
        await asyncio.sleep(0.001)
        inside = peak = 0
        refused: list[BreakerOpen] = []
        gate = asyncio.Event()

        async def user() -> None:
            nonlocal inside, peak
            try:
                async with breaker:
                    inside += 1
                    peak = max(peak, inside)
                    try:
                        await gate.wait()
                    finally:
                        inside -= 1
            except BreakerOpen as error:
                refused.append(error)

        users = [asyncio.create_task(user()) for _ in range(50)]
        await turns()
        assert (inside, len(refused)) == (3, 47)
        assert {error.retry_after for error in refused} == {None}
        assert "half open, and its probes are under way" in str(refused[0])
        users[next(i for i, task in enumerate(users) if not task.done())].cancel()
        await turns()
        users.append(asyncio.create_task(user()))
        await turns()
        assert len(refused) == 47, "a cancelled probe gives its place to another"
        gate.set()
        await asyncio.wait(users)
        assert (peak, breaker.state) == (3, "closed")

    run(main, cell)


async def probes_are_never_lost(play: Play) -> None:
    """A half-open breaker with one probe at a time: whoever is cancelled, the others get through in the end."""
    breaker = CircuitBreaker(open_for=1e-9, half_open=2, min_calls=1)
    breaker.open()
    if breaker.retry_after():  # virtual time; real time has passed, and every run has the same steps
        await asyncio.sleep(1e-6)
    inside = 0

    async def user() -> None:
        nonlocal inside
        while True:
            try:
                async with breaker:
                    inside += 1
                    try:
                        assert inside <= 2 or breaker.state == "closed"
                        await asyncio.sleep(0)
                    finally:
                        inside -= 1
            except BreakerOpen:
                await asyncio.sleep(0)
            else:
                return

    for name in "abcd":
        play.spawn(user(), name=name)
    await play.finished()
    assert (inside, breaker.stats().in_flight) == (0, 0)
    done = [name for name in "abcd" if not play.tasks[name].cancelled()]
    assert breaker.stats().successes == len(done)
    assert breaker.state == ("closed" if len(done) >= 2 else "half_open")


@pytest.mark.parametrize("victim", "ac")
def test_a_cancel_at_every_step(cell: Cell, victim: str) -> None:
    sweep = cancel_sweep(probes_are_never_lost, victims=victim, **EVERY_STEP, **in_cell(cell))
    assert sweep.count("cancel") >= 1


async def breaker_under_random_cancels(play: Play) -> None:
    """Calls that answer, fail, hang and are given up; opened, closed and isolated by hand meanwhile."""
    rng = play.rng
    timed = {} if rng.random() < 0.5 else {"slow_call": 0.001}
    by_time = {} if rng.random() < 0.5 else {"window_time": 0.01}
    probes = rng.randint(1, 3)
    breaker = CircuitBreaker(**{**SMALL, "open_for": 1e-6, "half_open": probes}, **timed, **by_time)
    ended = {"successes": 0, "failures": 0, "ignored": 0}

    async def user() -> None:
        for _ in range(rng.randint(1, 4)):
            await play.pause(2)
            passed, verdict = False, "ignored"
            try:
                async with breaker:
                    passed = True
                    await play.pause(2)
                    if rng.random() < 0.4:
                        verdict = "failures"
                        raise ConnectionResetError
                    verdict = "successes"
            except BreakerOpen:
                assert not passed
            except ConnectionResetError:
                pass
            finally:
                if passed:
                    ended[verdict] += 1

    async def operator() -> None:
        for _ in range(3):
            await play.pause(3)
            rng.choice((breaker.open, breaker.close, breaker.isolate))()
        breaker.close()

    @breaker.on_change
    def check(change: BreakerChange) -> None:
        assert change.old != change.new == breaker.state

    for number in range(rng.randint(2, 6)):
        play.spawn(user(), name=f"user-{number}")
    play.spawn(operator(), name="operator")
    await play.finished()
    stats = breaker.stats()
    assert stats.in_flight == 0
    assert {"successes": stats.successes, "failures": stats.failures, "ignored": stats.ignored} == ended


@pytest.mark.timeout(600)
def test_random_cancels() -> None:
    random_cancels(breaker_under_random_cancels, cancels(share=0.05), seed=1)


def test_random_cancels_in_every_cell(cell: Cell) -> None:
    if cell != PLAIN:
        random_cancels(breaker_under_random_cancels, cancels(cell=cell, share=0.1), seed=2, **in_cell(cell))


# ------------------------------------------------------------------------------- what counts


def test_a_cancel_is_no_failure(cell: Cell) -> None:
    async def main() -> None:
        breaker = CircuitBreaker(**SMALL)

        async def hangs() -> None:
            async with breaker:
                await asyncio.Event().wait()

        tasks = [asyncio.create_task(hangs()) for _ in range(5)]
        await turns()
        assert breaker.stats().in_flight == 5
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        with pytest.raises(TimeoutError):
            async with timeout(0):  # the deadline of who calls
                await hangs()
        stats = breaker.stats()
        assert (stats.state, stats.ignored, stats.failures, stats.in_flight) == ("closed", 6, 0, 0)
        with pytest.raises(TimeoutError):  # the deadline of the call
            async with breaker, timeout(0):
                await asyncio.Event().wait()
        assert breaker.stats().failures == 1

    run(main, cell)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_the_program_is_no_failure(error: type[BaseException]) -> None:
    breaker = CircuitBreaker(**SMALL)
    with pytest.raises(error), breaker:
        raise error
    assert breaker.stats().ignored == 1


def test_refusals_of_other_limits_are_no_failures() -> None:
    async def main() -> None:
        outer, inner = CircuitBreaker(**SMALL), CircuitBreaker()
        limiter = RateLimiter(1, burst=1)
        assert limiter.try_acquire()
        inner.isolate()
        for _ in range(3):
            with pytest.raises(BreakerOpen):
                async with outer, inner:
                    pass
            with pytest.raises(RateLimitExceeded):
                async with timeout(0.1), outer, limiter:
                    pass
        assert (outer.state, outer.stats().ignored) == ("closed", 6)

    simulate(main)


@pytest.mark.parametrize("on", [(OSError, KeyError), OSError, lambda error: not isinstance(error, ValueError)])
def test_who_raised_another_exception_has_answered(on: Any) -> None:
    breaker = CircuitBreaker(**SMALL, on=on)
    for error in (ValueError, ConnectionResetError):
        with pytest.raises(error), breaker:
            raise error
    stats = breaker.stats()
    assert (stats.successes, stats.failures) == (1, 1)


def test_a_predicate_that_fails_loses_no_call() -> None:
    def judge(error: Exception) -> bool:
        raise LookupError("judge")

    breaker = CircuitBreaker(on=judge)
    with pytest.raises(LookupError, match="judge"), breaker:
        raise ValueError
    assert (breaker.stats().in_flight, breaker.stats().ignored) == (0, 1)


def test_what_comes_in_late_decides_nothing_about_the_probes() -> None:
    """resilience4j counts it: a call that began before the breaker opened, and fails while it is half open."""

    async def main() -> None:
        breaker = CircuitBreaker(**SMALL)
        gate = asyncio.Event()

        async def late() -> None:
            async with breaker:
                await gate.wait()
                raise ConnectionResetError

        stragglers = [asyncio.create_task(late()) for _ in range(5)]
        await turns()
        await fail(breaker, 2)
        await asyncio.sleep(10)
        async with breaker:
            gate.set()
            await asyncio.wait(stragglers)
            assert (breaker.state, breaker.stats().window_calls) == ("half_open", 0)
        await breaker.call(answers)
        assert (breaker.state, breaker.stats().failures) == ("closed", 7)

    simulate(main)


def test_calls_of_an_earlier_closed_state_are_told_apart() -> None:
    async def main() -> None:
        breaker = CircuitBreaker(**SMALL)
        gates = asyncio.Event(), asyncio.Event()

        async def call(gate: asyncio.Event, *, fails: bool) -> None:
            async with breaker:
                await gate.wait()
                if fails:
                    raise ConnectionResetError

        old = [asyncio.create_task(call(gates[0], fails=True)) for _ in range(3)]
        await turns()
        breaker.open()
        breaker.close()
        new = [asyncio.create_task(call(gates[1], fails=False)) for _ in range(3)]
        await turns()
        assert breaker.stats().in_flight == 6
        gates[0].set()
        await asyncio.wait(old)
        assert (breaker.state, breaker.stats().window_calls) == ("closed", 0)
        gates[1].set()
        await asyncio.gather(*new)
        stats = breaker.stats()
        assert (stats.window_calls, stats.window_failures, stats.in_flight) == (3, 0, 0)

    simulate(main)


# ------------------------------------------------------------------------------- forms


def test_every_form_counts_the_same(cell: Cell) -> None:
    async def main() -> None:
        breaker = CircuitBreaker()

        @breaker
        async def decorated(a: int, *, b: int) -> int:
            """Adds."""
            await asyncio.sleep(0)
            return a + b

        @breaker
        def plain(a: int) -> int:
            return -a

        async def add(a: int, b: int) -> int:
            return a + b

        assert await decorated(1, b=2) == await breaker.call(add, 1, b=2) == 3
        assert (decorated.__name__, decorated.__doc__) == ("decorated", "Adds.")
        assert inspect.iscoroutinefunction(decorated) and plain(5) == -5
        with breaker:
            async with breaker:
                pass
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(breaker)
            stack.enter_context(breaker)
        assert breaker.stats().successes == 7

    run(main, cell)


def test_generators_are_refused() -> None:
    def generator() -> Any:
        yield 1

    async def async_generator() -> Any:
        yield 1

    for fn in (generator, async_generator):
        with pytest.raises(TypeError, match="use `async with breaker:` inside of it"):
            CircuitBreaker()(fn)


def test_threads_share_one_breaker() -> None:
    breaker = CircuitBreaker(window=1000, min_calls=1000, slow_call=1e3)

    def worker(fails: int) -> None:
        for number in range(100):
            try:
                with breaker:
                    if number < fails:
                        raise ConnectionResetError
            except ConnectionResetError:
                pass

    threads = [threading.Thread(target=worker, args=(number * 10,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = breaker.stats()
    assert (stats.successes, stats.failures, stats.in_flight) == (520, 280, 0)


def test_one_that_is_left_by_another_task_than_entered_it() -> None:
    async def main() -> None:
        breaker = CircuitBreaker(slow_call=1)

        async def generator() -> Any:
            async with breaker:
                yield 1

        stream = generator()
        await asyncio.create_task(anext(stream))
        await asyncio.create_task(stream.aclose())
        assert (breaker.stats().in_flight, breaker.stats().ignored) == (0, 1)

    simulate(main)


def test_leaving_without_entering_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="left without having been entered"):
        CircuitBreaker().__exit__(None, None, None)


# ------------------------------------------------------------------------------- listeners


def test_listeners_hear_every_change_and_their_errors_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        breaker = CircuitBreaker(**SMALL, name="svc")
        heard: list[tuple[str, str, str, float | None]] = []

        @breaker.on_change
        def broken(change: BreakerChange) -> None:
            raise LookupError("in the listener")

        @breaker.on_change
        def listener(change: BreakerChange) -> None:
            assert change.breaker is breaker and breaker.state == change.new
            heard.append((change.old, change.new, change.why, change.rate))

        await breaker.call(answers)
        await fail(breaker)
        await asyncio.sleep(10)
        for _ in range(2):
            await breaker.call(answers)
        assert heard == [
            ("closed", "open", "failures", 0.5),
            ("open", "half_open", "waited", None),
            ("half_open", "closed", "recovered", None),
        ]

    simulate(main)
    assert "breaker svc: closed -> open (failures: 50%)" in caplog.text
    assert caplog.text.count("LookupError: in the listener") == 3


# ------------------------------------------------------------------------------- the object


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"failure_rate": 0}, ValueError, r"CircuitBreaker\(failure_rate=...\) must be more than 0"),
        ({"failure_rate": 50}, ValueError, "must be a share, more than 0 and up to 1, got 50"),
        ({"slow_rate": "1"}, TypeError, r"CircuitBreaker\(slow_rate=...\) must be a number"),
        ({"window": 0}, ValueError, r"CircuitBreaker\(window=...\) must be 1 or more, got 0"),
        ({"window": 2**21}, ValueError, "must be 1048576 or less"),
        ({"window_time": -1}, ValueError, r"CircuitBreaker\(window_time=...\)"),
        ({"min_calls": 1.5}, TypeError, r"CircuitBreaker\(min_calls=...\) must be an int"),
        ({"slow_call": 0}, ValueError, r"CircuitBreaker\(slow_call=...\) must be more than 0"),
        ({"open_for": 0}, ValueError, r"CircuitBreaker\(open_for=...\) must be more than 0"),
        ({"half_open": 0}, ValueError, r"CircuitBreaker\(half_open=...\) must be 1 or more"),
        ({"on": KeyboardInterrupt}, TypeError, r"CircuitBreaker\(on=...\) must be an exception class"),
        ({"on": ()}, TypeError, "a tuple of them, or a function"),
        ({"on": int}, TypeError, "a tuple of them, or a function"),
    ],
)
def test_misuse_names_the_value_and_the_fix(arguments: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        CircuitBreaker(**arguments)


def test_stats_and_repr_tell_the_state() -> None:
    async def main() -> None:
        breaker = CircuitBreaker(window=4, min_calls=4, name="db")
        await fail(breaker)
        await breaker.call(answers)
        async with breaker:
            assert dataclasses.asdict(breaker.stats()) == {
                "state": "closed",
                "window_calls": 2,
                "window_failures": 1,
                "window_slow": 0,
                "in_flight": 1,
                "retry_after": 0.0,
                "successes": 1,
                "failures": 1,
                "slow": 0,
                "ignored": 0,
                "refused": 0,
                "opened": 0,
            }
        assert repr(breaker) == "<CircuitBreaker 'db' closed, 1 of 3 failed>"

    simulate(main)


def test_keyed_gives_up_what_had_no_trouble_or_had_it_long_ago() -> None:
    async def main() -> None:
        per_host = Keyed(lambda host: CircuitBreaker(**SMALL, name=str(host)), max_keys=2)
        await fail(per_host["down"], 2)
        await fail(per_host["shaky"], 1)
        for number in range(100):
            await per_host[number].call(answers)
        assert "down" in per_host and "shaky" in per_host
        assert per_host["down"].state == "open"
        await asyncio.sleep(20)
        for number in range(100):
            await per_host[number].call(answers)
        assert "down" not in per_host and len(per_host) == 2

    simulate(main)


def test_one_object_outlives_loops(cell: Cell) -> None:
    breaker = CircuitBreaker(slow_call=1e3)

    async def main() -> None:
        await breaker.call(answers)

    run(main, cell)
    run(main, cell)
    assert breaker.stats().successes == 2


def test_cycles_are_collected() -> None:
    own: list[Any] = []
    breaker = CircuitBreaker(on=functools.partial(isinstance, own))
    breaker.on_change(own.append)
    own.append(breaker)
    gone = weakref.ref(breaker)
    del breaker, own
    gc.collect()
    assert gone() is None


def test_the_error_pickles_and_is_what_is_caught_already() -> None:
    error = pickle.loads(pickle.dumps(BreakerOpen("down", 1.5)))
    assert (str(error), error.retry_after) == ("down", 1.5)
    assert isinstance(error, ConnectionError) and isinstance(error, LoopwrightError)
