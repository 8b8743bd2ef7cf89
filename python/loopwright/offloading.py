"""Work outside the loop: threads, processes, interpreters and executors behind one function and one limit."""

from __future__ import annotations

import asyncio
import atexit
import functools
import inspect
import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, Protocol, TypeVar, overload

from loopwright import _trace
from loopwright._arguments import seconds
from loopwright._loopwright import _Job, _Offloads
from loopwright._loopwright import timeout as _timeout
from loopwright.errors import CallCancelled, OffloadTimeout

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from loopwright._workers import Workers

__all__ = ["OffloadLimiter", "OffloadStats", "Where", "offload", "offloaded"]

_T = TypeVar("_T")
_P = ParamSpec("_P")
_log = logging.getLogger("loopwright.offload")

Where = Literal["thread", "process", "interpreter"]

_KINDS: Final = ("thread", "process", "interpreter", "executor")
_THREAD, _PROCESS, _INTERPRETER, _EXECUTOR = range(4)

_LIMIT: Final = 40
"""Calls at a time, of all kinds: what anyio and trio have for threads."""

_PATIENCE: Final = 1.0
"""Seconds that abandoned work gets to end when the interpreter does."""


class OffloadLimiter(Protocol):
    """What ``offload(limit=...)`` takes: a :class:`loopwright.Semaphore`, or anything with these two."""

    def acquire(self) -> Awaitable[Any]:
        """Waits for the right to run one call."""

    def release(self) -> Any:
        """Gives it back."""


@dataclass(frozen=True, slots=True)
class OffloadStats:
    """What work outside the loop looks like at one moment: ``offload.stats()``."""

    limit: int
    """The most calls at a time, of all kinds."""
    waiting: int
    """Callers that wait for a permit."""
    running: int
    """Calls that run, or have a permit and are about to, and that somebody waits for."""
    abandoned: int
    """Calls that run although nobody waits for them any more. Each keeps its permit until it ends."""
    threads: int
    """Threads of ours that are alive. Each call in a thread, a process or an interpreter has one."""
    idle_threads: int
    """Those of them that have nothing to do; they end after 30 seconds."""
    processes: int
    """Worker processes that are alive."""
    calls: int
    """Calls that got a permit."""
    finished: int
    """Calls that ended with a result, abandoned ones included."""
    failed: int
    """Calls that ended with an error, abandoned ones included."""
    withdrawn: int
    """Calls whose callers had gone before the call began: it never did."""
    abandonments: int
    """Calls whose callers went while the call ran."""
    timeouts: int
    """Callers that went because of ``timeout=``."""
    workers_started: int
    """Worker processes started."""
    workers_killed: int
    """Worker processes killed because the caller had gone."""
    workers_lost: int
    """Worker processes that died in the middle of a call."""


# ---------------------------------------------------------------------------------------------------------- threads


class _Seat:
    """A thread, and what it does right now."""

    __slots__ = ("job", "thread")

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self.job: _Job | None = None


class _Here(threading.local):
    """The seat of this thread."""

    seat: _Seat | None = None


_here = _Here()
_seats: set[_Seat] = set()
"""Of our threads."""
_numbers = itertools.count(1)


def _start(offloads: _Offloads) -> None:
    name = f"loopwright offload {next(_numbers)}"
    # A daemon: what nobody can stop must not keep the interpreter from its end.
    threading.Thread(target=_work, args=(offloads,), name=name, daemon=True).start()


def _work(offloads: _Offloads) -> None:
    """The life of a thread. ``loopwright.testing`` knows this function: a thread in it, and no deeper, sleeps."""
    _here.seat = seat = _Seat()
    _seats.add(seat)
    roused = True
    while (taken := offloads._take(roused)) is not None:
        roused = False
        job, run, function, args, kwargs = taken
        seat.job = job
        try:
            result = run(function, *args, **kwargs)
            if type(result) is CoroutineType:
                result.close()
                raise TypeError(f"offload takes plain functions; {_name(function)} is an async one: await it instead")
        except BaseException as error:
            job.fail(error)
        else:
            job.finish(result)
        # Nothing of a call stays alive while its thread waits for the next.
        taken = job = run = function = args = kwargs = result = seat.job = None  # type: ignore[assignment]
    _seats.discard(seat)


