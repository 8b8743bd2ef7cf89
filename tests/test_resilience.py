"""resilient: everything around a call, in the right order. safe_execute: a call whose failure is not the end."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

import pytest
from support.cancels import EVERY_STEP, in_cell
from support.loops import CELLS, Cell, parameters

from loopwright import (
    BreakerOpen,
    CircuitBreaker,
    Keyed,
    LoopwrightError,
    RateLimiter,
    RateLimitExceeded,
    Retry,
    Semaphore,
    resilient,
    safe_execute,
    time_left,
)
from loopwright.testing import Play, SimLoop, cancel_sweep


def simulated(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    with asyncio.Runner(loop_factory=SimLoop) as runner:
        return runner.run(main())


class Guard:
    """A breaker or limiter that tells when it is entered and left, and by what."""

    def __init__(self, name: str, log: list[str], waits: float = 0.0) -> None:
        self.name, self.log, self.waits = name, log, waits

    async def __aenter__(self) -> None:
        await asyncio.sleep(self.waits)
        self.log.append(f"+{self.name}")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.log.append(f"-{self.name}" + (f" {kind.__name__}" if kind else ""))


class Open(LoopwrightError, ConnectionError):
    """As a breaker's: says when it will let calls through."""

    def __init__(self, retry_after: float | None) -> None:
        super().__init__("open")
        self.retry_after = retry_after


def test_the_order_is_retry_breaker_limiter_call_whatever_was_given_first() -> None:
    log: list[str] = []

    @resilient(limiter=Guard("limiter", log), breaker=Guard("breaker", log), retry=Retry(attempts=2), timeout=9)
    async def fetch(answers: list[str | Exception]) -> str:
        log.append("call")
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def main() -> None:
        assert await fetch([ConnectionError(), "page"]) == "page"

    simulated(main)
    failed = ["+breaker", "+limiter", "call", "-limiter ConnectionError", "-breaker ConnectionError"]
    assert log == [*failed, "+breaker", "+limiter", "call", "-limiter", "-breaker"]


def test_the_attempts_timeout_begins_behind_the_limiter_and_the_total_in_front_of_everything() -> None:
    left: list[float | None] = []
    policy = Retry(attempts=3, attempt_timeout=2, timeout=45, jitter="none", base=1)

    @resilient(retry=policy, limiter=Guard("limiter", [], waits=5), timeout=20)
    async def fetch() -> None:
        left.append(time_left())
        await asyncio.sleep(60)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError) as caught:
            await fetch()
        assert loop.time() == 20
        notes = "\n".join(caught.value.__notes__)
        assert "timeout=20 in attempt 3" in notes
        assert "attempt 2: TimeoutError: timeout(2) expired" in notes

    simulated(main)
    assert left == [2, 2], "the third one came as far as the limiter"
    assert policy.stats().out_of_time == 1


def test_an_open_breaker_is_retried_only_if_it_opens_in_time() -> None:
    policy = Retry(attempts=3, on=OSError, timeout=10, jitter="none", base=0)

    def fetching(*waits: float | None) -> Callable[[], Coroutine[Any, Any, str]]:
        answers = list(waits)

        @asynccontextmanager
        async def breaker() -> Any:
            if answers:
                raise Open(answers.pop(0))
            yield

        @resilient(retry=policy, breaker=breaker)
        async def fetch() -> str:
            return "page"

        return fetch

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await fetching(7)() == "page"
        assert loop.time() == 7
        for wait in (30, None):
            with pytest.raises(Open):
                await fetching(wait)()
        assert loop.time() == 7, "refused at once"

    simulated(main)


def test_each_attempt_counts_in_the_breaker_and_its_opening_ends_them() -> None:
    at: list[float] = []
    breaker = CircuitBreaker(window=4, min_calls=2, open_for=3, half_open=1)
    policy = Retry(attempts=5, base=0.0, timeout=10)

    @resilient(retry=policy, breaker=breaker)
    async def fetch() -> None:
        at.append(asyncio.get_running_loop().time())
        raise ConnectionError("down")

    async def main() -> None:
        with pytest.raises(BreakerOpen) as caught:
            await fetch()
        assert [one.error.split(":")[0] for one in caught.value.retry.attempts] == [  # type: ignore[attr-defined]
            "ConnectionError",
            "ConnectionError",
            "BreakerOpen",
            "ConnectionError",
            "BreakerOpen",
        ]
        with pytest.raises(BreakerOpen):
            await resilient(fetch.__wrapped__, retry=Retry(timeout=2), breaker=breaker)()  # type: ignore[attr-defined]

    simulated(main)
    assert at == [0, 0, 3], "two that failed, and the probe"


def test_what_the_limiter_cannot_serve_in_time_is_refused_at_once() -> None:
    ended: list[tuple[str, float]] = []

    @resilient(retry=Retry(attempts=3), limiter=RateLimiter(1, burst=1), timeout=2.5)
    async def fetch() -> None: ...

    async def one() -> None:
        try:
            await fetch()
            ended.append(("done", asyncio.get_running_loop().time()))
        except RateLimitExceeded:
            ended.append(("refused", asyncio.get_running_loop().time()))

    async def main() -> None:
        await asyncio.gather(*[one() for _ in range(5)])

    simulated(main)
    assert ended == [("done", 0), ("refused", 0), ("refused", 0), ("done", 1), ("done", 2)]


def test_a_guard_may_be_chosen_by_the_arguments() -> None:
    per_host = Keyed(lambda host: Semaphore(1))
    at: list[tuple[str, float]] = []

    @resilient(limiter=lambda host, **_: per_host[host])
    async def fetch(host: str, *, size: int = 1) -> None:
        at.append((host, asyncio.get_running_loop().time()))
        await asyncio.sleep(size)

    async def main() -> None:
        await asyncio.gather(fetch("a", size=3), fetch("a"), fetch("b"))

    simulated(main)
    assert at == [("a", 0), ("b", 0), ("a", 3)]


