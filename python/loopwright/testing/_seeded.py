"""Randomness and clocks of a program under test: made repeatable for a while, and given back.

Lives here: ``seeded`` (random, uuid) and ``virtual_clock`` (time, datetime). Does not live here: the loop's own
schedule and clock, which need neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import os
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

__all__ = ["seeded", "virtual_clock"]


@contextlib.contextmanager
def _replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Attributes have other values for a while; those that ``owner`` does not have are left alone."""
    before = {name: vars(owner)[name] for name in values if name in vars(owner)}
    for name in before:
        setattr(owner, name, values[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


# Randomness


@contextlib.contextmanager
def seeded(seed: int | str | bytes, *, urandom: bool = False) -> Iterator[random.Random]:
    """Makes ``random`` and ``uuid`` repeat themselves inside of the ``with``, and gives everything back after it.

    The functions of ``random``, ``random.Random()`` made without a seed, and ``uuid1``, ``uuid4``, ``uuid6`` and
    ``uuid7`` depend on ``seed`` alone. UUIDs that contain the time also need :func:`virtual_clock`, or they differ in
    it. Blocks nest: after an inner one, the outer one goes on where it was.

    ``os.urandom``, ``random.SystemRandom`` and ``secrets`` stay truly random, as what they give may leave the test:
    keys, tokens. ``urandom=True`` makes them repeat themselves too. Nothing here reaches what C draws by itself: TLS,
    NumPy's generators, the hashes of strings (set ``PYTHONHASHSEED``).

    In a test that is explored, enter it within the test, so that every schedule starts from the same numbers. It is the
    whole process that repeats itself, other threads too.

    Args:
        seed: what everything depends on.
        urandom: whether ``os.urandom`` and what stands on it are included.

    Returns:
        A ``random.Random`` of the same seed, for the test's own use.

    Example::

        with seeded(7):
            assert uuid.uuid4() == uuid.UUID("...")  # the same each time
    """
    numbers = random.Random(f"loopwright {seed!r}")
    seed_properly = random.Random.seed

    def seed_or_draw(self: random.Random, a: Any = None, version: int = 2) -> None:
        seed_properly(self, numbers.getrandbits(64) if a is None else a, version)

    def draw_bytes(size: int) -> bytes:
        return numbers.randbytes(size)

    state = random.getstate()
    with contextlib.ExitStack() as undo:
        undo.callback(random.setstate, state)
        random.seed(numbers.getrandbits(64))
        undo.enter_context(_replaced(random.Random, seed=seed_or_draw))
        undo.enter_context(_replaced(random, seed=random._inst.seed))
        undo.enter_context(
            _replaced(
                uuid,
                os=_Os(draw_bytes),
                _generate_time_safe=None,  # the system's own uuid1
                _node=numbers.getrandbits(48) | 1 << 40,  # multicast, as a random node has to be
                _last_timestamp=None,
                _last_timestamp_v6=None,
                _last_timestamp_v7=None,
                _last_counter_v7=0,
            )
        )
        if urandom:
            undo.enter_context(_replaced(os, urandom=draw_bytes))
            undo.enter_context(_replaced(random, _urandom=draw_bytes))
        yield random.Random(numbers.getrandbits(64))


class _Os:
    """``os`` as the module uuid sees it."""

    def __init__(self, urandom: Callable[[int], bytes]) -> None:
        self.urandom = urandom

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


# Clocks

EPOCH = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)

_KEEP_REAL_TIME = {
    *("asyncio", "concurrent", "multiprocessing", "queue", "selectors", "socket", "ssl", "subprocess", "threading"),
    *("_pytest", "coverage", "debugpy", "execnet", "hypothesis", "pluggy", "pydevd", "pytest", "xdist"),
}
"""Packages that wait in real time, or measure the test run."""

_clocks: list[tuple[asyncio.AbstractEventLoop, int, int]] = []
"""The loops whose clocks are in force, the innermost last; when their time was 0, in ns since 1970; their thread."""

_changing = threading.Lock()


def _keeps_real_time(module: str) -> bool:
    top = module.partition(".")[0]
    return top in _KEEP_REAL_TIME or top.startswith("pytest_") or module.startswith("loopwright.testing")


class _Function:
    """Stands in for a function of ``time``. Where no clock is in force, or the caller keeps real time, it is that.

    An object, as a function written in Python would become a method of a class that keeps it.
    """

    def __init__(self, real: Callable[..., Any], virtual: Callable[..., Any]) -> None:
        self._real, self._virtual = real, virtual
        self.__name__ = self.__qualname__ = real.__name__
        self.__doc__ = real.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not _clocks or _keeps_real_time(sys._getframe(1).f_globals.get("__name__", "")):
            return self._real(*args, **kwargs)
        return self._virtual(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<{self.__name__} of the simulated loop, or else {self._real!r}>"


_real = {name: value for name, value in vars(time).items() if callable(value)}


def _monotonic_ns() -> int:
    return round(_seconds() * 1e9)


def _seconds() -> float:
    loop, _, thread = _clocks[-1]
    seconds = loop.time()
    if thread != threading.get_ident():  # the loop may be waiting for this thread, and will learn of the time later
        since = getattr(loop, "_waiting_since", None)
        if since is not None:
            seconds += max(0.0, _real["monotonic"]() - since)
    return seconds


def _time_ns() -> int:
    return _clocks[-1][1] + _monotonic_ns()


def _time() -> float:
    return _time_ns() / 1e9


def _or_now(convert: Callable[..., Any]) -> Callable[..., Any]:
    def converted(seconds: float | None = None) -> Any:
        return convert(_time() if seconds is None else seconds)

    return converted


def _asctime(*args: Any) -> str:
    text: str = _real["asctime"](*(args or [_real["localtime"](_time())]))
    return text


def _strftime(form: str, *args: Any) -> str:
    text: str = _real["strftime"](form, *(args or [_real["localtime"](_time())]))
    return text


def _clock_gettime_ns(clock: int) -> int:
    if clock in _clock_ids("CLOCK_REALTIME", "CLOCK_TAI"):
        return _time_ns()
    if clock in _clock_ids("CLOCK_MONOTONIC", "CLOCK_MONOTONIC_RAW", "CLOCK_BOOTTIME", "CLOCK_UPTIME"):
        return _monotonic_ns()
    nanoseconds: int = _real["clock_gettime_ns"](clock)
    return nanoseconds


def _clock_ids(*names: str) -> set[int | None]:
    return {getattr(time, name, None) for name in names}


_VIRTUAL: dict[str, Callable[..., Any]] = {
    "time": _time,
    "time_ns": _time_ns,
    "monotonic": _seconds,
    "monotonic_ns": _monotonic_ns,
    "perf_counter": _seconds,
    "perf_counter_ns": _monotonic_ns,
    "clock_gettime": lambda clock: _clock_gettime_ns(clock) / 1e9,
    "clock_gettime_ns": _clock_gettime_ns,
    "localtime": _or_now(time.localtime),
    "gmtime": _or_now(time.gmtime),
    "ctime": _or_now(time.ctime),
    "asctime": _asctime,
    "strftime": _strftime,
}
_FUNCTIONS = {name: _Function(_real[name], virtual) for name, virtual in _VIRTUAL.items() if name in _real}
_by_real = {id(_real[name]): function for name, function in _FUNCTIONS.items()}


@contextlib.contextmanager
def virtual_clock(loop: asyncio.AbstractEventLoop | None = None, *, epoch: datetime.datetime = EPOCH) -> Iterator[None]:
    """Makes the clocks of ``time`` and ``datetime`` follow a loop's time inside of the ``with``.

    ``time.monotonic`` and ``perf_counter`` are ``loop.time()``, and ``time.time`` is that since ``epoch``; likewise the
    ``_ns`` twins, ``localtime`` and the others that take the present for a default, ``datetime.now``, ``utcnow``,
    ``today``, and the timestamps of ``logging``. It does not matter whether a module says ``time.time()`` or has
    imported the name. ``isinstance`` and pickles are not affected: classes stay what they are.

    What waits in real time keeps it: asyncio itself, threads' locks, executors, sockets, and pytest. ``time.sleep``
    still stops the whole loop for real, which on a simulated loop takes no virtual time. Other threads see the loop's
    clock, which runs at the real rate while the loop waits for them. CPU clocks are not touched, nor is what C reads
    by itself: TLS certificates are checked against today.

    Blocks nest, the innermost is in force. In a test that is explored, enter it within the test.

    Args:
        loop: whose time is followed; by default the running loop.
        epoch: the date at which that loop's time is 0.

    Raises:
        RuntimeError: no loop is given, and none is running.
        ValueError: ``epoch`` has no time zone.
    """
    if epoch.tzinfo is None:
        raise ValueError(f"epoch={epoch!r} has no time zone: add tzinfo=datetime.UTC")
    since_1970 = epoch - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    if loop is None:
        loop = asyncio.get_running_loop()
    clock = loop, since_1970 // datetime.timedelta(microseconds=1) * 1000, threading.get_ident()
    with _changing:
        if not _clocks:
            _patch.enter_context(_replaced(time, **_FUNCTIONS))
            _patch.enter_context(_imported_names_replaced())
            _patch.enter_context(_datetime_replaced())
        _clocks.append(clock)
    try:
        yield
    finally:
        with _changing:
            _clocks.remove(clock)
            if not _clocks:
                _patch.close()


_patch = contextlib.ExitStack()
"""What undoes it all when the last block ends."""

_scanned: dict[str, tuple[ModuleType, int, list[str]]] = {}
"""Modules, how many names they had, and which of those were functions of time."""


@contextlib.contextmanager
def _imported_names_replaced() -> Iterator[None]:
    """``from time import monotonic`` and the like in all modules but those that keep real time."""
    with contextlib.ExitStack() as undo:
        for module_name, module in list(sys.modules.items()):
            known = _scanned.get(module_name)
            names = getattr(module, "__dict__", None)
            if not isinstance(module, ModuleType) or names is None:
                continue
            if known is None or known[0] is not module or known[1] != len(names):
                top = module_name.partition(".")[0]
                keeps = top in sys.stdlib_module_names and top != "__main__"
                found = [name for name, value in list(names.items()) if id(value) in _by_real]
                found = [] if keeps or _keeps_real_time(module_name) else found
                known = _scanned[module_name] = module, len(names), found
            current = {name: names[name] for name in known[2] if name in names}
            replaced = {name: _by_real[id(value)] for name, value in current.items() if id(value) in _by_real}
            if replaced:
                undo.enter_context(_replaced(module, **replaced))
        yield


@contextlib.contextmanager
def _datetime_replaced() -> Iterator[None]:
    """``now``, ``utcnow`` and ``today``, in the classes themselves: stand-ins for these would break isinstance."""
    moment, day = _names_of(datetime.datetime), _names_of(datetime.date)
    real_now, real_utcnow, real_today = moment["now"], moment["utcnow"], day["today"]

    def now(cls: Any, tz: datetime.tzinfo | None = None) -> datetime.datetime:
        if not _clocks or _keeps_real_time(sys._getframe(1).f_globals.get("__name__", "")):
            return real_now.__get__(None, cls)(tz)  # type: ignore[no-any-return]
        moment = _moment().astimezone(tz) if tz is not None else _moment().astimezone().replace(tzinfo=None)
        return _of_kind(cls, moment)

    def utcnow(cls: Any) -> datetime.datetime:
        if not _clocks or _keeps_real_time(sys._getframe(1).f_globals.get("__name__", "")):
            return real_utcnow.__get__(None, cls)()  # type: ignore[no-any-return]
        return _of_kind(cls, _moment().replace(tzinfo=None))

    def today(cls: Any) -> datetime.date:
        if not _clocks or _keeps_real_time(sys._getframe(1).f_globals.get("__name__", "")):
            return real_today.__get__(None, cls)()  # type: ignore[no-any-return]
        return cls.fromtimestamp(_time())  # type: ignore[no-any-return]

    _put(datetime.datetime, now=classmethod(now), utcnow=classmethod(utcnow))
    _put(datetime.date, today=classmethod(today))
    try:
        yield
    finally:
        _put(datetime.datetime, now=real_now, utcnow=real_utcnow)
        _put(datetime.date, today=real_today)


def _names_of(kind: type) -> dict[str, Any]:
    """The dictionary of a class of C's, which cannot be assigned to."""
    (names,) = (found for found in gc.get_referents(kind.__dict__) if isinstance(found, dict))
    return names


def _put(kind: type, **values: Any) -> None:
    import ctypes  # noqa: PLC0415 (only here)

    _names_of(kind).update(values)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))  # CPython forgets what it has cached


def _moment() -> datetime.datetime:
    since_1970 = datetime.timedelta(microseconds=_time_ns() // 1000)
    return datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + since_1970


def _of_kind(kind: Any, moment: datetime.datetime) -> datetime.datetime:
    if kind is datetime.datetime:
        return moment
    parts = moment.timetuple()[:6]
    return kind(*parts, moment.microsecond, moment.tzinfo, fold=moment.fold)  # type: ignore[no-any-return]
