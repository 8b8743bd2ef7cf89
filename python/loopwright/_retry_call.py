"""A call that has failed: the verdict on each failed attempt, and what its error tells in the end.

The verdict is the core's (``crates/core/src/retry.rs``); here are the questions that only Python can answer: whether an
error is one that is retried, what the other side wishes, whether a cancel is under way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from loopwright import _trace
from loopwright.errors import LoopwrightError

if TYPE_CHECKING:
    from loopwright.retries import Retry

__all__ = [
    "FailedAttempt",
    "FailedCall",
    "RetryEvent",
    "RetryReport",
    "is_being_cancelled",
    "name_of",
    "now",
    "span",
    "until",
]

_log = logging.getLogger("loopwright.retry")

_KEPT = 10
"""A report has so many failed attempts, the last ones."""

_NOTES = 30
"""An error that has more notes loses the rest before it gets its own."""

Reason = Literal["attempts", "time", "budget", "error", "cancel"]


@dataclass(frozen=True, slots=True)
class RetryEvent:
    """What ``on_retry`` is called with: an attempt has failed and there will be another one."""

    name: str | None
    """The name of the policy."""
    function: str
    """What was called."""
    attempt: int
    """The number of the attempt that failed; the first is 1."""
    error: Exception | None
    """Its error; None when its result counts as failed."""
    result: object
    """That result; None when there is an error."""
    delay: float
    """Seconds until the next attempt."""


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """One attempt in a :class:`RetryReport`."""

    number: int
    """The first is 1."""
    error: str
    """The error's type and message."""
    delay: float | None
    """Seconds that were waited after it; None after the last one."""


@dataclass(frozen=True, slots=True)
class RetryReport:
    """What became of a call that was given up: ``error.retry`` of the error it raised.

    The same is in the error's notes, and so in its traceback. The earlier errors are told as text: to keep them would
    keep everything alive that their tracebacks refer to.
    """

    name: str | None
    """The name of the policy."""
    reason: Reason
    """``attempts``: there was the last one; ``time``: the next one would come too late, or the total timeout ended one;
    ``budget``: the retry budget was empty; ``error``: the last error is none that is retried; ``cancel``: the task was
    being cancelled."""
    attempts: tuple[FailedAttempt, ...]
    """The failed attempts, the last ten of them; the last one's error is the one that has this report."""


