"""Every error Loopwright raises on purpose.

One root, :class:`LoopwrightError`; each leaf also subclasses the built-in that callers already catch, so that adopting
one piece at a time changes no ``except`` clause. Instances pickle, and each waiter gets an instance of its own.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from loopwright.processes import ProcessResult

__all__ = [
    "BreakerOpen",
    "CallCancelled",
    "CloseError",
    "CloseTimeout",
    "FinishTimeout",
    "GroupFull",
    "LeaseLost",
    "LimitUnavailable",
    "LoopMismatch",
    "LoopwrightError",
    "MapError",
    "OffloadTimeout",
    "PoolClosed",
    "PoolFull",
    "PoolTimeout",
    "ProcessError",
    "ProcessTimeout",
    "QueueShutDown",
    "RateLimitExceeded",
    "RemoteError",
    "ResourceCycle",
    "ResourcesClosed",
    "TokenCancelled",
    "WorkerLost",
]


class LoopwrightError(Exception):
    """Root of every error that Loopwright raises on purpose."""


class LeaseLost(LoopwrightError, RuntimeError):
    """The lease of a permit in Redis ended while it was in use: somebody else may have it by now.

    It was not renewed in time (the process or its loop stood still, Redis could not be reached), or Redis lost its
    data. ``token`` is the fencing token of the lease.
    """

    def __init__(self, message: str, token: int | None = None) -> None:
        super().__init__(message)
        self.token = token

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.token)


class LimitUnavailable(LoopwrightError, ConnectionError):
    """A limit in Redis could not be asked, and was made with ``fail="closed"``; the driver's error is the cause."""


