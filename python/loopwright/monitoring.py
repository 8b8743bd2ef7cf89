"""Monitoring: what is slow, and how the process does.

Lives here: `timed`, `monitor`, who is told of a slow call, the line of the summary. Does not live here: which calls run
and which of them are slow (``crates/core/src/stopwatch.rs``), and how all that leaves the process
(:mod:`loopwright._metrics`, :mod:`loopwright.integrations.prometheus`, :mod:`loopwright.integrations.otel`).
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import math
import os
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar, overload

from loopwright import _loopwright as native
from loopwright._arguments import seconds

__all__ = ["Durations", "Monitor", "MonitorStats", "SlowCall", "Timed", "TimedStats", "monitor", "operations", "timed"]

F = TypeVar("F", bound=Callable[..., Any])

_log = logging.getLogger("loopwright.monitor")

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds: the buckets in which times are exported. The histogram behind them is far finer."""

_BEAT = 0.05
_NAMES = 1_000
_OTHER = "(other)"
_LINES_EVERY = 1.0
_SHOWN = 5
_DEPTH = 50
_ASYNCIO = os.path.dirname(asyncio.__file__)


@dataclass(frozen=True, slots=True)
class Durations:
    """How long things took, of an HDR histogram: each number but ``total`` is within one percent of the true one."""

    count: int
    """How many."""
    total: float
    """Seconds, all together."""
    p50: float
    """Seconds within which half of them were done; 0 without any, as for the next ones."""
    p90: float
    """Seconds within which 90 % were done."""
    p99: float
    """Seconds within which 99 % were done."""
    max: float
    """Seconds of the longest."""
    within: tuple[int, ...]
    """How many took no longer than each of ``BOUNDS``: 1 ms, 2.5 ms, 5 ms ... 60 s."""

    @classmethod
    def _of(cls, taken: native._Durations) -> Durations:
        p50, p90, p99 = (taken.quantile(share) for share in (0.5, 0.9, 0.99))
        return cls(taken.count, taken.total, p50, p90, p99, taken.max, tuple(taken.within(list(BOUNDS))))


@dataclass(frozen=True, slots=True)
class TimedStats:
    """What one timed operation looks like at one moment, and its totals."""

    running: int
    """Calls that run."""
    calls: int
    """Calls that have ended, whatever way."""
    failed: int
    """Calls that ended with an error."""
    cancelled: int
    """Calls that ended by a cancel."""
    slow: int
    """Calls that took as long as the threshold; those that still run are counted as soon as they have."""
    durations: Durations
    """How long the calls took that have ended."""


@dataclass(frozen=True, slots=True)
class SlowCall:
    """A call that took as long as the threshold, or that runs for so long and has not ended."""

    operation: str
    """Its name."""
    seconds: float
    """How long it took, or runs already."""
    threshold: float
    """From how many seconds on it is slow."""
    running: bool
    """Whether it still runs. Such a call is told once more when it has ended."""
    error: BaseException | None = None
    """What it ended with."""
    waiting_at: tuple[str, ...] = ()
    """Of a call that still runs: where it is, as ``function (file:line)``, the outermost first; without asyncio."""

    def __str__(self) -> str:
        if self.running:
            where = f", at {self.waiting_at[-1]}" if self.waiting_at else ""
            return f"{self.operation} runs for {_time(self.seconds)}{where}"
        how = "" if self.error is None else f" and ended with {type(self.error).__name__}"
        return f"{self.operation} took {_time(self.seconds)}{how}"


@dataclass(frozen=True, slots=True)
class MonitorStats:
    """What a :class:`Monitor` has seen, and how the process does at this moment."""

    lag: Durations
    """How late the loop was at each beat, 20 times a second."""
    slow: int
    """Slow calls that it was told of."""
    summaries: int
    """Summaries written."""
    resident_memory: int | None
    """Bytes of memory that the process has; None where the system does not tell."""
    open_files: int | None
    """File descriptors that are open; None where the system does not tell."""
    threads: int
    """Threads of the process, those that Python does not know included where the system tells."""


