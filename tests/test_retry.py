"""Retry: promise 9 of DESIGN section 5, in each of its forms.

Jitter survives the cap; an attempt never gets more than what is left in total; a cancel is never retried; the budget
caps retries to a share of the calls. Time is virtual.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import gc
import inspect
import logging
import pickle
import random
import re
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from support.cancels import EVERY_STEP, cancels, in_cell
from support.loops import CELLS, Cell, parameters, run

from loopwright import (
    Background,
    Retry,
    RetryBudget,
    RetryEvent,
    RetryOn,
    _trace,
    http_errors,
    http_retry_after,
    time_left,
    timeout,
)
from loopwright.testing import Play, SimLoop, cancel_sweep, random_cancels


def simulated(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    with asyncio.Runner(loop_factory=SimLoop) as runner:
        return runner.run(main())


class Flaky:
    """Fails so many times, and remembers when it was called."""

    def __init__(self, failures: float, error: Callable[[int], Exception] | None = None, takes: float = 0.0) -> None:
        self.failures = failures
        self.error = error or (lambda number: ConnectionError(f"no {number}"))
        self.takes = takes
        self.at: list[float] = []

    async def __call__(self, value: object = "done") -> object:
        self.at.append(asyncio.get_running_loop().time())
        number = len(self.at)
        if self.takes:
            await asyncio.sleep(self.takes)
        if number <= self.failures:
            raise self.error(number)
        return value

    def delays(self) -> list[float]:
        return [later - earlier - self.takes for earlier, later in zip(self.at, self.at[1:], strict=False)]


FORMS = ["decorator", "call", "block"]


async def through(form: str, retry: Retry, fn: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """One call, in one of the forms."""
    if form == "decorator":
        return await retry(fn)(*args)
    if form == "call":
        return await retry(fn, *args) if args else await retry(fn)
    result = None
    async for attempt in retry:
        async with attempt:
            result = await fn(*args)
    return result


# ------------------------------------------------------------------------------- attempts


@pytest.mark.parametrize("form", FORMS)
def test_what_fails_is_called_again_until_it_succeeds(form: str) -> None:
    async def main() -> None:
        flaky = Flaky(3)
        assert await through(form, retry, flaky, 7) == 7
        assert len(flaky.at) == 4
        with pytest.raises(ConnectionError, match="no 4"):
            await through(form, retry, Flaky(9))

    retry = Retry(attempts=4)
    simulated(main)
    stats = retry.stats()
    assert (stats.calls, stats.retries, stats.recovered, stats.out_of_attempts) == (2, 6, 1, 1)


@pytest.mark.parametrize(
    "retry", [Retry(timeout=None), Retry(), Retry(attempt_timeout=5)], ids=["direct", "total", "all"]
)
def test_every_kind_of_function_is_retried(retry: Retry) -> None:
    answers: list[object] = []

    def next_answer(*args: object, **kwargs: object) -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer, args, kwargs

    async def coroutine_function(*args: object, **kwargs: object) -> object:
        return next_answer(*args, **kwargs)

    class Callable_:
        async def __call__(self, *args: object, **kwargs: object) -> object:
            return next_answer(*args, **kwargs)

        @retry
        async def method(self, *args: object, **kwargs: object) -> object:
            return next_answer(*args, **kwargs)

        @staticmethod
        @retry
        async def static(*args: object, **kwargs: object) -> object:
            return next_answer(*args, **kwargs)

        @classmethod
        @retry
        async def of_class(cls, *args: object, **kwargs: object) -> object:
            assert cls is Callable_
            return next_answer(*args, **kwargs)

        late: Any

    Callable_.late = retry(lambda self, *args, **kwargs: coroutine_function(*args, **kwargs))
    instance = Callable_()

    async def main() -> None:
        for fn in (
            retry(coroutine_function),
            retry(instance),
            retry(functools.partial(coroutine_function)),
            retry(lambda *args, **kwargs: coroutine_function(*args, **kwargs)),  # noqa: PLW0108 (is tested)
            instance.method,
            instance.static,
            Callable_.static,
            instance.of_class,
            instance.late,
        ):
            answers[:] = [ConnectionError(), ConnectionError(), 5]
            assert await fn(1, b=2) == (5, (1,), {"b": 2})
        answers[:] = [ConnectionError(), 5]
        assert await retry(coroutine_function) == (5, (), {})
        answers[:] = [ConnectionError(), 5]
        assert await retry(lambda: coroutine_function(1)) == (5, (1,), {})
        answers[:] = [ConnectionError(), 5]
        assert await retry(coroutine_function, 1, b=2) == (5, (1,), {"b": 2})

    simulated(main)
    answers[:] = [ConnectionError(), ConnectionError(), 5]
    assert Retry(base=0)(next_answer)(1, b=2) == (5, (1,), {"b": 2}), "a plain one, where no loop runs"


def test_a_decorated_function_is_like_the_function() -> None:
    assert inspect.iscoroutinefunction(decorated)
    assert asyncio.iscoroutinefunction(decorated)
    assert (decorated.__name__, decorated.__module__, decorated.__doc__) == ("decorated", __name__, "Of a module.")
    assert list(inspect.signature(decorated).parameters) == ["a", "b"]
    assert decorated.__wrapped__ is not decorated
    assert decorated.retry.name == "module"
    assert pickle.loads(pickle.dumps(decorated)) is decorated
    assert "decorated with <Retry 'module'" in repr(decorated)
    assert inspect.isfunction(OfAClass.method), "a method is a plain function"
    assert OfAClass.method.retry is decorated.retry  # type: ignore[attr-defined]


@Retry(name="module")
async def decorated(a: int, b: int = 2) -> int:
    """Of a module."""
    return a + b


class OfAClass:
    @decorated.retry
    async def method(self) -> None: ...


def test_the_first_item_of_an_async_generator_is_tried_for() -> None:
    made: list[int] = []
    closed: list[int] = []

    @Retry(base=0.001)
    async def rows(first: int, total: int) -> AsyncGenerator[int, int]:
        made.append(len(made))
        try:
            if len(made) < first:
                raise ConnectionError("before the first item")
            sent = 0
            for number in range(total):
                sent = (yield number + sent) or 0
            raise ConnectionError("later")
        finally:
            closed.append(len(made))

    async def main() -> None:
        got = []
        with pytest.raises(ConnectionError, match="later"):
            async for item in rows(3, 2):
                got.append(item)
        assert (got, len(made)) == ([0, 1], 3)
        made.clear()
        stream = rows(2, 5)
        assert await anext(stream) == 0
        assert await stream.asend(10) == 11
        closed.clear()
        await stream.aclose()
        assert closed == [2], "it is closed with the source"
        made.clear()
        with pytest.raises(KeyError):
            await (stream := rows(1, 5)).asend(None)  # type: ignore[arg-type]
            await stream.athrow(KeyError())

    simulated(main)


def test_an_async_generator_without_items_ends_at_once() -> None:
    tries = []

    @Retry(base=0.001)
    async def nothing() -> AsyncGenerator[int, None]:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError
        for item in ():
            yield item

    async def main() -> None:
        assert [item async for item in nothing()] == []

    simulated(main)
    assert len(tries) == 3


@pytest.mark.parametrize("form", FORMS)
def test_only_what_was_named_is_retried(form: str) -> None:
    async def attempts(on: Any, error: Exception) -> int:
        flaky = Flaky(9, lambda _: error)
        with pytest.raises(type(error)) as caught:
            await through(form, Retry(on, attempts=3, budget=None, base=0.001), flaky)
        assert caught.value is error
        return len(flaky.at)

    async def main() -> None:
        assert await attempts(None, ConnectionResetError()) == 3
        assert await attempts(None, TimeoutError()) == 3
        assert await attempts(None, ValueError()) == 1
        assert await attempts(KeyError, KeyError()) == 3
        assert await attempts(LookupError, KeyError()) == 3
        assert await attempts((KeyError, ValueError), ValueError()) == 3
        assert await attempts((KeyError, lambda error: "busy" in str(error)), OSError("busy")) == 3
        assert await attempts((KeyError, lambda error: "busy" in str(error)), OSError("gone")) == 1
        assert await attempts(RetryOn(errors=(KeyError,), error=lambda error: str(error) == "x"), OSError("x")) == 3

    simulated(main)


def test_a_result_that_counts_as_failed_is_retried_and_the_last_one_returned() -> None:
    async def main() -> None:
        answers = iter([503, 503, 200])

        @Retry(RetryOn(result=lambda status: status == 503), attempts=3, on_retry=events.append)
        async def fetch() -> int:
            return next(answers)

        assert await fetch() == 200
        answers = iter([503, 503, 503, 200])
        assert await fetch() == 503
        assert fetch.retry.stats().out_of_attempts == 1

    events: list[RetryEvent] = []
    simulated(main)
    assert [(event.attempt, event.result, event.error) for event in events] == [(1, 503, None), (2, 503, None)] * 2
    answers = iter([503, 200])
    assert Retry(RetryOn(result=lambda status: status == 503), base=0)(lambda: next(answers))() == 200


# ------------------------------------------------------------------------------- promise 9: jitter


@pytest.mark.parametrize("jitter", ["full", "equal", "decorrelated"])
def test_promise_9_jitter_survives_the_cap(jitter: Any) -> None:
    """1,000 draws at the cap, and they differ: stamina and tenacity have one value there."""
    policy = Retry(attempts=200, timeout=None, base=0.1, max_delay=5.0, jitter=jitter)
    late = [delay for _ in range(6) for delay in list(policy.delays())[10:]]
    assert len(set(late)) > 0.99 * len(late) > 1000
    assert max(late) <= 5.0
    assert max(late) - min(late) > 2.0


def test_delays_grow_to_the_cap() -> None:
    assert list(Retry(attempts=8, base=0.1, max_delay=2, jitter="none").delays()) == [0.1, 0.2, 0.4, 0.8, 1.6, 2, 2]

    async def main() -> None:
        flaky = Flaky(9)
        with pytest.raises(ConnectionError):
            await Retry(attempts=6, base=0.1, max_delay=1, jitter="none")(flaky)()
        assert flaky.delays() == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0])

    simulated(main)


def test_delays_can_be_repeated() -> None:
    policy = Retry(attempts=5)

    async def main() -> list[float]:
        flaky = Flaky(3)
        await policy(flaky)()
        return flaky.delays()

    with policy.seeded(7):
        first = simulated(main)
    with policy.seeded(7):
        assert simulated(main) == first
    assert simulated(main) != first
    random.seed(5)
    again = simulated(main)
    random.seed(5)
    assert simulated(main) == again, "without a seed of its own, it is random's"


# ------------------------------------------------------------------------------- promise 9: time


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("attempt_timeout", [7, lambda number: 7 * number, None])
def test_promise_9_an_attempt_never_gets_more_than_what_is_left_in_total(form: str, attempt_timeout: Any) -> None:
    async def main() -> None:
        async def hangs() -> None:
            left.append(time_left())
            await asyncio.sleep(1000)

        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError) as caught:
            await through(form, policy, hangs)
        assert loop.time() == 20
        assert caught.value.retry.reason == "time"  # type: ignore[attr-defined]

    left: list[float | None] = []
    policy = Retry(attempts=9, timeout=20, attempt_timeout=attempt_timeout, base=1, jitter="none", on=OSError)
    simulated(main)
    assert left == {True: [7, 7, 3], False: [7, 12]}[not callable(attempt_timeout)] if attempt_timeout else [20]
    assert policy.stats().out_of_time == 1


@pytest.mark.parametrize("form", FORMS)
def test_promise_9_a_delay_that_does_not_fit_is_not_begun(form: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        flaky = Flaky(9, takes=1)
        with pytest.raises(ConnectionError, match="no 3") as caught:
            await through(form, Retry(attempts=9, timeout=10, base=2, max_delay=50, jitter="none"), flaky)
        assert loop.time() == 1 + 2 + 1 + 4 + 1, "the next one would have been 8 s later, with 1 s left"
        assert "would begin in 8 s, and 1 s are left" in caught.value.__notes__[0]

        async with timeout(6) as outer:
            with pytest.raises(ConnectionError, match="no 2"):
                await through(form, Retry(attempts=9, base=2, max_delay=50, jitter="none"), Flaky(9, takes=1))
        assert outer.remaining == 2, "the caller's own deadline counts too"

    simulated(main)


def test_an_attempts_own_timeout_is_retried_whatever_on_says() -> None:
    async def main() -> None:
        for form in FORMS:
            flaky = Flaky(0, takes=5)

            async def shorter(flaky: Flaky = flaky) -> object:
                flaky.takes -= 2
                return await flaky()

            policy = Retry(on=KeyError, attempt_timeout=2)
            assert await through(form, policy, shorter) == "done"
            assert policy.stats().retries == 1
            with pytest.raises(TimeoutError):
                await through(form, policy, Flaky(9, lambda _: TimeoutError()))

    simulated(main)


def test_a_servers_wish_is_waited_out_and_the_jitter_comes_on_top() -> None:
    class Busy(Exception):
        pass

    async def main() -> None:
        flaky = Flaky(2, lambda number: Busy(7 * number))
        await Retry(Busy, retry_after=lambda error: error.args[0], base=1, max_delay=2)(flaky)()
        first, second = flaky.delays()
        assert 7 < first < 8
        assert 14 < second < 16, "more than max_delay: the server has said so"
        with pytest.raises(Busy):
            await Retry(Busy, retry_after=lambda error: 60.0)(Flaky(1, lambda _: Busy()))()
        assert asyncio.get_running_loop().time() < 25, "there is no time for that"

    simulated(main)


# ------------------------------------------------------------------------------- promise 9: cancels


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit, BaseException])
def test_promise_9_what_ends_a_task_cannot_be_named(error: Any) -> None:
    with pytest.raises(TypeError, match=f"types of Exception, got {error.__name__}: a cancel"):
        Retry(on=error)


@pytest.mark.parametrize("form", FORMS)
def test_promise_9_a_cancel_is_never_retried(form: str) -> None:
    async def main() -> None:
        async def raises(error: BaseException) -> None:
            calls.append(error)
            raise error

        for error in (asyncio.CancelledError(), Interrupt()):
            calls: list[BaseException] = []
            with pytest.raises(type(error)):
                await through(form, Retry(on=lambda error: True), raises, error)
            assert len(calls) == 1

    class Interrupt(BaseException):
        """As KeyboardInterrupt, which ends the loop too."""

    simulated(main)


@pytest.mark.parametrize("form", FORMS)
def test_promise_9_an_error_that_a_cancel_has_become_is_not_retried(form: str) -> None:
    """Drivers do that: the task would go on for the length of all its retries, although it was cancelled."""

    async def main() -> None:
        async def driver() -> None:
            calls.append(1)
            try:
                await asyncio.sleep(9)
            except asyncio.CancelledError:
                raise ConnectionError("closed") from None

        calls: list[int] = []
        task = asyncio.create_task(through(form, Retry(), driver))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(ConnectionError) as caught:
            await task
        assert "the task is being cancelled" in caught.value.__notes__[0]
        assert calls == [1]

    simulated(main)


async def scenario(play: Play) -> None:
    """Calls in every form, waits among them: a cancel ends each where it is, and the books are right."""
    budget = RetryBudget(0.0, floor=1, window=1000)
    policy = Retry(attempts=3, timeout=5, base=0.001, max_delay=0.001, budget=budget)
    policy_with_all = Retry(attempts=3, timeout=5, attempt_timeout=1, base=0.001, max_delay=0.001, budget=budget)
    attempts = 0

    async def flaky(failures: list[int]) -> str:
        nonlocal attempts
        attempts += 1
        await play.pause()
        if failures:
            failures.pop()
            raise ConnectionError
        return "done"

    async def block() -> None:
        failures = [0]
        async for attempt in policy:
            async with attempt:
                await flaky(failures)

    play.spawn(policy(flaky)([0]))
    play.spawn(policy_with_all(flaky)([0, 0]))
    play.spawn(block())
    await play.finished()
    stats = [policy.stats(), policy_with_all.stats()]
    calls, retries = sum(one.calls for one in stats), sum(one.retries for one in stats)
    assert attempts <= calls + retries, "an attempt is the first one or a retry"
    assert budget.stats().retries == retries
    assert all(one.recovered <= one.calls for one in stats)


@pytest.mark.parametrize("cell", parameters([cell for cell in CELLS if not cell.debug]))
def test_a_cancel_at_every_step_is_passed_on(cell: Cell) -> None:
    assert cancel_sweep(scenario, **EVERY_STEP, **in_cell(cell)).count("cancel") > 10


@pytest.mark.parametrize("cell", parameters([cell for cell in CELLS if not cell.debug]))
def test_random_cancels(cell: Cell) -> None:
    random_cancels(scenario, cancels(cell=cell, share=0.02), **in_cell(cell))


def test_every_cell_has_the_same_results(cell: Cell) -> None:
    async def main() -> None:
        policy = Retry(base=0.0001, max_delay=0.0001, attempt_timeout=30)
        for form in FORMS:
            assert await through(form, policy, Flaky(2), 5) == 5
        assert (policy.stats().retries, policy.stats().recovered) == (6, 3)

    run(main, cell)


# ------------------------------------------------------------------------------- promise 9: the budget


def test_promise_9_the_budget_caps_retries_to_a_share_of_the_calls() -> None:
    """A minute of outage, 50 calls a second of four attempts each: a fifth more load, not four times as much."""

    async def main() -> None:
        async def down() -> None:
            attempts.append(1)
            raise ConnectionError

        call = Retry(attempts=4, base=0.01, budget=budget)(down)
        tasks = []
        for _ in range(60):
            for _ in range(50):
                tasks.append(asyncio.create_task(call()))
            await asyncio.sleep(1)
        await asyncio.gather(*tasks, return_exceptions=True)
        errors = [task.exception() for task in tasks]
        assert all(isinstance(error, ConnectionError) for error in errors)
        assert any("the retry budget is empty" in "".join(getattr(error, "__notes__", [])) for error in errors)

    attempts: list[int] = []
    budget = RetryBudget(0.2, floor=0)
    simulated(main)
    calls = 60 * 50
    assert 1.15 * calls < len(attempts) <= 1.2 * calls
    stats = budget.stats()
    assert stats.retries == len(attempts) - calls
    assert stats.denied == calls, "each call asked in vain in the end"


def test_a_budget_is_shared_by_name() -> None:
    a, b = Retry(name="test-db"), Retry(name="test-db", attempts=9)
    assert a.budget is b.budget is RetryBudget(0.2, name="test-db")
    assert Retry().budget is not Retry().budget
    with pytest.raises(ValueError, match=r"exists with share=0\.2, floor=10\.0, window=10\.0: give the same numbers"):
        Retry(name="test-db", budget=0.3)
    mine = RetryBudget(0.5)
    assert Retry(name="test-db", budget=mine).budget is mine
    budget = weakref.ref(a.budget)
    del a, b
    gc.collect()
    assert budget() is None, "it lives as long as somebody has it"
    assert Retry(name="test-db", budget=0.3).budget is not None


def test_calls_of_all_policies_that_share_it_count() -> None:
    async def main() -> None:
        async def fine() -> None: ...

        call = healthy(fine)
        for _ in range(100):
            await call()
        await asyncio.sleep(0.001)
        with pytest.raises(ConnectionError):
            await failing(Flaky(99))()

    budget = RetryBudget(0.1, floor=0)
    healthy, failing = Retry(budget=budget), Retry(budget=budget, attempts=50, base=0.001)
    simulated(main)
    assert failing.stats().retries == 10
    assert failing.stats().out_of_budget == 1
    assert 0 <= budget.stats().left < 1


# ------------------------------------------------------------------------------- what one sees


@pytest.mark.parametrize("form", FORMS)
def test_the_last_error_is_raised_as_itself_with_its_attempts(form: str) -> None:
    errors = [ConnectionError(f"no {number}") for number in range(1, 4)]

    async def main() -> None:
        flaky = Flaky(3, lambda number: errors[number - 1])
        with pytest.raises(ConnectionError) as caught:
            await through(form, Retry(attempts=3, name="db", base=1, jitter="none", budget=None), flaky)
        assert caught.value is errors[2]

    simulated(main)
    last = errors[2]
    assert last.__context__ is None
    assert last.__cause__ is None
    headline, *lines = last.__notes__
    assert headline.startswith("Retry 'db' of ")
    assert headline.endswith(" gave up after attempt 3: attempts=3")
    assert lines == [
        "  attempt 1: ConnectionError: no 1; 1 s until the next",
        "  attempt 2: ConnectionError: no 2; 2 s until the next",
    ]
    report = last.retry  # type: ignore[attr-defined]
    assert (report.name, report.reason) == ("db", "attempts")
    assert [(one.number, one.error, one.delay) for one in report.attempts] == [
        (1, "ConnectionError: no 1", 1.0),
        (2, "ConnectionError: no 2", 2.0),
        (3, "ConnectionError: no 3", None),
    ]
    assert pickle.loads(pickle.dumps(last)).retry == report


def test_an_error_that_was_raised_again_and_again_does_not_grow() -> None:
    error = ConnectionError("always the same")

    def fails() -> None:
        raise error

    for _ in range(100):
        with pytest.raises(ConnectionError):
            Retry(attempts=3, base=0)(fails)()
    assert len(error.__notes__) < 40


def test_an_error_that_takes_no_notes_is_raised_all_the_same() -> None:
    @dataclass(frozen=True)
    class Frozen(Exception):
        code: int

    async def main() -> None:
        with pytest.raises(Frozen):
            await Retry(Frozen, timeout=None)(Flaky(9, Frozen))()

    simulated(main)


def test_a_total_that_a_driver_turns_into_an_error_is_told_as_such() -> None:
    async def driver() -> None:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            raise ConnectionError("closed") from None

    async def main() -> None:
        with pytest.raises(ConnectionError) as caught:
            await policy(driver)()
        assert "its time was up" in caught.value.__notes__[0]
        assert asyncio.get_running_loop().time() == 5

    policy = Retry(timeout=5)
    simulated(main)
    assert policy.stats().out_of_time == 1


def test_policies_that_come_and_go_leave_nothing_behind() -> None:
    budget = RetryBudget(0.2)
    for _ in range(100):
        Retry(budget=budget)
    gc.collect()
    assert budget._policies == []


def test_an_error_that_was_not_retried_is_untouched() -> None:
    async def main() -> None:
        for policy in (Retry(), Retry(attempts=1)):
            error = KeyError("x") if policy.attempts == 4 else ConnectionError("x")
            with pytest.raises(type(error)):
                await policy(Flaky(1, lambda _, error=error: error))()
            assert not hasattr(error, "__notes__")
            assert not hasattr(error, "retry")

    simulated(main)


@pytest.mark.parametrize(
    "policy", [Retry(timeout=None, base=0), Retry(base=0), Retry(attempt_timeout=9, base=0)], ids=str
)
def test_the_users_frames_are_visible(policy: Retry) -> None:
    """Between the caller and the function, there is one frame of ours."""

    async def fetch() -> None:
        raise ConnectionError

    async def caller() -> None:
        await policy(fetch)()

    with pytest.raises(ConnectionError) as caught:
        asyncio.run(caller())
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[names.index("caller") :] == ["caller", "retried", "fetch"]


def test_nothing_is_kept_of_a_failed_call() -> None:
    class Thing:
        pass

    async def main() -> None:
        for form in FORMS:
            thing = Thing()
            there.append(weakref.ref(thing))
            with pytest.raises(ConnectionError):
                await through(form, policy, Flaky(9), thing)
            assert await through(form, policy, Flaky(1), thing) is thing
            del thing

    there: list[weakref.ref[Thing]] = []
    policy = Retry(attempts=3)
    gc.disable()
    try:
        simulated(main)
        assert [reference() for reference in there] == [None] * len(FORMS), "without the garbage collector"
    finally:
        gc.enable()


def test_on_retry_is_told_and_cannot_break_the_call(caplog: pytest.LogCaptureFixture) -> None:
    def tell(event: RetryEvent) -> None:
        events.append(event)
        raise ValueError("of the hook")

    async def main() -> None:
        flaky = Flaky(2)

        async def fetch() -> object:
            return await flaky()

        assert await Retry(on_retry=tell, name="db", base=1, jitter="none")(fetch)() == "done"

    events: list[RetryEvent] = []
    with caplog.at_level(logging.INFO, "loopwright.retry"):
        simulated(main)
    assert [(event.name, event.attempt, event.delay, str(event.error)) for event in events] == [
        ("db", 1, 1.0, "no 1"),
        ("db", 2, 2.0, "no 2"),
    ]
    assert events[0].function.endswith("main.<locals>.fetch")
    levels = [(record.levelname, record.name) for record in caplog.records]
    assert levels == [("INFO", "loopwright.retry"), ("ERROR", "loopwright.retry")] * 2
    assert "attempt 1 failed and is repeated in 1 s: ConnectionError: no 1" in caplog.text


def test_disabled_calls_are_made_once() -> None:
    async def main() -> None:
        with policy.disabled():
            for form in FORMS:
                flaky = Flaky(1)
                with pytest.raises(ConnectionError):
                    await through(form, policy, flaky)
                assert len(flaky.at) == 1
        assert await policy(Flaky(1))() == "done"

    policy = Retry()
    simulated(main)
    with policy.disabled(), pytest.raises(ConnectionError):
        policy(fails_once([]))()


def fails_once(calls: list[int]) -> Callable[[], str]:
    def call() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError
        return "done"

    return call


def test_attempts_are_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    spans: list[tuple[str, dict[str, object], str | None]] = []

    @contextlib.contextmanager
    def hook(name: str, attributes: dict[str, object]) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            spans.append((name, attributes, type(error).__name__))
            raise
        spans.append((name, attributes, None))

    async def main() -> None:
        for form in FORMS:
            await through(form, Retry(name="db", base=0.001), Flaky(1))

    monkeypatch.setattr(_trace, "hook", hook)
    simulated(main)
    Retry(name="db", base=0)(fails_once([]))()
    assert [name for name, _, _ in spans] == ["loopwright.retry"] * 8
    assert [(one["loopwright.name"], one["loopwright.retry.attempt"], error) for _, one, error in spans] == [
        ("db", 1, "ConnectionError"),
        ("db", 2, None),
    ] * 4


def test_a_retry_is_what_background_restarts_by() -> None:
    async def main() -> None:
        async with Background(on_error=lambda error, task: None) as jobs:
            flaky = Flaky(3)
            assert await jobs.spawn(flaky, restart=Retry(attempts=4, base=1, jitter="none")) == "done"
            assert flaky.delays() == [1, 2, 4]

    simulated(main)


# ------------------------------------------------------------------------------- blocks


def test_an_attempt_that_is_not_entered_is_a_mistake_that_is_found() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="write `async for attempt in retry:` and in it `async with attempt:`"):
            async for attempt in Retry():
                assert attempt.number == 1
        async for attempt in Retry():
            async with attempt:
                pass
            with pytest.raises(RuntimeError, match="entered once"):
                await attempt.__aenter__()

    simulated(main)
    with pytest.raises(RuntimeError, match="write `for attempt in retry:` and in it `with attempt:`"):
        for _ in Retry():
            pass


def test_a_block_can_be_left_as_any_other() -> None:
    async def main() -> object:
        policy = Retry()
        async for attempt in policy:
            async with attempt:
                if attempt.number == 1:
                    raise ConnectionError
                return attempt.number
        return None

    assert simulated(main) == 2
    for attempt in Retry():
        with attempt:
            break
    assert attempt.number == 1


# ------------------------------------------------------------------------------- plain functions


def test_a_plain_function_waits_in_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    assert Retry(base=1, jitter="none")(fails_once([]))() == "done"
    calls: list[int] = []
    fails = fails_once(calls)
    for attempt in Retry(base=1, jitter="none"):
        with attempt:
            fails()
    assert (slept, len(calls)) == ([1.0, 1.0], 2)


def test_a_plain_functions_total_is_looked_at_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0

    def pass_time(seconds: float) -> None:
        nonlocal now
        now += seconds

    def slow() -> None:
        pass_time(4)
        raise ConnectionError

    monkeypatch.setattr(time, "sleep", pass_time)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with pytest.raises(ConnectionError) as caught:
        Retry(attempts=9, timeout=10, base=1, jitter="none")(slow)()
    assert now == 1000 + 4 + 1 + 4
    assert "would begin in 2 s, and 1 s are left" in caught.value.__notes__[0]


def test_a_plain_function_never_stops_a_loop() -> None:
    async def main() -> None:
        with pytest.raises(
            RuntimeError, match=r"would block the running event loop for .* make it an `async def`"
        ) as caught:
            Retry()(fails_once([]))()
        assert isinstance(caught.value.__context__, ConnectionError)
        with pytest.raises(RuntimeError, match="Retry of a block would block"):
            for attempt in Retry():
                with attempt:
                    raise ConnectionError
        assert await asyncio.to_thread(Retry(base=0.001)(fails_once([]))) == "done"
        assert Retry(base=0)(fails_once([]))() == "done", "no wait, no harm"

    asyncio.run(main())


def test_an_attempt_timeout_is_not_for_plain_functions() -> None:
    policy = Retry(attempt_timeout=1)
    with pytest.raises(TypeError, match="cannot end <function fails_once"):
        policy(fails_once)
    with pytest.raises(TypeError, match="cannot end a plain `with attempt` block"):
        iter(policy)
    with pytest.raises(TypeError, match=r"cannot end <function .*<lambda>"):
        policy(lambda x: x, 3)


def test_calls_from_many_threads_are_counted() -> None:
    def work() -> None:
        for _ in range(500):
            call()

    policy = Retry(timeout=None)
    call = policy(lambda: None)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert policy.stats().calls == 2000


# ------------------------------------------------------------------------------- HTTP


@dataclass
class Response:
    """As httpx's; aiohttp's error has the status itself."""

    status_code: int
    headers: dict[str, str]


class StatusError(Exception):
    def __init__(self, response: Response) -> None:
        self.response = response


@pytest.mark.parametrize(
    ("status", "header", "seconds"),
    [
        (503, "7", 7.0),
        (429, " 120 ", 120.0),
        (200, "7", None),
        (503, None, None),
        (503, "-7", None),
        (503, "soon", None),
        (503, "Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
    ],
)
def test_a_retry_after_is_read(status: int, header: str | None, seconds: float | None) -> None:
    response = Response(status, {} if header is None else {"Retry-After": header})
    assert http_retry_after(response) == seconds
    assert http_retry_after(StatusError(response)) == seconds


def test_a_retry_after_may_be_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 946684790.0)  # nine seconds before the year 2000, in UTC
    assert http_retry_after(Response(503, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"})) == 9.0
    assert http_retry_after(Response(503, {"Retry-After": "Sat, 01 Jan 2000 00:59:59 +0100"})) == 9.0


def test_the_clients_own_errors_are_known() -> None:
    aiohttp, httpx = pytest.importorskip("aiohttp"), pytest.importorskip("httpx")
    multidict = pytest.importorskip("multidict")
    retried = http_errors.error
    assert retried is not None
    request = httpx.Request("GET", "http://x/")

    def status(code: int, **headers: str) -> Exception:
        answer = httpx.Response(code, headers=headers, request=request)
        error: Exception = httpx.HTTPStatusError("x", request=request, response=answer)
        return error

    def aiohttp_status(code: int, **headers: str) -> Exception:
        error: Exception = aiohttp.ClientResponseError(None, (), status=code, headers=multidict.CIMultiDict(headers))
        return error

    for make in (status, aiohttp_status):
        assert [code for code in (400, 404, 408, 429, 500, 502, 503, 504) if retried(make(code))] == [
            408,
            429,
            502,
            503,
            504,
        ]
        error = make(503, **{"retry-after": "5"})
        assert http_errors.retry_after is not None
        assert http_errors.retry_after(error) == 5.0
    for error in (httpx.ConnectError("x"), httpx.ReadTimeout("x"), httpx.RemoteProtocolError("x"), ConnectionError()):
        assert retried(error)
    for error in (aiohttp.ServerDisconnectedError(), aiohttp.ClientPayloadError(), TimeoutError()):
        assert retried(error)
    for error in (httpx.UnsupportedProtocol("x"), aiohttp.InvalidURL("x"), ValueError()):
        assert not retried(error)


# ------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attempts": 0}, "attempts=...) must be 1 or more, got 0"),
        ({"attempts": 2.5}, "attempts=...) must be an int, got 2.5"),
        ({"timeout": 0}, "timeout=...) must be more than 0 seconds"),
        ({"timeout": "5"}, "timeout=...) must be a number of seconds, got '5'"),
        ({"attempt_timeout": -1}, "attempt_timeout=...) must be more than 0"),
        ({"base": -1}, "base=...) must be 0 or more"),
        ({"base": 6}, "max_delay=5.0) is less than base=6: raise it"),
        ({"jitter": "some"}, "jitter=...) must be 'full', 'equal', 'decorrelated' or 'none', got 'some'"),
        ({"budget": -0.1}, "budget=...) must be 0 or more, got -0.1"),
        ({"budget": True}, "budget=...) must be a number, got True"),
        ({"on": 3}, "on=...) takes exception types, plain functions of an exception, RetryOn presets"),
        ({"on": decorated}, "on=...) takes exception types"),
        ({"on_retry": 3}, "on_retry=...) must be a plain function, got 3"),
        ({"on_retry": decorated}, "on_retry=...) must be a plain function"),
        ({"retry_after": 3}, "retry_after=...) must be a plain function, got 3"),
        ({"name": 3}, "name=...) must be a string, got 3"),
    ],
)
def test_arguments_are_checked_at_the_door(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        Retry(**arguments)


def test_what_cannot_be_called_again_is_refused() -> None:
    async def fetch() -> None: ...

    with pytest.raises(TypeError, match="a coroutine can only run once: pass the function that makes it"):
        Retry()(fetch())  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="got 3: pass something that can be called"):
        Retry()(3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="is a plain function: call it, do not await it"):

        async def main() -> None:
            await Retry()(lambda: 5)  # type: ignore[misc]

        asyncio.run(main())


def test_state_is_visible() -> None:
    policy = Retry(name="test-state", attempts=3)
    assert repr(policy) == "<Retry 'test-state' attempts=3 timeout=45 calls=0 retries=0>"
    assert repr(policy.budget) == "<RetryBudget 'test-state' share=0.2 floor=10.0/s>"
    assert repr(Retry(timeout=None)) == "<Retry attempts=4 calls=0 retries=0>"
    stats = policy.stats()
    assert (stats.name, stats.calls, stats.budget_left) == ("test-state", 0, 100.0)
    assert Retry(budget=None).stats().budget_left is None
    assert policy.budget is not None
    assert policy.budget.stats().window == 10.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.calls = 5  # type: ignore[misc]


def test_nothing_heavy_is_imported_for_it() -> None:
    code = "import sys, loopwright; print([n for n in ('aiohttp', 'httpx', 'email.utils') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
