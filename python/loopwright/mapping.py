"""Mapping: one coroutine function over many items, so many at a time.

What is decided (whether to pull, which result is next, when it is over) is ``crates/core/src/map.rs``; what must be
quick (start a call, take its result, start the next) is ``crates/python/src/map.rs``. Here is what waits and what
drives the caller's own code: the reader of a source, the workers of ``isolate=False``, the clean-up.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import inspect
import itertools
import operator
import sys
import types
import warnings
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, Protocol, Self, TypeVar, overload

from loopwright._loopwright import _Lane, _Window
from loopwright.cancellation import _shielded_from_anyio
from loopwright.errors import CallCancelled, MapError

__all__ = ["AsyncMap", "MapError", "MapStats", "Prefetch", "PrefetchStats", "amap", "gather", "prefetch"]

T = TypeVar("T")
R = TypeVar("R")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")


class Limiter(Protocol):
    """What bounds calls from outside: a :class:`loopwright.Semaphore`, or anything with these two."""

    def acquire(self) -> Awaitable[Any]:
        """Waits for the right to run one call."""

    def release(self) -> Any:
        """Gives it back."""


class LearningLimiter(Limiter, Protocol):
    """One that learns from the calls it lets through: a :class:`loopwright.AdaptiveLimit`, or anything like it."""

    def begin(self) -> Any:
        """The call of the permit that was acquired last begins now; gives what ``end`` wants to have."""

    def end(self, begun: Any, error: BaseException | None, /) -> Any:
        """Gives the permit back, with what the call raised."""


Errors = Literal["raise", "return"]
Progress = Callable[[int, int | None], object]

_ADD_EDGE: Final[Any] = getattr(asyncio, "future_add_to_awaited_by", None)
_DISCARD_EDGE: Final[Any] = getattr(asyncio, "future_discard_from_awaited_by", None)


# --------------------------------------------------------------------------------------------------------- amap


@dataclass(frozen=True, slots=True)
class MapStats:
    """What an :func:`amap` looks like at one moment."""

    started: int
    """Items pulled from the source, whose calls started."""
    running: int
    """Calls that run."""
    waiting: int
    """Results that nobody has taken yet (iterator form)."""
    done: int
    """Calls that ended, whatever way."""
    failed: int
    """Calls that raised."""
    peak: int
    """The most calls that ever ran at once."""
    limit: int | None
    """The most that may; None when a limiter from outside decides."""


@overload
def amap(
    fn: Callable[[T], Awaitable[R]],
    items: Iterable[T] | AsyncIterable[T],
    *,
    limit: int | Limiter,
    batch: None = ...,
    on: None = ...,
    idempotent: bool = ...,
    ordered: bool = ...,
    errors: Literal["raise"] = ...,
    isolate: bool = ...,
    progress: bool | Progress | None = ...,
) -> AsyncMap[R]: ...
@overload
def amap(
    fn: Callable[[T], Awaitable[R]],
    items: Iterable[T] | AsyncIterable[T],
    *,
    limit: int | Limiter,
    batch: None = ...,
    on: None = ...,
    idempotent: bool = ...,
    ordered: bool = ...,
    errors: Errors,
    isolate: bool = ...,
    progress: bool | Progress | None = ...,
) -> AsyncMap[R | Exception]: ...
@overload
def amap(
    fn: Callable[[T], R],
    items: Iterable[T] | AsyncIterable[T],
    *,
    limit: int | Limiter,
    batch: None = ...,
    on: concurrent.futures.Executor,
    idempotent: bool = ...,
    ordered: bool = ...,
    errors: Literal["raise"] = ...,
    isolate: bool = ...,
    progress: bool | Progress | None = ...,
) -> AsyncMap[R]: ...
@overload
def amap(
    fn: Callable[[list[T]], Awaitable[Sequence[R]]],
    items: Iterable[T] | AsyncIterable[T],
    *,
    limit: int | Limiter,
    batch: int,
    on: None = ...,
    idempotent: bool = ...,
    ordered: bool = ...,
    errors: Literal["raise"] = ...,
    isolate: bool = ...,
    progress: bool | Progress | None = ...,
) -> AsyncMap[R]: ...
@overload
def amap(
    fn: Callable[[list[T]], Sequence[R]],
    items: Iterable[T] | AsyncIterable[T],
    *,
    limit: int | Limiter,
    batch: int,
    on: concurrent.futures.Executor,
    idempotent: bool = ...,
    ordered: bool = ...,
    errors: Literal["raise"] = ...,
    isolate: bool = ...,
    progress: bool | Progress | None = ...,
) -> AsyncMap[R]: ...
@overload
def amap(
    fn: Callable[[T], R],
    items: Iterable[T] | AsyncIterable[T],
    *,
    limit: int | Limiter,
    batch: None = ...,
    on: concurrent.futures.Executor,
    idempotent: bool = ...,
    ordered: bool = ...,
    errors: Errors,
    isolate: bool = ...,
    progress: bool | Progress | None = ...,
) -> AsyncMap[R | Exception]: ...
@overload
def amap(
    fn: Callable[[list[T]], Awaitable[Sequence[R]]],
    items: Iterable[T] | AsyncIterable[T],
    *,
    limit: int | Limiter,
    batch: int,
    on: None = ...,
    idempotent: bool = ...,
    ordered: bool = ...,
    errors: Errors,
    isolate: bool = ...,
    progress: bool | Progress | None = ...,
) -> AsyncMap[R | Exception]: ...
@overload
def amap(
    fn: Callable[[list[T]], Sequence[R]],
    items: Iterable[T] | AsyncIterable[T],
    *,
    limit: int | Limiter,
    batch: int,
    on: concurrent.futures.Executor,
    idempotent: bool = ...,
    ordered: bool = ...,
    errors: Errors,
    isolate: bool = ...,
    progress: bool | Progress | None = ...,
) -> AsyncMap[R | Exception]: ...
def amap(  # noqa: PLR0913 (each is a choice of its own)
    fn: Callable[[Any], Any],
    items: Iterable[Any] | AsyncIterable[Any],
    *,
    limit: int | Limiter,
    batch: int | None = None,
    on: concurrent.futures.Executor | None = None,
    idempotent: bool = False,
    ordered: bool = True,
    errors: Errors = "raise",
    isolate: bool = True,
    progress: bool | Progress | None = None,
) -> AsyncMap[Any]:
    """Calls ``await fn(item)`` for each item, at most ``limit`` at a time.

    Awaited, it gives the list of all results::

        pages = await amap(fetch, urls, limit=20)

    As an asynchronous context manager it gives an asynchronous iterator, for results that are used one by one, and for
    sources without an end::

        async with amap(fetch, urls, limit=20) as pages:
            async for page in pages: ...

    Items are pulled one at a time and only when there is room for another call. In the iterator form results nobody
    has taken yet occupy their place, so at most ``limit`` calls and results are alive: a consumer that is slow slows
    the source down.

    Args:
        fn: called with one item; gives a coroutine or another awaitable.
        items: an iterable or an asynchronous iterable. A generator, or anything with ``aclose``, is closed when the
            map ends before it does. An asynchronous source lives in one task from its first item to its closing.
        limit: the most calls alive at once, 1 or more; or a :class:`~loopwright.Semaphore` or any other object with
            ``acquire`` and ``release``, which may be shared with other code: a permit is held for the length of a call.
            An :class:`~loopwright.AdaptiveLimit` is told how long each call took and what it raised.
        batch: ``fn`` is called with lists of that many items (the last one may be shorter) and gives as many results,
            in their order. ``limit`` counts batches then; results, errors and progress are about items all the same.
        on: a :class:`concurrent.futures.Executor`: ``fn`` is a plain function and runs there, in a thread, a process,
            or on a cluster (Dask's ``client.get_executor()``, :class:`loopwright.integrations.ray.RayExecutor`). The
            executor is not shut down.
        idempotent: (``on``) whether a call may run twice. True: a call whose worker was lost is sent again, up to three
            times, and by the engine itself if it does that. False: each runs at most once.
        ordered: (iterator form) results in the order of the items; False: as they finish. A list is always in the
            order of the items.
        errors: ``"raise"``: the first error ends the map with a :class:`MapError`. ``"return"``: an exception takes
            the place of its result. Either way a failure of the source ends the map.
        isolate: each call is a task of its own with its own copy of the context, so that no context variable leaks
            from one item to another. False: ``limit`` worker tasks share theirs among the items they draw, which costs
            a third.
        progress: a callable, given the number of calls that have ended and of all calls (None when the source has no
            length); or True: a bar on stderr, by tqdm or rich, whichever is installed, if stderr is a terminal.

    Returns:
        An :class:`AsyncMap`: await it, or enter it with ``async with``. Once. Nothing runs before that.

    Raises:
        MapError: (awaited or iterated) a call failed, or the source, the limiter or ``progress`` did. Every other call
            has been cancelled and awaited, the source is closed, and ``results`` holds what was finished.
        WorkerLost: (in the ``MapError``; ``on``) the worker of a call was lost, and the call was not sent again.
        TypeError, ValueError: an argument is no good; at once.

    A cancel of the caller cancels every call, waits for them all and for the closing of the source, however often it
    is cancelled again meanwhile, and re-raises the ``CancelledError`` that arrived first; exceptions that calls raise
    during that go to the loop's exception handler. ``CancelledError`` is never returned or swallowed. A call that
    raises it although nobody cancelled it has failed, with :class:`~loopwright.CallCancelled`. ``KeyboardInterrupt``
    and ``SystemExit`` from a call end the map the same way and are re-raised bare.

    Elsewhere a call cannot be cut short: those that an executor has not started are withdrawn, those that run are left
    alone and their results dropped (Ray's are interrupted, at their next step of Python).

    Calls start in the order of the items. The bounded window is Kotlin's ``flatMapMerge(concurrency)`` and the group
    rules those of :class:`asyncio.TaskGroup`.
    """
    if on is None and batch is None:
        return AsyncMap(fn, items, limit, ordered, errors, isolate, progress)
    return _Elsewhere(fn, items, limit, ordered, errors, isolate, progress, batch=batch, on=on, idempotent=idempotent)


class AsyncMap(Generic[R]):
    """What :func:`amap` gives: await it for a list, or ``async with`` it for an asynchronous iterator."""

    def __init__(  # noqa: PLR0913, PLR0917 (amap's arguments; only amap and gather call it)
        self,
        fn: Callable[[Any], Awaitable[R]],
        items: Iterable[Any] | AsyncIterable[Any],
        limit: int | Limiter,
        ordered: bool,
        errors: Errors,
        isolate: bool,
        progress: bool | Progress | None,
        *,
        name: str | None = None,
    ) -> None:
        self._window: _Window[R] | None = None
        self._state: Literal["new", "list", "iterator", "over"] = "over"  # until the arguments are known to be good
        if not callable(fn):
            raise TypeError(f"amap(fn=...) must be callable, got {fn!r}: pass an async function of one item")
        if not isinstance(items, (Iterable, AsyncIterable)):
            raise TypeError(f"amap(items=...) must be an iterable or an async iterable, got {items!r}")
        if errors not in ("raise", "return"):
            raise ValueError(f"amap(errors=...) must be 'raise' or 'return', got {errors!r}")
        if not (progress is None or isinstance(progress, bool) or callable(progress)):
            raise TypeError(f"amap(progress=...) must be True or a callable (done, total), got {progress!r}")
        self._fn = fn
        self._items = items
        self._limit, self._limiter = _limit(limit)
        self._ordered = bool(ordered)
        self._errors = errors
        self._isolate = bool(isolate)
        self._progress = progress
        self._name = name or f"amap({_name(fn)})"
        self._bar: Callable[[], object] | None = None
        self._source: Any = None
        self._context: contextvars.Context | None = None
        self._iterating = False
        self._reading = True
        self._state = "new"

    # ------------------------------------------------------------------------------------------------ the list

    def __await__(self) -> Generator[Any, Any, list[R]]:
        """Runs it all and gives the list of results, in the order of the items."""
        return self._collect().__await__()

    async def _collect(self) -> list[R]:
        window = self._begin("list", "all")
        arrived = None
        try:
            self._start(window)
            while not window.quiet:
                await window.wait()
        except asyncio.CancelledError as error:
            arrived = error
        except BaseException:  # closed in the middle: nothing can be awaited any more
            window.stop()
            raise
        if arrived is not None:
            window.stop()
            await self._settle(window)
        results = [] if window.stopped else window.results()
        failure = self._end(window)
        if arrived is not None:
            self._report(failure, "was cancelled")
            raise arrived
        if failure is not None:
            raise failure
        return results

    # -------------------------------------------------------------------------------------------- the iterator

    async def __aenter__(self) -> AsyncIterator[R]:
        """Starts the first calls and gives the iterator."""
        window = self._begin("iterator", "ordered" if self._ordered else "finished")
        self._start(window)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        """Cancels and awaits what still runs, and closes the source."""
        window = self._window
        if window is None or self._state != "iterator":
            return
        window.stop()
        arrived = await self._settle(window)
        self._report(self._end(window), "was left before its end")
        if arrived is not None and not isinstance(error, asyncio.CancelledError):
            raise arrived

    def __aiter__(self) -> Self:
        """Itself, inside ``async with``."""
        if self._state in ("new", "list"):
            raise TypeError(f"{self._name}: iterate inside `async with ... as results:`, so that it is always closed")
        return self

    async def __anext__(self) -> R:
        """Waits for the next result."""
        window = self._window
        if window is None or self._state != "iterator":
            raise StopAsyncIteration
        if self._iterating:
            raise RuntimeError(f"{self._name}: another task already waits for the next result; one may at a time")
        self._iterating = True
        try:
            while not window.quiet or window.has_result:
                taken = window.take()
                if taken is not None:
                    self._pump(window)
                    return taken[0]
                await window.wait()
        finally:
            self._iterating = False
        failure = self._end(window)
        if failure is not None:
            raise failure
        raise StopAsyncIteration

    # --------------------------------------------------------------------------------------------- both of them

    def _iterate(self) -> Any:
        return aiter(self._items) if isinstance(self._items, AsyncIterable) else iter(self._items)

    def _begin(self, state: Literal["list", "iterator"], delivery: str) -> _Window[R]:
        if self._state != "new":
            raise RuntimeError(f"{self._name} was used already: call amap again for another run")
        loop = asyncio.get_running_loop()
        self._state = state
        self._context = contextvars.copy_context()
        source = self._iterate()
        plain = source if self._limiter is None and isinstance(source, Iterator) else None
        self._source = source
        parent = asyncio.current_task() if _ADD_EDGE is not None else None
        window: _Window[R] = _Window(
            call=self._fn,
            source=plain,
            limit=self._limit,
            delivery=delivery,
            work=None if self._isolate else _worker(self._fn),
            direct=self._fn is _itself or _is_coroutine_function(self._fn),
            return_errors=self._errors == "return",
            context=self._context,
            create_task=loop.create_task,
            create_future=loop.create_future,
            adapt=functools.partial(_adapt, self._name),
            name=self._name,
            edges=None if parent is None else (parent, _ADD_EDGE, _DISCARD_EDGE),
            release=None if self._limiter is None else _release(self._limiter),
            progress=self._reporter(),
            coroutine_type=types.CoroutineType,
        )
        self._window = window
        return window

    def _start(self, window: _Window[R]) -> None:
        if self._limiter is None and isinstance(self._source, Iterator):
            self._pump(window)
            return
        loop = asyncio.get_running_loop()
        self._reading = False
        window.adopt(loop.create_task(self._read(window, self._limiter), name=f"{self._name} source"))

    async def _read(self, window: _Window[R], limiter: Limiter | None) -> None:
        """The reader: one task for all the life of a source.

        Whatever the source opens (a cancel scope, a task group) it closes in the task that opened it.
        """
        self._reading = True
        source = self._source
        permit = False
        learner: Any = limiter if _learns(limiter) else None
        begun: Any = None
        try:
            while True:
                while not window.pull():
                    if window.closed:
                        return
                    await window.room()
                if limiter is not None:
                    await limiter.acquire()
                    permit = True
                try:
                    item = next(source) if isinstance(source, Iterator) else await anext(source)
                except (StopIteration, StopAsyncIteration):
                    window.exhausted()
                    return
                if learner is not None:
                    begun = learner.begin()
                permit = not window.start(item, begun)
                item = begun = None
        except asyncio.CancelledError as error:
            if window.stopped:
                raise
            window.fail(error)
        except BaseException as error:
            window.fail(error)
        finally:
            try:
                if permit:
                    _give_back(limiter, begun)
                await _close(source, source is not self._items)
            except BaseException as error:
                window.fail(error)

    def _pump(self, window: _Window[R]) -> None:
        assert self._context is not None
        if self._limiter is None and isinstance(self._source, Iterator):
            self._context.run(window.pump)

    async def _settle(self, window: _Window[R]) -> asyncio.CancelledError | None:
        """Waits until nothing of a stopped map runs any more, whatever cancels arrive; gives the first of them."""
        arrived: asyncio.CancelledError | None = None
        if not window.quiet:
            with _shielded_from_anyio():
                while not window.quiet:
                    try:
                        await window.wait()
                    except asyncio.CancelledError as error:
                        arrived = arrived or error
        if not self._reading:  # cancelled before its first step: the source is still to be closed
            self._reading = True
            late = await _close_late(self._source, self._source is not self._items)
            arrived = arrived or late
        return arrived

    def _end(self, window: _Window[R]) -> BaseException | None:
        """Closes what is left to close, and says what went wrong."""
        self._state = "over"
        if self._bar is not None:
            self._bar()
        if isinstance(self._source, Iterator) and self._limiter is None and window.stopped:
            assert self._context is not None
            try:
                self._context.run(_close_plain, self._source, self._source is not self._items)
            except BaseException as error:
                window.fail(error)
        failure = window.fatal
        if failure is None and window.errors:
            failure = self._failure(window)
        window.forget()
        self._source = self._context = self._bar = None
        return failure

    def _failure(self, window: _Window[R]) -> MapError:
        exceptions: list[Exception] = []
        failed: dict[int, Exception] = {}
        for index, error in window.errors:
            if not isinstance(error, Exception):
                continue
            if index is not None:
                failed[index] = error
                error.add_note(f"raised by call {index} of {self._name}")
            else:
                error.add_note(f"raised by the source, limiter or progress callback of {self._name}")
            exceptions.append(error)
        results = dict(sorted(window.leftovers(), key=operator.itemgetter(0)))
        started, *_ = window.stats()
        what = f"{len(failed)} of {started} calls failed" if failed else f"stopped after {started} calls"
        return MapError(f"{self._name}: {what}", exceptions, results=results, failed=failed)

    def _report(self, failure: BaseException | None, what: str) -> None:
        """The exceptions of calls that nobody can be given any more."""
        if failure is None:
            return
        if not isinstance(failure, Exception):
            raise failure
        asyncio.get_running_loop().call_exception_handler(
            {"message": f"{self._name} {what}, and calls failed that nobody awaits any more", "exception": failure}
        )

    def _reporter(self) -> tuple[Progress, int | None] | None:
        total: int | None = None
        with contextlib.suppress(TypeError):
            total = len(self._items)  # type: ignore[arg-type]
        if callable(self._progress):
            return self._progress, total
        if self._progress is True and sys.stderr is not None and sys.stderr.isatty():
            found = _bar(self._name, total)
            if found is not None:
                report, self._bar = found
                return report, total
        return None

    def stats(self) -> MapStats:
        """A frozen :class:`MapStats` of this moment."""
        numbers = (0, 0, 0, 0, 0, 0) if self._window is None else self._window.stats()
        return MapStats(*numbers, limit=self._limit)

    def __repr__(self) -> str:
        if self._window is None:
            return f"<{self._name} not started>"
        stats = self.stats()
        limit = repr(self._limiter) if self._limit is None else str(self._limit)
        return (
            f"<{self._name} {'over' if self._state == 'over' else 'running'}:"
            f" {stats.running} running of {limit}, {stats.done} done, {stats.failed} failed, {stats.waiting} not taken>"
        )

    def __del__(self) -> None:
        if self._state == "new":
            warnings.warn(f"{self._name} was never awaited", RuntimeWarning, stacklevel=1, source=self)


class _Elsewhere(AsyncMap[R]):
    """``amap`` with ``batch`` or ``on``: another function, other items, the results made flat again."""

    def __init__(  # noqa: PLR0913, PLR0917 (amap's arguments)
        self,
        fn: Callable[[Any], Any],
        items: Iterable[Any] | AsyncIterable[Any],
        limit: int | Limiter,
        ordered: bool,
        errors: Errors,
        isolate: bool,
        progress: bool | Progress | None,
        *,
        batch: int | None,
        on: concurrent.futures.Executor | None,
        idempotent: bool,
    ) -> None:
        self._state = "over"  # until the arguments are known to be good
        self._adapter: Any = None
        self._size = None if batch is None else _size(batch)
        self._taken: deque[R] = deque()
        self._pulled = 0
        name = f"amap({_name(fn)})"
        call = fn
        if on is not None:
            if not callable(getattr(on, "submit", None)):
                raise TypeError(f"amap(on=...) must be a concurrent.futures.Executor, got {on!r}")
            if inspect.iscoroutinefunction(fn):
                raise TypeError(f"{name}: on= runs plain functions, and this is an `async def`: leave on= out")
            from loopwright import _executors  # noqa: PLC0415 (only where it is used)

            self._adapter = _executors.adapt(on, idempotent)
            call = _executors.calls(self._adapter, fn, idempotent, name) if callable(fn) else fn
        if self._size is not None and callable(fn):
            call = _checked(call, name)
        super().__init__(call, items, limit, ordered, errors, isolate, progress, name=name)

    async def _prepare(self) -> None:
        if self._adapter is not None and self._state == "new":
            try:
                await asyncio.to_thread(self._adapter.prepare)
            except BaseException:
                self._state = "over"
                raise

    async def _collect(self) -> list[R]:
        await self._prepare()
        results = await super()._collect()
        return results if self._size is None else [one for n, some in enumerate(results) for one in self._flat(n, some)]

    async def __aenter__(self) -> AsyncIterator[R]:
        await self._prepare()
        return await super().__aenter__()

    async def __anext__(self) -> R:
        if self._size is None:
            return await super().__anext__()
        while not self._taken:
            some = await super().__anext__()
            self._taken.extend(self._flat(0, some))
        return self._taken.popleft()

    def _iterate(self) -> Any:
        source = super()._iterate()
        if self._size is None:
            return source
        chunks = _Chunks if isinstance(source, Iterator) else _AsyncChunks
        return chunks(self, source, source is not self._items)

    def _flat(self, number: int, some: Any) -> Any:
        """The results of one batch; an exception is that of each of its items."""
        assert self._size is not None
        if not isinstance(some, Exception):
            return some
        failed: list[Any] = [some]
        return failed * min(self._size, self._pulled - number * self._size)

    def _failure(self, window: _Window[R]) -> MapError:
        error = super()._failure(window)
        if self._size is None:
            return error
        results: dict[int, Any] = {}
        failed: dict[int, Exception] = {}
        for number, some in error.results.items():
            results.update(enumerate(self._flat(number, some), number * self._size))
        for number, exception in error.failed.items():
            first = number * self._size
            failed.update(dict.fromkeys(range(first, min(first + self._size, self._pulled)), exception))
        return MapError(error.message, error.exceptions, results=results, failed=failed)

    def _reporter(self) -> tuple[Progress, int | None] | None:
        reporter = super()._reporter()
        if reporter is None or self._size is None:
            return reporter
        report, size = reporter[0], self._size
        # Only the last batch may be shorter.
        return (lambda done, total: report(min(done * size, self._pulled), total)), reporter[1]


def _checked(call: Callable[[list[Any]], Awaitable[Sequence[R]]], name: str) -> Callable[[list[Any]], Any]:
    async def batch(items: list[Any]) -> list[R]:
        made = call(items)
        if not inspect.isawaitable(made):
            raise TypeError(f"{name}: the function gave {made!r}, which cannot be awaited: is it an `async def`?")
        results = list(await made)
        if len(results) != len(items):
            raise ValueError(
                f"{name}: the function gave {len(results)} results for a batch of {len(items)} items; give one for "
                "each, in the order of the items"
            )
        return results

    return batch


class _Chunks:
    """Lists of items. Not a generator: one that was never started would not close its source."""

    def __init__(self, mapped: _Elsewhere[Any], source: Iterator[Any], made_here: bool) -> None:
        self._mapped, self._source, self._made_here = mapped, source, made_here

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[Any]:
        chunk = list(itertools.islice(self._source, self._mapped._size))
        if not chunk:
            raise StopIteration
        self._mapped._pulled += len(chunk)
        return chunk

    def close(self) -> None:
        _close_plain(self._source, self._made_here)


class _AsyncChunks:
    """The same of an asynchronous source. A batch is full, or the last one: it waits for its items."""

    def __init__(self, mapped: _Elsewhere[Any], source: AsyncIterator[Any], made_here: bool) -> None:
        self._mapped, self._source, self._made_here = mapped, source, made_here

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Any]:
        chunk: list[Any] = []
        assert self._mapped._size is not None
        while len(chunk) < self._mapped._size:
            try:
                chunk.append(await anext(self._source))
            except StopAsyncIteration:
                break
        if not chunk:
            raise StopAsyncIteration
        self._mapped._pulled += len(chunk)
        return chunk

    async def aclose(self) -> None:
        await _close(self._source, self._made_here)


def _size(batch: object) -> int:
    if isinstance(batch, bool) or not hasattr(batch, "__index__"):
        raise TypeError(f"amap(batch=...) must be an int, got {batch!r}: pass how many items a call is given")
    if operator.index(batch) < 1:
        raise ValueError(f"amap(batch=...) must be 1 or more, got {batch}: leave it out for one item at a time")
    return operator.index(batch)


def _release(limiter: Limiter) -> Callable[..., Any]:
    end: Callable[..., Any] | None = getattr(limiter, "end", None) if _learns(limiter) else None
    return limiter.release if end is None else end


def _give_back(limiter: Any, begun: Any) -> None:
    """The permit of a call that never was: nothing to learn from."""
    if _learns(limiter):
        limiter.end(limiter.begin() if begun is None else begun, asyncio.CancelledError())
    else:
        limiter.release()


def _learns(limiter: Limiter | None) -> bool:
    return callable(getattr(limiter, "begin", None)) and callable(getattr(limiter, "end", None))


def _limit(limit: int | Limiter) -> tuple[int | None, Limiter | None]:
    """Tells a number from a limiter."""
    if callable(getattr(limit, "acquire", None)) and callable(getattr(limit, "release", None)):
        return None, limit  # type: ignore[return-value]
    try:
        if isinstance(limit, bool):
            raise TypeError
        number = operator.index(limit)  # type: ignore[arg-type]
    except TypeError:
        message = f"limit must be an int, or have acquire and release as a Semaphore has; got {limit!r}"
        raise TypeError(message) from None
    if number < 1:
        raise ValueError(f"limit must be 1 or more, got {number}: with none alive no call would ever run")
    return min(number, sys.maxsize), None


def _name(fn: Callable[..., object]) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__qualname__", type(fn).__qualname__)
    return str(name).rpartition("<locals>.")[2]


def _is_coroutine_function(fn: Callable[..., object]) -> bool:
    """Whether calling it runs none of its code."""
    return isinstance(fn, (types.FunctionType, types.MethodType, functools.partial)) and (
        inspect.iscoroutinefunction(fn) and not hasattr(fn, "__wrapped__")
    )


def _itself(awaitable: Any) -> Any:
    return awaitable


async def _raise(error: BaseException) -> Any:
    raise error


async def _await(awaitable: Awaitable[R]) -> R:
    return await awaitable


def _adapt(name: str, made: Any, error: BaseException | None) -> Coroutine[Any, Any, Any]:
    """A coroutine of what ``fn(item)`` gave, or of what it raised."""
    if error is None and inspect.isawaitable(made):
        return _await(made)
    if error is None:
        error = TypeError(f"{name}: the function gave {made!r}, which cannot be awaited: is it an `async def`?")
    return _raise(error)


def _worker(fn: Callable[[Any], Awaitable[R]]) -> Callable[[_Lane[R]], Coroutine[Any, Any, None]]:
    """The worker of ``isolate=False``: a plain coroutine, so that every tool sees ``fn``'s frames under it."""

    async def work(lane: _Lane[R]) -> None:
        draw, put = lane.draw, lane.put
        while True:
            try:
                item = draw()
                while item is not lane:  # which is how it says that there is none
                    item = put(await fn(item))
            except BaseException as error:
                if not lane.fail(error):
                    raise
                _forget_cancels(error)
                continue
            more = lane.more()
            if more is None:
                return
            await more

    return work


def _forget_cancels(error: BaseException) -> None:
    """A call that cancelled its own task has been told; the next call in this task knows nothing of it."""
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None:
        while task.uncancel():
            pass


async def _close(source: Iterator[Any] | AsyncIterator[Any], made_here: bool) -> None:
    if isinstance(source, Iterator):
        _close_plain(source, made_here)
        return
    aclose = getattr(source, "aclose", None)
    if aclose is not None:
        await aclose()


async def _close_late(source: Iterator[Any] | AsyncIterator[Any], made_here: bool) -> asyncio.CancelledError | None:
    """Closes, whatever cancels arrive; gives the first of them."""
    closing = asyncio.get_running_loop().create_task(_close(source, made_here))
    arrived = await _outlast([closing])
    if arrived is None:
        closing.result()
    return arrived


def _close_plain(source: Iterator[Any], made_here: bool) -> None:
    """Closes a generator, or an iterator that ``iter()`` made; never a file that is its own iterator."""
    close = getattr(source, "close", None)
    if close is not None and (made_here or isinstance(source, Generator)):
        close()


async def _outlast(futures: Iterable[asyncio.Future[Any]]) -> asyncio.CancelledError | None:
    """Waits until all are done, whatever cancels arrive; gives the first of them."""
    arrived: asyncio.CancelledError | None = None
    pending = [future for future in futures if not future.done()]
    if pending:
        with _shielded_from_anyio():
            while pending:
                try:
                    await asyncio.wait(pending)
                except asyncio.CancelledError as error:
                    arrived = arrived or error
                pending = [future for future in pending if not future.done()]
    return arrived


def _bar(name: str, total: int | None) -> tuple[Progress, Callable[[], object]] | None:
    """A progress bar on stderr and how to close it, if tqdm or rich is installed."""
    try:
        from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415 (optional)
    except ImportError:
        pass
    else:
        line = tqdm(desc=name, total=total, unit="call")
        return (lambda done, _: line.update(done - line.n)), line.close
    try:
        from rich.console import Console  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 (optional)
        from rich.progress import Progress as Rich  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
    except ImportError:
        return None
    display = Rich(console=Console(stderr=True))
    task = display.add_task(name, total=total)
    display.start()
    return (lambda done, _: display.update(task, completed=done)), display.stop


# ------------------------------------------------------------------------------------------------------- gather


@overload
def gather(a1: Awaitable[T1], /, *, limit: int | Limiter | None = ...) -> Coroutine[Any, Any, tuple[T1]]: ...
@overload
def gather(
    a1: Awaitable[T1], a2: Awaitable[T2], /, *, limit: int | Limiter | None = ...
) -> Coroutine[Any, Any, tuple[T1, T2]]: ...
@overload
def gather(
    a1: Awaitable[T1], a2: Awaitable[T2], a3: Awaitable[T3], /, *, limit: int | Limiter | None = ...
) -> Coroutine[Any, Any, tuple[T1, T2, T3]]: ...
@overload
def gather(
    a1: Awaitable[T1], a2: Awaitable[T2], a3: Awaitable[T3], a4: Awaitable[T4], /, *, limit: int | Limiter | None = ...
) -> Coroutine[Any, Any, tuple[T1, T2, T3, T4]]: ...
@overload
def gather(
    a1: Awaitable[T1],
    a2: Awaitable[T2],
    a3: Awaitable[T3],
    a4: Awaitable[T4],
    a5: Awaitable[T5],
    /,
    *,
    limit: int | Limiter | None = ...,
) -> Coroutine[Any, Any, tuple[T1, T2, T3, T4, T5]]: ...
@overload
def gather(
    *aws: Awaitable[T], limit: int | Limiter | None = ..., errors: Literal["raise"] = ...
) -> Coroutine[Any, Any, list[T]]: ...
@overload
def gather(
    *aws: Awaitable[T], limit: int | Limiter | None = ..., errors: Errors
) -> Coroutine[Any, Any, list[T | Exception]]: ...
def gather(*aws: Awaitable[Any], limit: int | Limiter | None = None, errors: Errors = "raise") -> Any:
    """Awaits several awaitables at once and gives the list of their results, in order.

    :func:`amap` over things that are awaitable already, with what it promises and :func:`asyncio.gather` does not: at
    the first error the others are cancelled *and awaited*, and the error carries the results so far.

    Args:
        *aws: coroutines and other awaitables. One that is given twice is awaited once.
        limit: the most that run at once, or a limiter, as for :func:`amap`; None: all of them. A task or future is
            running already and cannot be held back: pass coroutines.
        errors: ``"raise"``: the first error ends it with a :class:`MapError`. ``"return"``: an exception takes the
            place of its result.

    Returns:
        A coroutine that gives a list (typed as a tuple where five or fewer are given, so that each keeps its type, as
        :func:`asyncio.gather` is). Nothing starts before it is awaited.

    Raises:
        MapError: one of them failed. Coroutines that had not started are closed, futures are cancelled and awaited.
        TypeError, ValueError: an argument is no good; at once.

    Cancelling it cancels all of them, waits for them, and re-raises the ``CancelledError`` that arrived.
    """
    for aw in aws:
        if not inspect.isawaitable(aw):
            raise TypeError(f"gather takes awaitables, got {aw!r}: call the async function first, `gather(f(x))`")
    unique = list({id(aw): aw for aw in aws}.values())
    source = iter(unique)
    mapped: AsyncMap[Any] = AsyncMap(
        _itself, source, max(1, len(unique)) if limit is None else limit, True, errors, True, None, name="gather"
    )
    mapped._state = "over"  # the coroutine below is what warns when it is dropped
    coroutine: Any = _gather(mapped, source, [id(aw) for aw in aws], [id(aw) for aw in unique])
    coroutine.__name__ = coroutine.__qualname__ = "gather"
    return coroutine


async def _gather(
    mapped: AsyncMap[Any], source: Iterator[Awaitable[Any]], wanted: list[int], unique: list[int]
) -> list[Any]:
    mapped._state = "new"
    try:
        results = await mapped
    except BaseException as error:
        futures = []
        for aw in source:
            if isinstance(aw, asyncio.Future):
                aw.cancel()
                futures.append(aw)
            elif isinstance(aw, Coroutine):
                aw.close()
        if isinstance(error, GeneratorExit):
            raise
        arrived = await _outlast(futures)
        if arrived is not None and not isinstance(error, asyncio.CancelledError):
            raise arrived from error
        raise
    if len(wanted) == len(unique):
        return results
    places = {key: place for place, key in enumerate(unique)}
    return [results[places[key]] for key in wanted]


# ----------------------------------------------------------------------------------------------------- prefetch


@dataclass(frozen=True, slots=True)
class PrefetchStats:
    """What a :func:`prefetch` looks like at one moment."""

    read: int
    """Items read from the source."""
    buffered: int
    """Items read and not taken yet."""
    limit: int
    """The most that may be."""
    ended: bool
    """The source is exhausted, has failed, or is closed."""


def prefetch(source: Iterable[T] | AsyncIterable[T], n: int) -> Prefetch[T]:
    """Reads up to ``n`` items ahead of whoever takes them, and always closes its source::

        async with prefetch(rows(), 100) as ahead:
            async for row in ahead: ...

    While the body works on one item the next ones are being read. Order is kept, and an error of the source arrives
    after the items before it, as the same exception object.

    Args:
        source: an iterable or an asynchronous iterable. All of its life is in one task, its closing included, and in a
            copy of the context of the ``async with``. A plain iterable is read one item per turn of the loop.
        n: the most items read and not taken, the one being read included; 1 or more.

    Returns:
        A :class:`Prefetch`, to be entered with ``async with``, once.

    Raises:
        TypeError, ValueError: an argument is no good; at once.
        CallCancelled: (iterated) the source raised CancelledError although nobody had cancelled it.

    Leaving the block, in whatever way, cancels a read that is under way and awaits the source's ``aclose``, however
    often the caller is cancelled meanwhile; then the first ``CancelledError`` that arrived goes on. An error of the
    closing is raised when the block ended without one. A cancelled wait for the next item has taken none.
    """
    return Prefetch(source, n)


class Prefetch(Generic[T]):
    """What :func:`prefetch` gives: ``async with`` it for an asynchronous iterator."""

    def __init__(self, source: Iterable[T] | AsyncIterable[T], n: int) -> None:
        if not isinstance(source, (Iterable, AsyncIterable)):
            raise TypeError(f"prefetch(source=...) must be an iterable or an async iterable, got {source!r}")
        if isinstance(n, bool) or not hasattr(n, "__index__"):
            raise TypeError(f"prefetch(n=...) must be an int, got {n!r}: pass how many items to read ahead")
        if operator.index(n) < 1:
            raise ValueError(
                f"prefetch(n=...) must be 1 or more, got {n}: iterate the source itself to read none ahead"
            )
        self._items = source
        self._limit = operator.index(n)
        self._buffer: deque[T] = deque()
        self._reader: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._source: Iterator[T] | AsyncIterator[T] | None = None
        self._read_count = 0
        self._left = False
        self._closing = False
        self._iterating = False
        self._wanted: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    async def __aenter__(self) -> AsyncIterator[T]:
        """Starts to read."""
        if self._reader is not None:
            raise RuntimeError("this prefetch was entered already: make another one")
        items = self._items
        source = aiter(items) if isinstance(items, AsyncIterable) else iter(items)
        self._source = source
        self._reader = asyncio.get_running_loop().create_task(self._read(source), name="prefetch source")
        self._reader.add_done_callback(self._ended)
        if _ADD_EDGE is not None:
            _ADD_EDGE(self._reader, asyncio.current_task())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        """Closes the source."""
        reader = self._reader
        if reader is None or self._left:
            return
        self._left = True
        unseen, self._error = self._error, None
        if not self._closing:
            reader.cancel()
        arrived = await _outlast([reader])
        if not self._closing and self._source is not None:  # cancelled before its first step
            late = await _close_late(self._source, self._source is not self._items)
            arrived = arrived or late
        if _DISCARD_EDGE is not None:
            _DISCARD_EDGE(reader, asyncio.current_task())
        self._buffer.clear()
        if unseen is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "prefetch was left before its source's failure was seen", "exception": unseen}
            )
        if arrived is not None and not isinstance(error, asyncio.CancelledError):
            raise arrived
        if self._error is not None:
            failure, self._error = self._error, None
            if error is None:
                raise failure
            asyncio.get_running_loop().call_exception_handler(
                {"message": "prefetch could not close its source", "exception": failure}
            )

    def __aiter__(self) -> Self:
        """Itself, inside ``async with``."""
        if self._reader is None:
            raise TypeError("iterate inside `async with prefetch(...) as ahead:`, so that the source is always closed")
        return self

    async def __anext__(self) -> T:
        """Waits for the next item."""
        if self._iterating:
            raise RuntimeError("prefetch: another task already waits for the next item; one may at a time")
        self._iterating = True
        try:
            while not self._buffer:
                if self._reader is None or self._reader.done() or self._left:
                    failure, self._error = self._error, None
                    if failure is not None:
                        raise failure
                    raise StopAsyncIteration
                self._wanted = asyncio.get_running_loop().create_future()
                await self._wanted
        finally:
            self._iterating = False
            self._wanted = None
        item = self._buffer.popleft()
        _set(self._room)
        return item

    async def _read(self, source: Iterator[T] | AsyncIterator[T]) -> None:
        try:
            if isinstance(source, Iterator):
                for item in source:
                    await self._put(item)
                    await asyncio.sleep(0)
            else:
                await self._has_room()
                async for item in source:
                    await self._put(item)
        except asyncio.CancelledError as error:
            if self._left:
                raise
            self._error = CallCancelled(
                "the source of prefetch raised CancelledError although nobody had cancelled it: something it awaits "
                "was cancelled; catch that where it is awaited"
            )
            self._error.__cause__ = error
        except BaseException as error:
            self._error = error
        finally:
            self._closing = True
            try:
                await _close(source, source is not self._items)
            except BaseException as error:
                if self._error is None:
                    self._error = error

    async def _put(self, item: T) -> None:
        self._buffer.append(item)
        self._read_count += 1
        _set(self._wanted)
        await self._has_room()

    async def _has_room(self) -> None:
        while len(self._buffer) >= self._limit:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def _ended(self, reader: asyncio.Task[None]) -> None:
        if not reader.cancelled():
            reader.exception()
        _set(self._wanted)

    def stats(self) -> PrefetchStats:
        """A frozen :class:`PrefetchStats` of this moment."""
        ended = self._reader is not None and self._reader.done()
        return PrefetchStats(self._read_count, len(self._buffer), self._limit, ended)

    def __repr__(self) -> str:
        stats = self.stats()
        state = "not started" if self._reader is None else "ended" if stats.ended else "reading"
        return f"<prefetch {state}: {stats.buffered} of {stats.limit} ahead, {stats.read} read>"


def _set(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