# What is timed


class _Operation:
    """One name, and the calls under it."""

    __slots__ = ("name", "own_threshold", "watch")

    def __init__(self, name: str) -> None:
        self.name = name
        self.watch = native._Stopwatch(_LINES_EVERY)
        self.own_threshold: float | None = None
        self.adjust()

    def adjust(self) -> None:
        """Takes on the threshold that counts now."""
        self.watch.watch(self.threshold, bool(_monitors))

    @property
    def threshold(self) -> float:
        if self.own_threshold is not None:
            return self.own_threshold
        return min((monitor.threshold for monitor in _monitors), default=math.inf)

    def stats(self) -> TimedStats:
        running, ended, failed, cancelled, slow = self.watch.counts()
        return TimedStats(running, ended, failed, cancelled, slow, Durations._of(self.watch.durations))

    def ended(self, slow: tuple[float, bool], error: BaseException | None) -> None:
        """A slow call has ended: in its task, with its context."""
        self.tell(SlowCall(self.name, slow[0], self.threshold, running=False, error=error), first=not slow[1])

    def tell(self, call: SlowCall, *, first: bool) -> None:
        for monitor in tuple(_monitors):
            monitor._hear(self, call, first)


_operations: dict[str, _Operation] = {}
_monitors: list[Monitor] = []
_lock = threading.Lock()


def _operation(name: str, threshold: float | None) -> _Operation:
    with _lock:
        operation = _operations.get(name)
        if operation is None:
            if len(_operations) >= _NAMES:
                if _OTHER not in _operations:
                    _log.warning(
                        "timed: %d names are taken: %r and others share %r; name operations, not their arguments",
                        _NAMES,
                        name,
                        _OTHER,
                    )
                    _operations[_OTHER] = _Operation(_OTHER)
                return _operations[_OTHER]
            operation = _operations[name] = _Operation(name)
        if threshold is not None:
            operation.own_threshold = threshold
            operation.adjust()
        return operation


def operations() -> dict[str, TimedStats]:
    """What every timed operation looks like, by its name.

    Thread-safe. Percentiles are of all calls since the process began; a :class:`Monitor`'s summary has those of its
    period, and Prometheus computes them over any window from the exported buckets.
    """
    return {name: operation.stats() for name, operation in sorted(_operations.items())}


class Timed:
    """What ``timed("name")`` gives: times a block, or decorates functions."""

    __slots__ = ("_named", "_operation", "_run", "_threshold")

    def __init__(self, name: str | None, threshold: float | None) -> None:
        self._named = name
        self._threshold = threshold
        self._operation: _Operation | None = None
        self._run: int | None = None

    @overload
    def __call__(self, fn: F, /) -> F: ...
    @overload
    def __call__(self, fn: Any, /) -> Any: ...
    def __call__(self, fn: Any, /) -> Any:
        return _decorated(fn, self._named, self._threshold)

    def __enter__(self) -> Self:
        if self._named is None:
            raise TypeError("timed() times a block only under a name: with timed('parse'): ...")
        if self._run is not None:
            raise RuntimeError(f"timed({self._named!r}) is in a block already: make one for each block")
        if self._operation is None:
            self._operation = _operation(self._named, self._threshold)
        self._run = self._operation.watch.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        operation, run = self._operation, self._run
        assert operation is not None and run is not None
        self._run = None
        slow = operation.watch.end(run, error)
        if slow is not None:
            operation.ended(slow, error)

    def __repr__(self) -> str:
        return f"<timed {self._named!r}{'' if self._run is None else ' in a block'}>"