class FailedCall:
    """A call that has failed at least once: its failures, and the verdict on each."""

    __slots__ = ("_attempts", "_failures", "_function", "_policy")

    def __init__(self, policy: Retry, fn: object) -> None:
        self._policy = policy
        self._function = fn
        self._failures = policy._core.begin(policy._seed())
        self._attempts: list[FailedAttempt] = []

    def failed(
        self,
        error: Exception | None,
        *,
        left: float | None,
        result: object = None,
        timed_out: bool = False,
        in_task: bool = True,
    ) -> float | None:
        """The seconds to wait before the next attempt; None: there is none, and the error has its notes."""
        policy = self._policy
        if policy._off:
            return None
        number = self._failures.count + 1
        if error is not None:
            if in_task and is_being_cancelled(error):
                if left is not None and left <= 0:
                    self._give_up("time", error, "its time was up")
                else:
                    self._give_up("cancel", error, "the task is being cancelled")
                return None
            own = isinstance(error, LoopwrightError) and hasattr(error, "retry_after")
            if own and error.retry_after is None:  # type: ignore[attr-defined]
                self._give_up("error", error, "it does not say when another attempt would make sense")
                return None
            if not (timed_out or own or isinstance(error, policy._kinds) or any(p(error) for p in policy._predicates)):
                self._give_up("error", error, "this error is none that is retried")
                return None
        at = now()
        budget = policy._budget
        if budget is not None:
            budget._tell(at)
        wish = self._wish(error, result)
        verdict, delay = self._failures.failed(None if budget is None else budget._core, at, left, wish)
        if verdict != "again":
            self._give_up(verdict, error, self._why(verdict, delay, left))
            return None
        policy._counts["retries"] += 1
        self._attempts.append(FailedAttempt(number, _told(error), delay))
        del self._attempts[:-_KEPT]
        self._announce(number, error, result, delay)
        return delay

    def _wish(self, error: Exception | None, result: object) -> float | None:
        wish = getattr(error, "retry_after", None) if isinstance(error, LoopwrightError) else None
        for ask in self._policy._retry_after if wish is None else ():
            wish = ask(result if error is None else error)
            if wish is not None:
                break
        return wish

    def _why(self, verdict: str, delay: float, left: float | None) -> str:
        policy = self._policy
        match verdict:
            case "attempts":
                return f"attempts={policy._attempts}"
            case "time":
                left = 0.0 if left is None else max(left, 0.0)
                return f"the next one would begin in {delay:.3g} s, and {left:.3g} s are left"
            case _:
                return f"the retry budget is empty: {policy._budget!r}"

    def _announce(self, number: int, error: Exception | None, result: object, delay: float) -> None:
        policy, function = self._policy, name_of(self._function)
        if _log.isEnabledFor(logging.INFO):
            _log.info(
                "%s: attempt %d failed and is repeated in %.3g s: %s", function, number, delay, self._attempts[-1].error
            )
        if policy._on_retry is not None:
            try:
                policy._on_retry(RetryEvent(policy._name, function, number, error, result, delay))
            except Exception:
                _log.exception("Retry(on_retry=...) raised when it was told of a failed attempt of %s", function)

    def _give_up(self, reason: Reason, error: Exception | None, why: str) -> None:
        self._policy._counts[reason] += 1
        number = self._attempts[-1].number + 1 if self._attempts else 1
        if error is None or (number == 1 and reason in ("error", "attempts")):
            return  # nothing that its traceback does not tell
        self._tell(error, reason, f"gave up after attempt {number}: {why}", number)

    def expired(self, error: TimeoutError, total: float | None) -> None:
        """The total timeout has ended an attempt, or the wait before it."""
        self._policy._counts["time"] += 1
        number = self._attempts[-1].number + 1 if self._attempts else 1
        self._tell(error, "time", f"was ended by timeout={total:g} in attempt {number}", number)

    def _tell(self, error: Exception, reason: Reason, headline: str, number: int) -> None:
        name = "" if self._policy._name is None else f" {self._policy._name!r}"
        last = FailedAttempt(number, _told(error), None)
        with suppress(AttributeError):  # a frozen dataclass can be an exception, too
            # An instance that is raised again and again must not grow.
            del getattr(error, "__notes__", [])[_NOTES:]
            error.add_note(f"Retry{name} of {name_of(self._function)} {headline}")
            for attempt in self._attempts:
                error.add_note(f"  attempt {attempt.number}: {attempt.error}; {attempt.delay:.3g} s until the next")
            error.retry = RetryReport(  # type: ignore[attr-defined]
                self._policy._name, reason, (*self._attempts, last)[-_KEPT:]
            )


def span(policy: Retry, fn: object, number: int) -> AbstractContextManager[Any]:
    if _trace.hook is None:
        return nullcontext()
    attributes: dict[str, object] = {"loopwright.retry.function": name_of(fn), "loopwright.retry.attempt": number}
    if policy._name is not None:
        attributes["loopwright.name"] = policy._name
    return _trace.hook("loopwright.retry", attributes)


def until(deadline: float | None) -> float | None:
    return None if deadline is None else deadline - time.monotonic()


def now() -> float:
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


def is_being_cancelled(error: BaseException) -> bool:
    """Whether a cancel of the running task is under way and became this error: the task has to end, not to retry."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    if task is None or not task.cancelling():
        return False
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, asyncio.CancelledError):
            return True
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return False


def _told(error: Exception | None) -> str:
    if error is None:
        return "its result counts as failed"
    try:
        text = str(error)
    except Exception:
        text = "(its text raises)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def name_of(fn: object) -> str:
    return getattr(fn, "__qualname__", None) or repr(fn)
