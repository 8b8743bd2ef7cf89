"""Batching: single requests gathered into batches.

Which requests make a batch, and when, is decided in ``crates/core/src/batch.rs``. Here is what waits and what runs the
caller's function.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from loopwright._arguments import seconds
from loopwright._loopwright import _Batch
from loopwright.errors import CallCancelled, LoopMismatch

__all__ = ["Batcher", "BatcherStats"]

T = TypeVar("T")
R = TypeVar("R")

_NEVER_FULL = 2**31


@dataclass(frozen=True, slots=True)
class BatcherStats:
    """What a :class:`Batcher` looks like at one moment."""

    waiting: int
    """Requests that are in no batch yet."""
    running: int
    """Batches that run."""
    requests: int
    """Requests that were made, since the object was."""
    batches: int
    """Batches that were started, since the object was made."""
    largest: int
    """Requests in the largest batch so far."""
    failed: int
    """Batches that raised, since the object was made."""
    withdrawn: int
    """Requests whose caller was cancelled before their batch ran, since the object was made."""


class _Request(Generic[T, R]):
    __slots__ = ("batch", "future", "item")

    def __init__(self, item: T, future: asyncio.Future[R]) -> None:
        self.item = item
        self.future = future
        self.batch: _Running[T, R] | None = None


class Batcher(Generic[T, R]):
    """Single calls gathered into batches, as a dataloader does: many callers ask for one thing each, one query runs.

    ``await batcher(item)`` gives the result for that item. Requests wait for each other: a batch runs when there are
    ``max_size`` of them or the oldest has waited ``max_delay`` seconds::

        users = Batcher(fetch_users, max_size=100, max_delay=0.005)
        user = await users(17)

    A caller that is cancelled harms no other: a request that is in no batch yet is withdrawn, one whose batch runs is
    left to it. A batch of which every caller was cancelled is cancelled, for nobody wants it any more.

    Args:
        fn: called with a list of 1 to ``max_size`` items; an awaitable of as many results, in their order. A result
            that is an exception is raised by that item's caller alone.
        max_size: the most items in a batch, 1 or more.
        max_delay: how long a request waits for others, in seconds. 0: those of one turn of the loop are together.
        limit: the most batches at a time; None: no limit. Requests gather meanwhile.
        name: for the repr, for messages and for metrics.

    Raises:
        TypeError, ValueError: an argument is no good.

    Requests leave in the order in which they came. A batch runs in a task of its own, in the context of the request
    that made it full, or of the first one that waited for the timer. It serves one event loop at a time: it belongs to
    a loop while it has callers. Not thread-safe.
    """

    def __init__(
        self,
        fn: Callable[[list[T]], Awaitable[Sequence[R | BaseException]]],
        max_size: int = 100,
        max_delay: float = 0.01,
        *,
        limit: int | None = None,
        name: str | None = None,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"Batcher(fn=...) must be callable, got {fn!r}: pass an async function of a list")
        self._fn = fn
        self._max_size = _count(max_size, "max_size")
        self._max_delay = seconds(max_delay, "Batcher(max_delay=...)")
        self._limit = None if limit is None else _count(limit, "limit")
        self._name = name
        self._called = name or str(getattr(fn, "__qualname__", type(fn).__qualname__)).rpartition("<locals>.")[2]
        self._machine = _Batch(self._max_size, self._max_delay, self._limit or _NEVER_FULL)
        self._waiting: dict[int, _Request[T, R]] = {}
        self._running: set[_Running[T, R]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = 0.0
        self._requests = self._batches = self._largest = self._failed = self._withdrawn = 0

    @property
    def name(self) -> str | None:
        """The name it was given."""
        return self._name

    async def __call__(self, item: T) -> R:
        """Waits for the result of ``item``, together with others.

        Raises:
            Exception: what ``fn`` raised, for all of its batch, or gave in place of this item's result.
            CallCancelled: ``fn`` raised CancelledError although nobody had cancelled it.
            ValueError: ``fn`` gave another number of results than it got items.
            CancelledError: the caller was cancelled.
            LoopMismatch: callers of another event loop wait.
        """
        loop = self._bind()
        request: _Request[T, R] = _Request(item, loop.create_future())
        ticket = self._machine.add(loop.time())
        self._waiting[ticket] = request
        self._requests += 1
        while tickets := self._machine.run_full():
            self._start(loop, tickets)
        self._arm(loop)
        try:
            return await request.future
        except asyncio.CancelledError:
            self._leave(loop, ticket, request)
            raise

    def flush(self) -> None:
        """Those that wait now wait for no others: their batches run as soon as ``limit`` allows."""
        if self._loop is not None and self._waiting:
            self._machine.flush()
            self._go(self._loop)

    def _bind(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed() and (self._waiting or self._running):
                raise LoopMismatch(f"{self!r} has callers in another event loop: one Batcher serves one loop at a time")
            if self._waiting or self._running:  # their loop was closed under them
                self._machine = _Batch(self._max_size, self._max_delay, self._limit or _NEVER_FULL)
                self._waiting.clear()
                self._running.clear()
            self._loop, self._timer = loop, None
        return loop

    def _leave(self, loop: asyncio.AbstractEventLoop, ticket: int, request: _Request[T, R]) -> None:
        """The caller was cancelled."""
        if self._waiting.pop(ticket, None) is not None:
            self._withdrawn += 1
            self._machine.withdraw(ticket)
            self._arm(loop)
        elif request.batch is not None:
            request.batch.left()

    def _go(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts what is due."""
        while tickets := self._machine.run(loop.time()):
            self._start(loop, tickets)
        self._arm(loop)

    def _start(self, loop: asyncio.AbstractEventLoop, tickets: list[int]) -> None:
        requests = [self._waiting.pop(ticket) for ticket in tickets]
        self._batches += 1
        self._largest = max(self._largest, len(requests))
        self._running.add(_Running(self, requests, loop))

    def _batch_ended(self, batch: _Running[T, R], failed: bool) -> None:
        self._failed += failed
        if batch in self._running and self._loop is not None:
            self._running.discard(batch)
            self._machine.ended()
            self._go(self._loop)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        """Sets the one timer to when the next batch is due."""
        at = self._machine.wake_at()
        if self._timer is not None:
            if at == self._armed_for:
                return
            self._timer.cancel()
            self._timer = None
        if at is not None:
            self._timer, self._armed_for = loop.call_at(at, self._fired, loop), at

    def _fired(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._go(loop)

    def is_quiescent(self) -> bool:
        """Whether nobody waits and nothing runs: as good as new, for :class:`~loopwright.Keyed`."""
        return not self._waiting and not self._running

    def stats(self) -> BatcherStats:
        """A frozen :class:`BatcherStats` of this moment."""
        waiting, running = self._machine.counts()
        return BatcherStats(
            waiting, running, self._requests, self._batches, self._largest, self._failed, self._withdrawn
        )

    def __repr__(self) -> str:
        waiting, running = self._machine.counts()
        return f"<Batcher {self._called}: {waiting} waiting, {running} batches running, {self._batches} in all>"


class _Running(Generic[T, R]):
    """One batch that runs."""

    def __init__(self, batcher: Batcher[T, R], requests: list[_Request[T, R]], loop: asyncio.AbstractEventLoop) -> None:
        self._batcher = batcher
        self._requests = requests
        self._callers = len(requests)
        for request in requests:
            request.batch = self
        self._task = loop.create_task(self._run([request.item for request in requests]), name=repr(batcher))
        self._task.add_done_callback(self._ended)

    def left(self) -> None:
        """One of its callers was cancelled."""
        self._callers -= 1
        if self._callers == 0:
            self._task.cancel()

    async def _run(self, items: list[T]) -> list[R | BaseException]:
        results = list(await self._batcher._fn(items))
        if len(results) != len(self._requests):
            raise ValueError(
                f"{self._batcher!r}: the function gave {len(results)} results for {len(self._requests)} items; "
                "give one for each, in the order of the items"
            )
        return results

    def _ended(self, task: asyncio.Task[list[R | BaseException]]) -> None:
        error: BaseException | None
        try:
            error = task.exception()
        except asyncio.CancelledError as cancelled:
            error = CallCancelled(
                f"{self._batcher!r}: the batch was cancelled, or raised CancelledError although nobody was"
            )
            error.__cause__ = cancelled
        results = [error] * len(self._requests) if error is not None else task.result()
        for request, result in zip(self._requests, results, strict=True):
            if request.future.done():
                continue  # its caller was cancelled
            if isinstance(result, BaseException):
                request.future.set_exception(result)
            else:
                request.future.set_result(result)
        self._batcher._batch_ended(self, error is not None and self._callers > 0)


def _count(given: object, what: str) -> int:
    if isinstance(given, bool) or not hasattr(given, "__index__"):
        raise TypeError(f"Batcher({what}=...) must be an int, got {given!r}: pass a whole number")
    number = operator.index(given)
    if number < 1:
        raise ValueError(f"Batcher({what}=...) must be 1 or more, got {number}")
    return number