def test_it_is_a_coroutine_function_of_that_name_and_mistakes_are_refused() -> None:
    async def fetch() -> int:
        """Fetches."""
        return 1

    wrapped = resilient(fetch)
    assert (asyncio.iscoroutinefunction(wrapped), wrapped.__name__, wrapped.__doc__) == (True, "fetch", "Fetches.")
    assert simulated(wrapped) == 1
    with pytest.raises(TypeError, match="`async def` function, got <built-in function len>: for a plain one"):
        resilient(len)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"retry=\.\.\.\) must be a Retry, got 3"):
        resilient(retry=3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"limiter=\.\.\.\) must be an async context manager or a function"):
        resilient(limiter=3)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="more than 0"):
        resilient(timeout=0)


@pytest.mark.parametrize("cell", parameters([cell for cell in CELLS if not cell.debug]))
def test_a_cancel_at_every_step_passes_and_leaves_nothing_taken(cell: Cell) -> None:
    guards: list[Semaphore] = []

    async def scenario(play: Play) -> None:
        breaker, limiter = guards[:] = Semaphore(2), Semaphore(1)
        policy = Retry(attempts=3, base=0.001, max_delay=0.001, budget=None)

        @resilient(retry=policy, breaker=breaker, limiter=limiter, timeout=5)
        async def fetch(failures: list[int]) -> None:
            await asyncio.sleep(0)
            if failures:
                failures.pop()
                raise ConnectionError

        for number in range(1, 3):
            play.spawn(fetch([0] * number))
        await play.finished()
        stats = policy.stats()
        assert stats.recovered + stats.out_of_attempts <= stats.calls <= 2

    def invariant() -> None:
        assert [guard.value for guard in guards] == [2, 1]

    assert cancel_sweep(scenario, invariant=invariant, **EVERY_STEP, **in_cell(cell)).count("cancel") > 10


# ------------------------------------------------------------------------------- safe_execute


def test_a_failure_is_logged_and_answered_with_the_default(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(user: int, *, token: str, url: str, headers: dict[str, str]) -> int:
        raise ConnectionError("refused")

    async def computed() -> int:
        return 9

    headers = {"Authorization": "Bearer abc", "Accept": "*/*"}
    url = "postgres://me:hunter2@db/x"

    async def main() -> None:
        call = functools.partial(safe_execute, fails, 7, token="hunter2", url=url, headers=headers)
        assert await call() is None
        assert await call(default=5, operation="greet") == 5
        assert await call(default=list) == []
        assert await call(default=computed) == 9
        with pytest.raises(ConnectionError):
            await call(errors=(KeyError, ValueError))

    asyncio.run(main())
    assert len(caplog.records) == 4
    for record, operation in zip(caplog.records, ["fails", "greet", "fails", "fails"], strict=True):
        assert (record.name, record.levelno) == ("loopwright.resilience", logging.ERROR)
        assert operation in record.operation  # type: ignore[attr-defined]
        assert record.duration >= 0  # type: ignore[attr-defined]
        assert record.exc_info is not None and isinstance(record.exc_info[1], ConnectionError)
    assert "hunter2" not in caplog.text.replace(url, ""), "the source line of a traceback is not ours to cut"
    assert "Bearer" not in caplog.text
    message = caplog.records[0].getMessage()
    assert "user=7, token=***, url='postgres://***@db/x', headers={" in message
    assert "'Authorization': '***'" in message
    assert "'Accept': '*/*'" in message


def test_what_does_not_fail_is_answered_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    async def fetch() -> int:
        return 3

    async def main() -> None:
        assert await safe_execute(fetch, default=5) == 3
        assert await safe_execute(int, "7", default=5) == 7
        assert await safe_execute(int, "x", default=5) == 5
        assert await safe_execute(functools.partial(fetch), default=5) == 3

    asyncio.run(main())
    assert len(caplog.records) == 1


def test_no_cancel_is_eaten_not_even_one_that_became_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async def waits() -> None:
        await asyncio.sleep(9)

    async def turns_it_into_an_error() -> None:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            raise ConnectionError("closed") from None

    async def main() -> None:
        for fn, ends_with in ((waits, asyncio.CancelledError), (turns_it_into_an_error, ConnectionError)):
            task = asyncio.create_task(safe_execute(fn, default=5))
            await asyncio.sleep(1)
            task.cancel()
            with pytest.raises(ends_with):
                await task

    simulated(main)
    assert caplog.records == []


def test_mistakes_are_refused() -> None:
    async def fetch() -> int:
        return 3

    async def main() -> None:
        with pytest.raises(TypeError, match="leave out the call"):
            await safe_execute(fetch())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="no cancel is eaten"):
            await safe_execute(fetch, errors=BaseException)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="function and its arguments, got 3"):
            await safe_execute(3)  # type: ignore[arg-type]

    asyncio.run(main())


@pytest.mark.parametrize("cell", parameters([cell for cell in CELLS if not cell.debug]))
def test_the_sweep_finds_no_cancel_that_safe_execute_eats(cell: Cell) -> None:
    async def scenario(play: Play) -> None:
        async def fails(turns: int) -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            raise ConnectionError

        for turns in range(3):
            play.spawn(safe_execute(fails, turns, default=5))
        await play.finished()

    logging.getLogger("loopwright.resilience").disabled = True
    try:
        cancel_sweep(scenario, **EVERY_STEP, **in_cell(cell))
    finally:
        logging.getLogger("loopwright.resilience").disabled = False
