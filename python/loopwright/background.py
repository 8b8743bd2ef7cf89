"""Background work: tasks that nobody awaits, and that are not lost."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, TypeVar, overload

from loopwright._arguments import count, seconds
from loopwright.errors import GroupFull, LoopMismatch

__all__ = ["Background", "BackgroundStats", "Delays", "Restart"]

_T = TypeVar("_T")
_log = logging.getLogger("loopwright")


class Delays(Protocol):
    """What ``spawn(restart=...)`` takes besides :class:`Restart`: anything that knows how long to wait."""

    def delays(self) -> Iterator[float]:
        """A fresh schedule: the seconds to wait before each restart in a row. Its end means: give up."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """When to start failed background work again: after a delay that doubles from failure to failure.

    Args:
        attempts: restarts in a row before it is given up, 1 or more; None for no end to it.
        base: seconds before the first restart, more than 0; each further one in a row waits twice as long.
        max_delay: seconds that no delay exceeds. Work that ran longer than this counts as recovered: its next failure
            is a first one again.
        jitter: ``"full"`` draws each delay between 0 and that length, at the cap too, so that what failed together does
            not come back together; ``"none"`` waits exactly so long.

    Raises:
        ValueError, TypeError: a value that makes no sense, named.
    """

    attempts: int | None = None
    base: float = 0.1
    max_delay: float = 30.0
    jitter: Literal["full", "none"] = "full"

    def __post_init__(self) -> None:
        if self.attempts is not None:
            count(self.attempts, "Restart(attempts=...)")
        base = seconds(self.base, "Restart(base=...)", positive=True)
        if seconds(self.max_delay, "Restart(max_delay=...)", positive=True) < base:
            raise ValueError(f"Restart(max_delay={self.max_delay}) is less than base={self.base}: raise it")
        if self.jitter not in ("full", "none"):
            raise ValueError(f"Restart(jitter=...) must be 'full' or 'none', got {self.jitter!r}")

    def delays(self) -> Iterator[float]:
        """A fresh schedule: the seconds to wait before each restart in a row."""
        delay, restarts = self.base, 0
        while self.attempts is None or restarts < self.attempts:
            yield random.uniform(0, delay) if self.jitter == "full" else delay
            delay = min(delay * 2, self.max_delay)
            restarts += 1


@dataclass(frozen=True, slots=True)
class BackgroundStats:
    """What a :class:`Background` looks like at one moment."""

    alive: int
    """Tasks that have not ended, ``every`` jobs included."""
    limit: int | None
    """The most tasks alive at a time; None for no limit."""
    spawned: int
    """Tasks started so far."""
    finished: int
    """Tasks that ended with a result."""
    failed: int
    """Tasks that ended with an error."""
    cancelled: int
    """Tasks that ended cancelled."""
    errors: int
    """Errors reported: of tasks that ended, and of those that were restarted or repeated after them."""
    restarts: int
    """How often work was started again after an error."""
    closed: bool
    """Whether ``aclose`` was called."""


class _Job:
    """One task, and whether it only waits for its next turn."""

    __slots__ = ("idle", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None
        self.idle = False

    async def sleep(self, delay: float) -> None:
        """Waits between two runs: closing need not wait for it."""
        self.idle = True
        try:
            await asyncio.sleep(delay)
        finally:
            self.idle = False


class Background:
    """Tasks that nobody awaits: kept alive, limited in number, restarted if you say so, closed in the end.

    ``asyncio.create_task`` without an owner loses both the task (the loop keeps only a weak reference) and its error.
    Here every task has an owner, and no error is lost::

        async with Background(on_error=lambda error, task: log.error("background", exc_info=error)) as jobs:
            jobs.spawn(send_mail, user)
            jobs.spawn(listen, restart=True)
            jobs.every(60, refresh)

    Args:
        limit: the most tasks alive at a time, 1 or more; None for no limit. ``every`` jobs count.
        on_error: called with each error and its task, in the loop, right when it happened. Without one, or when it
            raises itself, errors go to the loop's exception handler, which logs them.

    Raises:
        ValueError: ``limit`` is less than 1.
        TypeError: ``limit`` is not an int, ``on_error`` is not callable, or is an ``async def``.

    Leaving ``async with`` closes it: with the default grace, or at once when the block was cancelled. One object serves
    one event loop at a time. Not thread-safe.
    """

    def __init__(
        self,
        *,
        limit: int | None = None,
        on_error: Callable[[BaseException, asyncio.Task[Any]], object] | None = None,
    ) -> None:
        self._limit = None if limit is None else count(limit, "Background(limit=...)")
        if on_error is not None and (not callable(on_error) or inspect.iscoroutinefunction(on_error)):
            raise TypeError(
                f"Background(on_error=...) must be a plain function of (error, task), got {on_error!r}; "
                "from there, asynchronous work can be spawned"
            )
        self._on_error = on_error
        self._jobs: dict[asyncio.Task[Any], _Job] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._spawned = self._finished = self._failed = self._cancelled = self._errors = self._restarts = 0

    @overload
    def spawn(
        self,
        fn: Callable[..., Coroutine[Any, Any, _T]],
        /,
        *args: Any,
        restart: bool | Restart | Delays = False,
        name: str | None = None,
        **kwargs: Any,
    ) -> asyncio.Task[_T]: ...
    @overload
    def spawn(self, fn: Coroutine[Any, Any, _T], /, *, name: str | None = None) -> asyncio.Task[_T]: ...
    def spawn(
        self,
        fn: Any,
        /,
        *args: Any,
        restart: Any = False,
        name: str | None = None,
        **kwargs: Any,
    ) -> asyncio.Task[Any]:
        """Starts ``fn(*args, **kwargs)``, or a coroutine, as a task of its own.

        Args:
            fn: an ``async def`` function, or a coroutine (which cannot be restarted, and takes no arguments).
            restart: start it again when it fails: True for :class:`Restart`'s defaults, a :class:`Restart`, or any
                object with a ``delays()`` that gives the seconds to wait before each restart. It ends when it returns,
                is cancelled, or the delays come to an end; every error on the way is reported.
            name: the task's name. (A function with an argument called ``name`` or ``restart`` needs a
                :func:`functools.partial`.)

        Returns:
            The task. It may be awaited or cancelled; its errors are reported anyway.

        Raises:
            GroupFull: ``limit`` tasks are alive. A coroutine is closed.
            RuntimeError: it was closed, or there is no running event loop. A coroutine is closed.
            LoopMismatch: tasks of another event loop are alive.
            TypeError: ``fn`` cannot be run, or a coroutine shall be restarted.
        """
        is_coroutine = asyncio.iscoroutine(fn)
        try:
            policy = _policy(restart)
            if is_coroutine and (args or kwargs or policy is not None):
                what = "restart" if policy is not None else "arguments"
                raise TypeError(f"Background.spawn: no {what} for a coroutine, pass the function: got {fn!r}")
            if not is_coroutine and not callable(fn):
                raise TypeError(f"Background.spawn takes a function and its arguments, or a coroutine, got {fn!r}")
            loop = self._admit("spawn")
        except BaseException:
            if is_coroutine:
                fn.close()
            raise
        job = _Job()
        if is_coroutine:
            return self._start(loop, fn, job, name)
        if policy is None:
            return self._start(loop, fn(*args, **kwargs), job, name)
        return self._start(loop, self._supervise(job, policy, fn, args, kwargs), job, name or _name(fn))

    def every(
        self,
        interval: float,
        fn: Callable[[], Awaitable[object] | None],
        *,
        jitter: float = 0.0,
        name: str | None = None,
    ) -> asyncio.Task[None]:
        """Runs ``fn()`` every ``interval`` seconds, for the first time after one interval, until it is closed.

        The times are those of a clock that started at the call: they do not drift, however long ``fn`` takes. It never
        runs twice at a time: times that pass while it runs are left out. An error is reported, and the next time comes
        as ever.

        Args:
            interval: seconds, more than 0.
            fn: an ``async def`` function without arguments (or a plain, quick one).
            jitter: each run is late by up to so many seconds, drawn anew each time; less than ``interval``. The times
                after it are not.
            name: the task's name.

        Returns:
            The task; cancel it to end the job.

        Raises:
            GroupFull, RuntimeError, LoopMismatch: as for :meth:`spawn`.
            ValueError, TypeError: an argument that makes no sense, named.
        """
        interval = seconds(interval, "Background.every(interval=...)", positive=True)
        if seconds(jitter, "Background.every(jitter=...)") >= interval:
            raise ValueError(f"Background.every(jitter={jitter}) must be less than interval={interval}")
        if not callable(fn):
            if asyncio.iscoroutine(fn):
                fn.close()
            raise TypeError(f"Background.every takes a function without arguments, got {fn!r}")
        loop = self._admit("every")
        job = _Job()
        return self._start(loop, self._repeat(job, interval, fn, jitter), job, name or _name(fn))

    async def aclose(self, grace: float = 5.0) -> list[asyncio.Task[Any]]:
        """Takes no more work, waits for what runs, cancels what is left, and waits for that too.

        Work that only waits for its next time or restart is cancelled at once. What still runs after ``grace`` seconds
        is cancelled and named in the log, and has as long again to clean up.

        Args:
            grace: seconds, 0 or more; 0 cancels at once and gives clean-ups 5 seconds.

        Returns:
            The tasks that did not end even so, each of them named in the log; empty if all is well.

        Raises:
            CancelledError: the close itself was cancelled: what is left has been cancelled, and has had its time to
                clean up.
        """
        grace = seconds(grace, "Background.aclose(grace=...)")
        self._closed = True
        here = asyncio.current_task()
        for task, job in list(self._jobs.items()):
            if job.idle and task is not here:
                task.cancel()
        interrupted: asyncio.CancelledError | None = None
        pending = self._others(here)
        if pending and grace > 0:
            try:
                await asyncio.wait(pending, timeout=grace)
            except asyncio.CancelledError as error:
                interrupted = error
        pending = self._others(here)
        if pending:
            if grace > 0 and interrupted is None:
                names = ", ".join(task.get_name() for task in pending)
                _log.warning("Background: %d task(s) are cancelled after grace=%s s: %s", len(pending), grace, names)
            for task in pending:
                task.cancel()
            interrupted = await self._outlast(pending, grace or 5.0) or interrupted
        left = self._others(here)
        for task in left:
            _log.error("Background: %r was cancelled and has not ended", task)
        try:
            if interrupted is not None:
                raise interrupted
            return left
        finally:
            del interrupted

    async def _outlast(self, tasks: list[asyncio.Task[Any]], patience: float) -> asyncio.CancelledError | None:
        """Waits for cancelled tasks, whatever cancels of its own arrive."""
        from loopwright.cancellation import _shielded_from_anyio  # noqa: PLC0415 (only when closing)

        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        interrupted = None
        with _shielded_from_anyio():
            while not all(task.done() for task in tasks) and (left := deadline - loop.time()) > 0:
                try:
                    await asyncio.wait(tasks, timeout=left)
                except asyncio.CancelledError as error:
                    interrupted = interrupted or error
        return interrupted

    def _others(self, here: asyncio.Task[Any] | None) -> list[asyncio.Task[Any]]:
        """The tasks that have not ended, but for our own; those whose callback is still to come are settled."""
        for task in [task for task in self._jobs if task.done()]:
            self._ended(task)
        return [task for task in self._jobs if task is not here]

    async def __aenter__(self) -> Background:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del traceback
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            await self.aclose(0)
        else:
            await self.aclose()

    @property
    def limit(self) -> int | None:
        """The most tasks alive at a time; None for no limit."""
        return self._limit

    def stats(self) -> BackgroundStats:
        """A frozen :class:`BackgroundStats` of this moment."""
        return BackgroundStats(
            alive=len(self._jobs),
            limit=self._limit,
            spawned=self._spawned,
            finished=self._finished,
            failed=self._failed,
            cancelled=self._cancelled,
            errors=self._errors,
            restarts=self._restarts,
            closed=self._closed,
        )

    def __repr__(self) -> str:
        limit = "" if self._limit is None else f" limit={self._limit}"
        closed = " closed" if self._closed else ""
        return f"<Background tasks={len(self._jobs)}{limit} errors={self._errors}{closed}>"

    # What runs

    def _admit(self, what: str) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise RuntimeError(f"Background.{what}: it was closed and takes no more work: make a new one")
        if self._loop is not loop:
            if self._jobs and self._loop is not None and not self._loop.is_closed():
                raise LoopMismatch(
                    f"Background is bound to a different event loop: {len(self._jobs)} task(s) of that loop are alive; "
                    "use one object per loop, or close this one first"
                )
            self._jobs.clear()
            self._loop = loop
        if self._limit is not None and len(self._jobs) >= self._limit:
            raise GroupFull(
                f"Background is full: {len(self._jobs)} tasks are alive, limit={self._limit}; raise the limit, or use "
                "a TaskGroup, whose `await spawn(...)` waits for a slot"
            )
        return loop

    def _start(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, _T], job: _Job, name: str | None
    ) -> asyncio.Task[_T]:
        task = loop.create_task(coroutine, name=name)
        job.task = task
        self._jobs[task] = job
        self._spawned += 1
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """A task is done: once, by its callback or by ``aclose``, whichever comes first."""
        if self._jobs.pop(task, None) is None:
            return
        if task.cancelled():
            self._cancelled += 1
        elif (error := task.exception()) is None:
            self._finished += 1
        else:
            self._failed += 1
            self._report(error, task, "Background: a task failed")

    async def _supervise(
        self,
        job: _Job,
        policy: Delays,
        fn: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        loop = asyncio.get_running_loop()
        recovered_after = getattr(policy, "max_delay", 30.0)
        schedule = policy.delays()
        while True:
            started = loop.time()
            try:
                return await fn(*args, **kwargs)
            except Exception as error:
                if loop.time() - started > recovered_after:
                    schedule = policy.delays()
                delay = next(schedule, None)
                if delay is None or self._closed:
                    raise
                self._report(error, job.task, f"Background: {_name(fn)} failed and is restarted in {delay:.3g} s")
            await job.sleep(delay)
            self._restarts += 1

    async def _repeat(
        self, job: _Job, interval: float, fn: Callable[[], Awaitable[object] | None], jitter: float
    ) -> None:
        loop = asyncio.get_running_loop()
        start, turn = loop.time(), 0
        while not self._closed:
            turn = max(turn, int((loop.time() - start) / interval)) + 1
            await job.sleep(max(0.0, start + turn * interval + random.uniform(0, jitter) - loop.time()))
            try:
                result = fn()
                if result is not None:
                    await result
            except Exception as error:
                self._report(error, job.task, f"Background: {_name(fn)} failed and is repeated as planned")

    def _report(self, error: BaseException, task: asyncio.Task[Any] | None, message: str) -> None:
        self._errors += 1
        task = task or asyncio.current_task()
        assert task is not None
        if self._on_error is not None:
            try:
                self._on_error(error, task)
                return
            except Exception as trouble:
                trouble.add_note(f"raised by Background(on_error=...) when it was told of {error!r}")
                task.get_loop().call_exception_handler(
                    {"message": "Background: on_error raised", "exception": trouble, "task": task}
                )
        task.get_loop().call_exception_handler({"message": message, "exception": error, "task": task})


def _name(fn: Callable[..., object]) -> str:
    return getattr(fn, "__qualname__", None) or repr(fn)


def _policy(restart: object) -> Delays | None:
    if restart is False or restart is None:
        return None
    if restart is True:
        return Restart()
    if not callable(getattr(restart, "delays", None)):
        raise TypeError(
            f"Background.spawn(restart=...) must be a bool, a Restart, or have a delays() method, got {restart!r}"
        )
    return restart  # type: ignore[return-value]