def _name(function: object) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__qualname__", None) or repr(function)


_told: set[str] = set()
_TOLD_MOST: Final = 1000


def _report(job: _Job, error: BaseException | None) -> None:
    """Work that nobody waits for: it was abandoned, or failed after that."""
    if job.kind == _PROCESS:
        return
    name = _name(job.subject)
    if error is not None:
        _log.error("offload(%s) failed after its caller had gone", name, exc_info=error)
    elif name not in _told and len(_told) < _TOLD_MOST:
        _told.add(name)
        _log.warning(
            "offload(%s) was abandoned: its caller has gone, the %s cannot be stopped, and it keeps its permit until "
            "it ends; look at offload.cancelled() in it (said once for each function)",
            name,
            _KINDS[job.kind],
        )


def _processors() -> int:
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Process:
    """What this process has outside of its loops. A forked child gets a new one: it has none of the threads."""

    def __init__(self, limit: int, caps: list[int | None]) -> None:
        self.offloads = _Offloads(limit, caps, _start, _report)
        self.timeouts = 0
        self._workers: Workers | None = None
        self._interpreters: Any = None
        self._lock = threading.Lock()

    @property
    def workers(self) -> Workers:
        with self._lock:
            if self._workers is None:
                from loopwright._workers import Workers  # noqa: PLC0415 (multiprocessing: when it is needed)

                self._workers = Workers()
                atexit.register(self._workers.close)
            return self._workers

    @property
    def known_workers(self) -> Workers | None:
        """The workers, if there ever was one."""
        return self._workers

    @property
    def interpreters(self) -> Any:
        with self._lock:
            if self._interpreters is None:
                from loopwright._interpreters import Interpreters  # noqa: PLC0415 (3.14 and later)

                self._interpreters = Interpreters()
            return self._interpreters


_process = _Process(_LIMIT, [None, _processors(), _processors(), None])


def _forget() -> None:
    global _process  # noqa: PLW0603 (the child has nothing of its parent's)
    before = _process.offloads
    _process = _Process(before.limit, [before._cap(kind) for kind in range(len(_KINDS))])
    _seats.clear()


def _descriptors() -> set[int]:
    """What is open between this process and its workers: they outlive the loops and tests that made them start."""
    workers = _process.known_workers
    return workers.descriptors() if workers else set()


def _at_exit() -> None:
    """Threads that sleep end; those that work get a moment, and are named if they go on."""
    _process.offloads._close()
    until = time.monotonic() + _PATIENCE
    for seat in list(_seats):
        seat.thread.join(max(0.0, until - time.monotonic()))
    names = sorted(_name(seat.job.subject) for seat in list(_seats) if seat.job is not None)
    if names:
        _log.warning("offload: the process ends while %d call(s) still run: %s", len(names), ", ".join(names))


os.register_at_fork(after_in_child=_forget)


# ------------------------------------------------------------------------------------------------------------- kinds