@overload
def timed(fn: F, /) -> F: ...
@overload
def timed(name: str | None = None, /, *, threshold: float | None = None) -> Timed: ...
def timed(what: Any = None, /, *, threshold: float | None = None) -> Any:
    """Times each call of a function, or a block, into a histogram of its name::

        @timed
        async def fetch(url): ...

        @timed("fetch", threshold=2.0)
        async def fetch(url): ...

        with timed("parse"):
            ...

    Each call is counted once, as returned, failed or cancelled, whatever ends it; what it raises goes through.
    Quantiles are within one percent however many calls there are, in some kilobytes for each name. Time is the
    system's monotonic clock, or the virtual time of a simulated loop.

    Args:
        what: an ``async def`` or plain function; or the name of the operation. Default: the function's module and
            qualified name. Names that are equal share one histogram. There can be 1,000: those after them share
            ``"(other)"``, so that a name made from a user's input cannot fill the memory.
        threshold: seconds from which on a call is slow, 0 or more. Default: that of the :func:`monitor` that runs;
            without one, none is.

    Returns:
        The function, timed (a coroutine function stays one); or a :class:`Timed`, to decorate with or to enter.

    Raises:
        TypeError: it is not a function, or an async generator: time the block that consumes it.
        ValueError: ``threshold`` is no number of seconds.

    What became of the calls: :func:`operations`, a :class:`Monitor`, the exporters. Thread-safe.
    """
    if threshold is not None:
        threshold = seconds(threshold, "timed(threshold=...)")
    if what is None or isinstance(what, str):
        return Timed(what, threshold)
    return _decorated(what, None, threshold)


def _decorated(fn: Any, name: str | None, threshold: float | None) -> Any:
    if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise TypeError(
            f"timed takes a function, and {fn!r} makes a generator, whose time is that of whoever consumes it: "
            "put `with timed(name):` around the loop over it"
        )
    if not callable(fn) or isinstance(fn, type):
        raise TypeError(f"timed takes a function or the name of an operation, got {fn!r}")
    if name is None:
        name = f"{getattr(fn, '__module__', None) or '?'}.{getattr(fn, '__qualname__', None) or type(fn).__qualname__}"
    operation = _operation(name, threshold)
    begin, end, ended = operation.watch.begin, operation.watch.end, operation.ended
    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def timed_call(*args: Any, **kwargs: Any) -> Any:
            coroutine = fn(*args, **kwargs)
            run = begin(coroutine)
            try:
                result = await coroutine
            except BaseException as error:
                if (slow := end(run, error)) is not None:
                    ended(slow, error)
                raise
            if (slow := end(run)) is not None:
                ended(slow, None)
            return result

        return timed_call

    @functools.wraps(fn)
    def timed_function(*args: Any, **kwargs: Any) -> Any:
        run = begin()
        try:
            result = fn(*args, **kwargs)
        except BaseException as error:
            if (slow := end(run, error)) is not None:
                ended(slow, error)
            raise
        if (slow := end(run)) is not None:
            ended(slow, None)
        return result

    return timed_function


# Who watches