class BreakerOpen(LoopwrightError, ConnectionError):
    """A :class:`loopwright.CircuitBreaker` let nobody through: what is behind it was down a moment ago.

    Args:
        message: what it says.
        retry_after: seconds until a call may pass; None: that is for others to decide.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.retry_after)


class FinishTimeout(LoopwrightError, TimeoutError):
    """The coroutine of ``finish(coro, timeout=...)`` did not end in time and was cancelled."""


class LoopMismatch(LoopwrightError, RuntimeError):
    """An object with waiters on one event loop was awaited from another."""


class CallCancelled(LoopwrightError, RuntimeError):
    """A call raised ``CancelledError`` although nobody had cancelled it; the original is the ``__cause__``.

    It comes from something the call awaits that was cancelled by somebody else (a task, a future). Passed on as it
    is, it would look like a cancel of the caller.
    """


class CloseError(LoopwrightError, ExceptionGroup[Exception]):
    """Some resources of a :class:`loopwright.Resources` could not be closed properly; all were tried."""

    def derive(self, excs: Sequence[Exception], /) -> CloseError:  # type: ignore[override]
        """A group of some of the exceptions."""
        return CloseError(self.message, excs)


class CloseTimeout(LoopwrightError, TimeoutError):
    """A resource did not close within ``close_timeout`` and was cancelled; in a :class:`CloseError`."""


class ResourceCycle(LoopwrightError, RuntimeError):
    """The factories of some resources wait for each other; the message names them in order."""


class ResourcesClosed(LoopwrightError, RuntimeError):
    """``Resources.get`` was called, or still waited, when ``aclose`` was called."""


class MapError(LoopwrightError, ExceptionGroup[Exception]):
    """Calls of :func:`loopwright.amap` or :func:`loopwright.gather` failed; the rest were cancelled and awaited.

    An :class:`ExceptionGroup`: ``except*``, ``split`` and ``subgroup`` work, and their parts carry the results too.
    """

    results: dict[int, Any]
    """The results so far, by the index of their item, in that order. An item that is not in here did not finish.
    In the iterator form: the results that had not been taken yet."""
    failed: dict[int, Exception]
    """The exceptions of this group that calls raised, by the index of their item. An exception that is in the group
    and not in here came from the source, the limiter or the progress callback."""

    def __new__(
        cls,
        message: str,
        exceptions: Sequence[Exception],
        *,
        results: Mapping[int, Any] | None = None,
        failed: Mapping[int, Exception] | None = None,
    ) -> Self:
        self = super().__new__(cls, message, exceptions)
        self.results = dict(results or {})
        self.failed = dict(failed or {})
        return self

    def __init__(self, message: str, exceptions: Sequence[Exception], **_: Any) -> None:
        super().__init__(message, exceptions)

    def derive(self, excs: Sequence[Exception], /) -> MapError:  # type: ignore[override]
        """A group of some of the exceptions, with the same results."""
        kept = {id(exception) for exception in excs}
        failed = {index: exception for index, exception in self.failed.items() if id(exception) in kept}
        return MapError(self.message, excs, results=self.results, failed=failed)


class OffloadTimeout(LoopwrightError, TimeoutError):
    """A call of ``offload(..., timeout=...)`` had not ended in time. What becomes of it depends on where it runs."""


class RemoteError(LoopwrightError, RuntimeError):
    """What a call raised in another process or interpreter, in words: its traceback there.

    It is the ``__cause__`` of the error that ``offload`` raises, and raised itself where that cannot be pickled.
    """


class WorkerLost(LoopwrightError, RuntimeError):
    """The worker that ran a call died, and nobody knows how far the call had come.

    Args:
        message: what it says.
        attempts: how often the call was sent; above 1 only where it may run twice (``amap(idempotent=True)``).
    """

    def __init__(self, message: str, attempts: int = 1) -> None:
        super().__init__(message)
        self.attempts = attempts

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.attempts)


class GroupFull(LoopwrightError, RuntimeError):
    """``TaskGroup.create_task`` or ``Background.spawn`` was called while ``limit`` tasks are alive."""


class PoolClosed(LoopwrightError, RuntimeError):
    """A connection was asked of a pool that is closing or closed."""


class PoolFull(LoopwrightError, RuntimeError):
    """A connection was asked of a pool for which ``max_waiting`` others wait already."""


class PoolTimeout(LoopwrightError, TimeoutError):
    """A pool had no connection to give within the time that the caller had.

    Args:
        message: what it says.
        phase: what the caller waited for at the end: ``"wait"`` for a connection to come back; ``"connect"``,
            ``"check"`` or ``"reset"`` for that hook.
        in_use: how many connections were in use.
        waiting: how many other callers waited.
        holders: who had them, a line each; only of pools with ``leak_after``.
    """

    def __init__(
        self, message: str, phase: str = "wait", in_use: int = 0, waiting: int = 0, holders: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.phase = phase
        self.in_use = in_use
        self.waiting = waiting
        self.holders = tuple(holders)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.phase, self.in_use, self.waiting, self.holders)


class ProcessError(LoopwrightError, RuntimeError):
    """A command of ``run_process`` or ``stream_lines`` ended with an exit code other than 0, or by a signal."""

    def __init__(self, message: str, result: ProcessResult) -> None:
        super().__init__(message)
        self.result = result
        """What became of it, a :class:`loopwright.ProcessResult`: exit code and output."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.result)


class ProcessTimeout(LoopwrightError, TimeoutError):
    """A command did not end in time, and its group was ended."""

    def __init__(self, message: str, result: ProcessResult) -> None:
        super().__init__(message)
        self.result = result
        """What there was of it, a :class:`loopwright.ProcessResult`: the output up to its end."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.result)


if sys.version_info >= (3, 13):

    class QueueShutDown(LoopwrightError, asyncio.QueueShutDown):
        """The queue was shut down: it takes no more items and, once drained, gives none."""

else:

    class QueueShutDown(LoopwrightError):
        """The queue was shut down: it takes no more items and, once drained, gives none."""


class RateLimitExceeded(LoopwrightError, TimeoutError):
    """The turn at a :class:`loopwright.RateLimiter` would come after the deadline of who waits.

    Args:
        message: what it says.
        retry_after: seconds after which it could have been had, as things stood.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.retry_after)


class TokenCancelled(LoopwrightError, RuntimeError):
    """``CancelToken.raise_if_cancelled`` found the token cancelled; ``reason`` is what its ``cancel`` was told."""

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return "the token was cancelled" if self.reason is None else f"the token was cancelled: {self.reason}"