def _in_process(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    seat = _here.seat
    assert seat is not None
    return _process.workers.run(seat.job, function, args, kwargs)


def _in_interpreter(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _process.interpreters.run(function, args, kwargs)


def _in_executor(executor: Executor, job: _Job) -> None:
    """Hands a call to an executor."""
    begun = job._begin()
    if begun is None:
        return
    context, function, args, kwargs = begun
    try:
        if _shares_memory(executor):
            future = executor.submit(_as_job, job, context.run, function, args, kwargs or {})
        else:
            future = executor.submit(function, *args, **(kwargs or {}))
    except BaseException as error:
        job.fail(error)
        return
    job._on_abandon(future.cancel)
    future.add_done_callback(functools.partial(_ended, job))


def _shares_memory(executor: Executor) -> bool:
    """Whether an executor's calls run in this interpreter, so that context and job are theirs too."""
    pools: Any = sys.modules.get("concurrent.futures.thread")
    interpreters: Any = sys.modules.get("concurrent.futures.interpreter")
    if pools is None or not isinstance(executor, pools.ThreadPoolExecutor):
        return False
    return interpreters is None or not isinstance(executor, interpreters.InterpreterPoolExecutor)


def _as_job(job: _Job, run: Any, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    seat = _here.seat
    if seat is None:
        seat = _here.seat = _Seat()
    seat.job = job
    try:
        return run(function, *args, **kwargs)
    finally:
        seat.job = None


def _ended(job: _Job, future: Future[Any]) -> None:
    if future.cancelled():
        job.fail(CallCancelled("offload: the executor cancelled the call"))
        return
    error = future.exception()
    if error is None:
        job.finish(future.result())
    else:
        job.fail(error)


# ------------------------------------------------------------------------------------------------------------ offload


class _Offload:
    """:data:`offload`."""

    __slots__ = ()
    __name__ = "offload"
    __qualname__ = "offload"

    def __call__(
        self,
        fn: Callable[..., _T],
        /,
        *args: Any,
        on: Where | Executor = "thread",
        limit: OffloadLimiter | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, _T]:
        """Runs ``fn(*args, **kwargs)`` outside of the event loop, and waits for what it returns.

        Args:
            fn: a plain function.
            on: where it runs. ``"thread"``: for what waits (files, drivers that block), and for what lets go of the
                interpreter lock. ``"process"``: for Python code that computes; function, arguments and result are
                pickled. ``"interpreter"``: the same without a process (CPython 3.14 and later). Or any
                :class:`concurrent.futures.Executor`: Dask's ``client.get_executor()``, say.
            limit: held while the work runs, besides the limit of the process: a :class:`Semaphore`, or anything with
                ``acquire()`` and ``release()``. Make it once and share it.
            timeout: seconds, from here on, for which to wait for a permit and for the result; None: no end.

        Returns:
            Something to await, once. Nothing happens before that.

        Raises:
            CancelledError: the caller was cancelled, and is told at once. What had not begun never does. A thread or an
                interpreter cannot be stopped: the work is *abandoned*, goes on, and keeps its permit until it ends. A
                process is killed, with all that it has started, and replaced. An executor's future is cancelled.
            OffloadTimeout: ``timeout`` has passed. For the work that is the same as a cancel.
            WorkerLost: the process that ran the call died (a crash, the system's memory). Other calls are unharmed.
            RemoteError: the call raised, in a process or an interpreter, something that cannot be pickled.
            CallCancelled: the call itself raised ``CancelledError``.
            Exception: whatever else the call raises. From a process it has its traceback there as ``__cause__``.

        Context variables are those of the caller, in a copy; not in processes, interpreters and executors that have
        processes. What :func:`loopwright.bind` has bound goes to worker processes too.

        One limit holds for all kinds, 40 calls unless :meth:`limits` says otherwise, and a cap for processes and one
        for interpreters, as many as there are processors; permits go to whoever came first among those whose kind has
        room. Any event loop, any thread.
        """
        if on == "thread" and limit is None and timeout is None and _trace.hook is None:
            return _process.offloads._call(_THREAD, fn, args, kwargs)
        return self._special(fn, args, kwargs, on, limit, timeout)

    def _special(  # noqa: PLR0913, PLR0917 (the arguments of __call__)
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        on: Where | Executor,
        limit: OffloadLimiter | None,
        timeout: float | None,
    ) -> Coroutine[Any, Any, Any]:
        if not callable(fn):
            raise TypeError(f"offload takes a function and its arguments, got {fn!r}")
        if limit is not None and not (hasattr(limit, "acquire") and hasattr(limit, "release")):
            raise TypeError(
                f"offload(limit=...) must have acquire() and release(), as a Semaphore has, got {limit!r}: "
                "a limit belongs to many calls, so make it once, outside"
            )
        make = _maker(fn, args, kwargs, on)
        if timeout is not None:
            timeout = seconds(timeout, "offload(timeout=...)")
        if _trace.hook is not None:
            return _traced(fn, on, _guarded(make, limit, timeout, fn, on))
        if limit is None and timeout is None:
            return make(None)
        return _guarded(make, limit, timeout, fn, on)

    def cancelled(self) -> bool:
        """Whether nobody waits any more for the call that this code runs in: stop, if you can.

        For long work in threads, which look at it now and then. False outside of :func:`offload`, and in processes and
        interpreters: a process is killed, an interpreter cannot be told.
        """
        seat = _here.seat
        return seat is not None and seat.job is not None and seat.job.abandoned

    def limits(
        self, total: int | None = None, *, processes: int | None = None, interpreters: int | None = None
    ) -> None:
        """Changes how many calls run at a time; what runs goes on.

        Args:
            total: of all kinds, 1 or more.
            processes: in worker processes.
            interpreters: in subinterpreters.
        """
        offloads = _process.offloads
        for value, name in ((total, "total"), (processes, "processes"), (interpreters, "interpreters")):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"offload.limits({name}=...) must be 1 or more, got {value!r}")
        if total is not None:
            offloads.limit = total
        if processes is not None:
            offloads._set_cap(_PROCESS, processes)
        if interpreters is not None:
            offloads._set_cap(_INTERPRETER, interpreters)

    def stats(self) -> OffloadStats:
        """A frozen :class:`OffloadStats` of this moment, of this process."""
        process = _process
        (limit, waiting, running, abandoned), (threads, idle), totals = process.offloads._stats()
        calls, finished, failed, withdrawn, abandonments = totals
        workers = process.known_workers
        return OffloadStats(
            limit=limit,
            waiting=waiting,
            running=sum(running),
            abandoned=sum(abandoned),
            threads=threads,
            idle_threads=idle,
            processes=workers.alive if workers else 0,
            calls=calls,
            finished=finished,
            failed=failed,
            withdrawn=withdrawn,
            abandonments=abandonments,
            timeouts=process.timeouts,
            workers_started=workers.started if workers else 0,
            workers_killed=workers.killed if workers else 0,
            workers_lost=workers.lost if workers else 0,
        )

    def __repr__(self) -> str:
        stats = self.stats()
        return (
            f"<loopwright.offload: {stats.running} running, {stats.abandoned} abandoned, {stats.waiting} waiting, "
            f"limit {stats.limit}>"
        )

    def __reduce__(self) -> str:
        return "offload"


offload = _Offload()
"""See :meth:`_Offload.__call__`."""

if sys.version_info >= (3, 12):
    inspect.markcoroutinefunction(_Offload.__call__)


def _maker(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], on: Where | Executor
) -> Callable[[Callable[[], object] | None], Coroutine[Any, Any, Any]]:
    """Makes the operation, told what to call at the end of the work."""
    offloads = _process.offloads
    if on == "thread":
        return lambda at_end: offloads._call(_THREAD, fn, args, kwargs, at_end=at_end)
    if on == "process":
        packed = fn, args, kwargs
        return lambda at_end: offloads._call(_PROCESS, _in_process, packed, subject=fn, at_end=at_end)
    if on == "interpreter":
        if sys.version_info < (3, 14):
            raise RuntimeError(
                "offload(on='interpreter') needs CPython 3.14 or later, "
                f"this is {sys.version_info.major}.{sys.version_info.minor}: use on='process'"
            )
        packed = fn, args, kwargs
        return lambda at_end: offloads._call(_INTERPRETER, _in_interpreter, packed, subject=fn, at_end=at_end)
    if not callable(getattr(on, "submit", None)):
        raise ValueError(
            f"offload(on=...) must be 'thread', 'process', 'interpreter' or a concurrent.futures.Executor, got {on!r}"
        )
    submit = functools.partial(_in_executor, on)
    return lambda at_end: offloads._call(_EXECUTOR, fn, args, kwargs, submit=submit, at_end=at_end)


async def _guarded(
    make: Callable[[Callable[[], object] | None], Coroutine[Any, Any, Any]],
    limit: OffloadLimiter | None,
    wait: float | None,
    fn: Callable[..., Any],
    on: Where | Executor,
) -> Any:
    scope = _timeout(wait)
    try:
        async with scope:
            if limit is None:
                return await make(None)
            await limit.acquire()
            return await make(functools.partial(_release, limit, asyncio.get_running_loop()))
    except TimeoutError as error:
        if not scope.expired() or isinstance(error, OffloadTimeout):
            raise
        _process.timeouts += 1
        fate = "its worker is killed" if on == "process" else "if it runs, it goes on until it ends"
        raise OffloadTimeout(f"offload({_name(fn)}) had not ended within timeout={wait} s; {fate}") from None


def _release(limit: OffloadLimiter, loop: asyncio.AbstractEventLoop) -> None:
    """In whatever thread the work has ended: a limiter belongs to its loop."""
    try:
        loop.call_soon_threadsafe(limit.release)
    except RuntimeError:  # The loop is closed, so that nobody else uses the limiter.
        limit.release()


async def _traced(fn: Callable[..., Any], on: Where | Executor, work: Coroutine[Any, Any, Any]) -> Any:
    hook = _trace.hook
    if hook is None:
        return await work
    place = on if isinstance(on, str) else type(on).__name__
    with hook("loopwright.offload", {"loopwright.name": _name(fn), "loopwright.offload.on": place}):
        return await work


# ---------------------------------------------------------------------------------------------------------- offloaded


@overload
def offloaded(fn: Callable[_P, _T], /) -> Callable[_P, Coroutine[Any, Any, _T]]: ...
@overload
def offloaded(
    *, on: Where | Executor = "thread", limit: OffloadLimiter | int | None = None, timeout: float | None = None
) -> Callable[[Callable[_P, _T]], Callable[_P, Coroutine[Any, Any, _T]]]: ...
def offloaded(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    on: Where | Executor = "thread",
    limit: OffloadLimiter | int | None = None,
    timeout: float | None = None,
) -> Any:
    """Makes a plain function awaitable: each call goes through :func:`offload`.

    ::

        @offloaded(on="process", limit=2)
        def parse(data: bytes) -> Report: ...

        report = await parse(data)

    Args:
        on: as for :func:`offload`.
        limit: the most calls of this function at a time, an int of 1 or more, or a limiter shared with others.
        timeout: seconds for each call.

    Returns:
        The decorated function. The function itself is its ``__wrapped__``, for callers outside of the loop.

    Raises:
        TypeError, ValueError: an argument that makes no sense, named.
    """
    if fn is None:
        return functools.partial(_decorated, on=on, limit=limit, timeout=timeout)
    return _decorated(fn, on=on, limit=limit, timeout=timeout)


def _decorated(
    fn: Callable[..., Any], /, *, on: Where | Executor, limit: OffloadLimiter | int | None, timeout: float | None
) -> Any:
    if not callable(fn) or inspect.iscoroutinefunction(fn):
        raise TypeError(f"@offloaded takes a plain function, got {fn!r}")
    limiter: OffloadLimiter | None
    if isinstance(limit, int):
        from loopwright.limits import Semaphore  # noqa: PLC0415 (only here)

        if limit < 1 or limit is True:
            raise ValueError(f"@offloaded(limit=...) must be 1 or more, got {limit}")
        limiter = Semaphore(limit)
    else:
        limiter = limit
    if on == "thread" and limiter is None and timeout is None:

        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            return offload(fn, *args, **kwargs)
    else:

        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            return offload._special(fn, args, kwargs, on, limiter, timeout)

    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(call)
    return call


atexit.register(_at_exit)