class Monitor:
    """What :func:`monitor` gives: watches until it is closed, or its loop is."""

    def __init__(
        self, threshold: float, on_slow: Callable[[SlowCall], object] | None, summary: float | None, name: str | None
    ) -> None:
        self._threshold = threshold
        self._on_slow = on_slow
        self._every = summary
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._lag = native._Durations()
        self._slow = self._summaries = 0
        self._before: dict[str, tuple[native._Durations, tuple[int, ...]]] = {}
        self._lag_before = self._lag.copy()
        self._closed = False
        self._due = self._since = self._loop.time()
        for operation in list(_operations.values()):
            self._before[operation.name] = (operation.watch.durations.copy(), operation.watch.counts())
        _monitors.append(self)
        _adjust()
        self._timer: asyncio.Handle = self._loop.call_soon(self._beat)

    @property
    def threshold(self) -> float:
        """Seconds from which on a call is slow."""
        return self._threshold

    @property
    def name(self) -> str | None:
        """What it was named."""
        return self._name

    def close(self) -> None:
        """Stops watching. Harmless when it is closed."""
        if not self._closed:
            self._closed = True
            self._timer.cancel()
            _monitors.remove(self)
            _adjust()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def stats(self) -> MonitorStats:
        """A frozen :class:`MonitorStats` of this moment."""
        memory, files, threads = _process()
        return MonitorStats(Durations._of(self._lag), self._slow, self._summaries, memory, files, threads)

    def summary(self) -> str:
        """One line about the time since the last one: loop lag, process, the operations that took most time."""
        now = self._loop.time()
        period, self._since = now - self._since, now
        lag = self._lag.since(self._lag_before)
        self._lag_before = self._lag.copy()
        memory, files, threads = _process()
        parts = [f"lag p50 {_time(lag.quantile(0.5))} p99 {_time(lag.quantile(0.99))} max {_time(lag.max)}"]
        if memory is not None:
            parts.append(f"rss {memory / 2**20:.1f} MiB")
        if files is not None:
            parts.append(f"fds {files}")
        parts.append(f"threads {threads}")
        lines = [
            (taken.total, line) for operation in list(_operations.values()) for taken, line in self._new(operation)
        ]
        lines.sort(reverse=True)
        shown = [line for _, line in lines[:_SHOWN]]
        if len(lines) > _SHOWN:
            shown.append(f"{len(lines) - _SHOWN} more")
        return "; ".join([f"last {period:.3g} s: " + ", ".join(parts), *shown])

    def _new(self, operation: _Operation) -> list[tuple[native._Durations, str]]:
        """What an operation did since the last summary, if anything."""
        durations, counts = operation.watch.durations.copy(), operation.watch.counts()
        earlier, before = self._before.get(operation.name, (native._Durations(), (0, 0, 0, 0, 0)))
        self._before[operation.name] = (durations, counts)
        running = counts[0]
        calls, failed, cancelled, slow = (now - then for now, then in zip(counts[1:], before[1:], strict=True))
        if not (calls or running or slow):
            return []
        taken = durations.since(earlier)
        extras = ((slow, "slow"), (failed, "failed"), (cancelled, "cancelled"), (running, "running"))
        also = "".join(f", {number} {what}" for number, what in extras if number)
        times = ""
        if calls:
            times = "".join(
                f" {what} {_time(value)}"
                for what, value in (("p50", taken.quantile(0.5)), ("p99", taken.quantile(0.99)), ("max", taken.max))
            )
        return [(taken, f"{operation.name}: {calls} calls{also}{times}")]

    def _beat(self) -> None:
        now = self._loop.time()
        self._lag.record(max(0.0, now - self._due))
        for operation in list(_operations.values()):
            for age, coroutine in operation.watch.overdue():
                call = SlowCall(
                    operation.name, age, operation.threshold, running=True, waiting_at=_waiting_at(coroutine)
                )
                operation.tell(call, first=True)
        if self._every is not None and now - self._since >= self._every:
            self._summaries += 1
            _log.info("%s", self.summary())
        self._due = now + _BEAT
        self._timer = self._loop.call_at(self._due, self._beat)

    def _hear(self, operation: _Operation, call: SlowCall, first: bool) -> None:
        """A call of any loop or thread is slow."""
        if operation.own_threshold is None and call.seconds < self._threshold:
            return
        if self._loop.is_closed():
            self.close()
            return
        self._slow += first
        if self._on_slow is not None:
            try:
                self._on_slow(call)
            except Exception as error:
                self._report(error)
        elif (left_out := operation.watch.may_log()) is not None:
            more = f" ({left_out} more were not logged)" if left_out else ""
            extra = {"operation": call.operation, "seconds": call.seconds, "threshold": call.threshold}
            _log.warning("slow: %s, threshold %s%s", call, _time(call.threshold), more, extra=extra)

    def _report(self, error: Exception) -> None:
        context = {"message": "monitor: on_slow raised", "exception": error}
        if _running_loop() is self._loop:
            self._loop.call_exception_handler(context)
        else:
            self._loop.call_soon_threadsafe(self._loop.call_exception_handler, context)

    def __repr__(self) -> str:
        named = "" if self._name is None else f" {self._name!r}"
        closed = " closed" if self._closed else ""
        return f"<monitor{named} threshold={self._threshold} slow={self._slow}{closed}>"


def monitor(
    threshold: float = 0.1,
    on_slow: Callable[[SlowCall], object] | None = None,
    *,
    summary: float | None = 60.0,
    name: str | None = None,
) -> Monitor:
    """Watches the running loop, the process and every :func:`timed` operation, from this call on::

        async def main():
            monitor(threshold=0.5)
            ...

    A timed call that takes ``threshold`` seconds is told at that moment, while it runs, with the line that it waits at,
    and once more when it has ended; so one that hangs is told too. Twenty times a second it looks, and notes how late
    the loop was: its lag. Once in ``summary`` seconds one line about all that goes to the log.

    Args:
        threshold: seconds from which on a timed call is slow, more than 0; what ``@timed(threshold=...)`` says of an
            operation counts more.
        on_slow: called with each :class:`SlowCall`: right where it ended, in its task and context, or in this loop when
            it has not; from another thread for a call that ended there. A plain function, and a quick one. What it
            raises goes to the loop's exception handler, never to the call. Default: a warning to the logger
            ``loopwright.monitor``, once in a second at most for each operation, with the number left out meanwhile.
        summary: seconds between two lines of summary, to the same logger at level info; None for none.
        name: for the exported metrics.

    Returns:
        A :class:`Monitor`: ``stats()``, ``summary()``, ``close()``; a context manager that closes. It lives on
        without a reference until it is closed, or the loop is.

    Raises:
        RuntimeError: no event loop runs: call it in your main coroutine. Or this loop has a monitor: close that one
            first.
        ValueError, TypeError: an argument that makes no sense, named.

    The loop's lag is this loop's, slow calls are the whole process's. It blames no one for lag: ``loopwright run`` has
    the stack that held the loop in its report. On a simulated loop its beat is a timer like any other: it keeps virtual
    time going where nothing else does.
    """
    threshold = seconds(threshold, "monitor(threshold=...)", positive=True)
    if summary is not None:
        summary = seconds(summary, "monitor(summary=...)", positive=True)
    if on_slow is not None and (not callable(on_slow) or inspect.iscoroutinefunction(on_slow)):
        raise TypeError(f"monitor(on_slow=...) must be a plain function of a SlowCall, got {on_slow!r}")
    loop = _running_loop()
    if loop is None:
        raise RuntimeError("monitor() watches the running event loop, and none runs: call it in your main coroutine")
    for other in tuple(_monitors):
        if other._loop.is_closed():
            other.close()
        elif other._loop is loop:
            raise RuntimeError(f"{other!r} watches this loop already: close it first")
    return Monitor(threshold, on_slow, summary, name)


def _adjust() -> None:
    for operation in list(_operations.values()):
        operation.adjust()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _waiting_at(coroutine: object) -> tuple[str, ...]:
    """Where a suspended coroutine is: a line for it and for each that it waits for."""
    found: list[str] = []
    while isinstance(coroutine, Coroutine) and len(found) < _DEPTH:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is None:
            break
        code = frame.f_code
        if os.path.dirname(code.co_filename) == _ASYNCIO:
            break
        found.append(f"{code.co_qualname} ({os.path.basename(code.co_filename)}:{frame.f_lineno})")
        coroutine = getattr(coroutine, "cr_await", None)
    return tuple(found)


def _process() -> tuple[int | None, int | None, int]:
    """Resident memory in bytes, open file descriptors, threads."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        memory: int | None = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        threads = int(fields[17])
    except (OSError, ValueError, IndexError):
        memory, threads = None, threading.active_count()
    return memory, _open_files(), threads


def _open_files() -> int | None:
    for directory in ("/proc/self/fd", "/dev/fd"):
        try:
            # Linux says it in the size of the directory since 6.2; else they are counted, but for the one that reads.
            size = os.stat(directory).st_size if directory.startswith("/proc") else 0
            return size or len(os.listdir(directory)) - 1
        except OSError:
            continue
    return None


def _time(value: float) -> str:
    """For people: three digits and a unit."""
    if value >= 1:
        return f"{value:.3g} s"
    return f"{value * 1e3:.3g} ms" if value >= 0.001 else f"{value * 1e6:.0f} us"  # noqa: PLR2004 (a millisecond)
