"""What the leak checks wrap while they are on, and put back afterwards.

Lives here: the wrappers, each of which calls what it replaced, and where things were made. Does not live here: what is
a leak (:mod:`loopwright.testing._leaks`).

Wrapped are methods of loop classes, a few functions of :mod:`warnings`, ``Thread.start``, ``socket.__init__``, ``open``
and ``os.open``, ``os.pipe``, ``os.dup``; each only while a check that needs it is on. Audit hooks would tell as much,
but can never be removed, and with one installed ``id()`` and ``sys._getframe()`` take four times as long.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import functools
import io
import linecache
import os
import socket
import sys
import sysconfig
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple, Protocol

from loopwright.testing._loop import SimLoop, SimTask

__all__ = [
    "ERRORS",
    "GENERATORS",
    "NEVER_AWAITED",
    "OPENS",
    "RUNS",
    "SIM_CANCELS",
    "SITES",
    "THREADS",
    "WARNINGS",
    "Group",
    "Observer",
    "Place",
    "Site",
    "caller",
    "is_inside",
    "made_at",
    "observe",
    "opened_at",
    "place_of",
]

Site = tuple[CodeType, int]
"""A line that runs: its code and the offset of the instruction. The line is looked up when somebody asks."""

Loop = asyncio.AbstractEventLoop


class Place(NamedTuple):
    """A line of code."""

    file: str
    line: int
    function: str

    @property
    def source(self) -> str:
        """The text of the line, without its indentation; empty when there is none to be had."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


class Observer(Protocol):
    """What a check is told."""

    def loop_runs(self, loop: Loop) -> None: ...
    def loop_ends(self, loop: Loop) -> None: ...
    def generators_end(self, loop: Loop) -> None: ...
    def generator_begins(self, loop: Loop, generator: Any) -> None: ...
    def generator_dropped(self, loop: Loop, generator: Any) -> None: ...
    def error(self, loop: Loop, context: dict[str, Any]) -> None: ...
    def task_made(self, loop: Loop, task: Any) -> None: ...
    def task_cancelled(self, task: Any) -> None: ...
    def never_awaited(self, coroutine: Any) -> None: ...
    def warned(self, message: warnings.WarningMessage) -> bool: ...


# Where


_STDLIB = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})
_PACKAGES = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


@functools.lru_cache(maxsize=4096)
def is_inside(file: str) -> bool:
    """Whether a file is the standard library's or Loopwright's: what happens there, somebody else asked for."""
    if file.startswith("<frozen "):
        return True
    if file.startswith(_OURS):
        return True
    return file.startswith(_STDLIB) and not any(name in file for name in _PACKAGES)


def caller(depth: int = 1) -> Site | None:
    """The innermost frame outside of the standard library and Loopwright."""
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        code = frame.f_code
        if not is_inside(code.co_filename):
            return code, frame.f_lasti
        frame = frame.f_back
    return None


def place_of(site: Site | None) -> Place | None:
    """The line of a site."""
    if site is None:
        return None
    code, offset = site
    line = next((line for start, end, line in code.co_lines() if line and start <= offset < end), None)
    return Place(code.co_filename, line or code.co_firstlineno, code.co_qualname)


def made_at(thing: Any) -> Place | None:
    """Where a task, a future or a thread was made, if that was watched."""
    return place_of(getattr(thing, "_loopwright_made", None))


class _Opened(NamedTuple):
    site: Site | None
    owner: weakref.ref[Any] | None
    inode: int


_opened: dict[int, _Opened] = {}
"""By file descriptor; a later one of the same number takes the entry over."""


def opened_at(descriptor: int) -> tuple[Site | None, Any] | None:
    """Who opened a descriptor, and the object that owns it; None when nobody in Python did, as far as was watched."""
    entry = _opened.get(descriptor)
    if entry is None:
        return None
    owner = entry.owner() if entry.owner is not None else None
    try:
        if owner is not None and owner.fileno() != descriptor:
            return None
        if os.fstat(descriptor).st_ino != entry.inode:
            return None
    except (OSError, ValueError):
        return None
    return entry.site, owner


def _note_open(descriptor: int, owner: Any) -> None:
    try:
        reference = weakref.ref(owner)
    except TypeError:
        reference = None
    with contextlib.suppress(OSError):
        _opened[descriptor] = _Opened(caller(3), reference, os.fstat(descriptor).st_ino)


# Wraps

Undo = Callable[[], None]


class Group:
    """Wraps that come and go together."""

    def __init__(self, install: Callable[[_Wraps], None]) -> None:
        self.install = install


class _Wraps:
    """The wraps of one group that are in place."""

    def __init__(self) -> None:
        self._undo: list[Undo] = []

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Puts ``make(what is there)`` in place, until :meth:`undo`."""
        inherited = isinstance(owner, type) and name not in vars(owner)
        old = getattr(owner, name) if not isinstance(owner, type) or inherited else vars(owner)[name]
        new = make(old)
        setattr(owner, name, new)

        def undo() -> None:
            # Who has wrapped the same name since then keeps calling us; with no observer we only pass calls on.
            if vars(owner).get(name) is new:
                delattr(owner, name) if inherited else setattr(owner, name, old)

        self._undo.append(undo)

    def finally_(self, undo: Undo) -> None:
        self._undo.append(undo)

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()


_lock = threading.Lock()
_observers: tuple[Observer, ...] = ()
_counts: Counter[Group] = Counter()
_installed: dict[Group, _Wraps] = {}


@contextlib.contextmanager
def observe(observer: Observer, groups: Iterable[Group]) -> Iterator[None]:
    """Tells ``observer`` what happens, in all loops and threads."""
    global _observers  # noqa: PLW0603 (the one list there is)
    groups = list(groups)
    with _lock:
        for group in groups:
            _counts[group] += 1
            if _counts[group] == 1:
                wraps = _installed[group] = _Wraps()
                group.install(wraps)
        _observers += (observer,)
    try:
        yield
    finally:
        with _lock:
            _observers = tuple(other for other in _observers if other is not observer)
            for group in groups:
                _counts[group] -= 1
                if not _counts[group]:
                    _installed.pop(group).undo()


def _loop_classes() -> list[type]:
    """The classes that bring their own run_forever, to be wrapped once each."""
    found: list[type] = [asyncio.BaseEventLoop]
    uvloop = sys.modules.get("uvloop")
    if uvloop is not None:
        found.append(uvloop.Loop)
    return found


def _wrap_errors(wraps: _Wraps) -> None:
    def make(original: Any) -> Any:
        @functools.wraps(original)
        def call_exception_handler(self: Loop, context: dict[str, Any]) -> None:
            for observer in _observers:
                observer.error(self, context)
            original(self, context)

        return call_exception_handler

    for kind in _loop_classes():
        wraps.replace(kind, "call_exception_handler", make)


def _wrap_generators(wraps: _Wraps) -> None:
    def make_first(original: Any) -> Any:
        def _asyncgen_firstiter_hook(self: Loop, generator: Any) -> None:
            for observer in _observers:
                observer.generator_begins(self, generator)
            original(self, generator)

        return _asyncgen_firstiter_hook

    def make_final(original: Any) -> Any:
        def _asyncgen_finalizer_hook(self: Loop, generator: Any) -> None:
            for observer in _observers:
                observer.generator_dropped(self, generator)
            original(self, generator)

        return _asyncgen_finalizer_hook

    for kind in _loop_classes():
        wraps.replace(kind, "_asyncgen_firstiter_hook", make_first)
        wraps.replace(kind, "_asyncgen_finalizer_hook", make_final)
    running = asyncio._get_running_loop()
    hooks = sys.get_asyncgen_hooks()
    if running is not None and getattr(hooks.finalizer, "__self__", None) is running:
        # A loop sets its hooks when it starts to run; this one has.
        first, final = "_asyncgen_firstiter_hook", "_asyncgen_finalizer_hook"
        sys.set_asyncgen_hooks(firstiter=getattr(running, first), finalizer=getattr(running, final))

        def restore() -> None:
            if asyncio._get_running_loop() is running:
                sys.set_asyncgen_hooks(*hooks)

        wraps.finally_(restore)


def _wrap_runs(wraps: _Wraps) -> None:
    def make_run(original: Any) -> Any:
        @functools.wraps(original)
        def run_forever(self: Loop) -> None:
            for observer in _observers:
                observer.loop_runs(self)
            original(self)

        return run_forever

    def make_close(original: Any) -> Any:
        @functools.wraps(original)
        def close(self: Loop) -> None:
            if not self.is_closed() and not self.is_running():
                for observer in _observers:
                    observer.loop_ends(self)
            original(self)

        return close

    def make_shutdown(original: Any) -> Any:
        @functools.wraps(original)
        async def shutdown_asyncgens(self: Loop) -> None:
            for observer in _observers:
                observer.generators_end(self)
            await original(self)

        return shutdown_asyncgens

    def make_cancel_all(original: Any) -> Any:
        @functools.wraps(original)
        def _cancel_all_tasks(loop: Loop) -> None:
            for observer in _observers:
                observer.loop_ends(loop)
            original(loop)

        return _cancel_all_tasks

    for kind in _loop_classes():
        wraps.replace(kind, "run_forever", make_run)
        wraps.replace(kind, "close", make_close)
        wraps.replace(kind, "shutdown_asyncgens", make_shutdown)
    wraps.replace(asyncio.runners, "_cancel_all_tasks", make_cancel_all)


def _wrap_sites(wraps: _Wraps) -> None:
    def make_task(original: Any) -> Any:
        @functools.wraps(original)
        def create_task(self: Loop, *args: Any, **kwargs: Any) -> Any:
            task = original(self, *args, **kwargs)
            with contextlib.suppress(AttributeError):  # A task class of the program's own may refuse attributes.
                task._loopwright_made = caller(2)
            for observer in _observers:
                observer.task_made(self, task)
            return task

        return create_task

    def make_future(original: Any) -> Any:
        @functools.wraps(original)
        def create_future(self: Loop) -> Any:
            future = original(self)
            with contextlib.suppress(AttributeError):
                future._loopwright_made = caller(2)
            return future

        return create_future

    for kind in _loop_classes():
        wraps.replace(kind, "create_task", make_task)
        wraps.replace(kind, "create_future", make_future)
    wraps.replace(SimLoop, "create_task", make_task)


def _wrap_sim_cancels(wraps: _Wraps) -> None:
    def make(original: Any) -> Any:
        @functools.wraps(original)
        def cancel(self: Any, *args: Any, **kwargs: Any) -> Any:
            for observer in _observers:
                observer.task_cancelled(self)
            return original(self, *args, **kwargs)

        return cancel

    wraps.replace(SimTask, "cancel", make)


def _wrap_never_awaited(wraps: _Wraps) -> None:
    def make(original: Any) -> Any:
        def _warn_unawaited_coroutine(coroutine: Any) -> None:
            for observer in _observers:
                observer.never_awaited(coroutine)
            original(coroutine)

        return _warn_unawaited_coroutine

    wraps.replace(warnings, "_warn_unawaited_coroutine", make)


def _wrap_warnings(wraps: _Wraps) -> None:
    def make(original: Any) -> Any:
        def _showwarnmsg(message: warnings.WarningMessage) -> None:
            if not any([observer.warned(message) for observer in _observers]):
                original(message)

        return _showwarnmsg

    wraps.replace(warnings, "_showwarnmsg", make)


def _wrap_threads(wraps: _Wraps) -> None:
    def make(original: Any) -> Any:
        @functools.wraps(original)
        def start(self: threading.Thread) -> None:
            self._loopwright_made = caller(2)  # type: ignore[attr-defined]
            original(self)

        return start

    wraps.replace(threading.Thread, "start", make)


def _wrap_opens(wraps: _Wraps) -> None:
    def make_socket(original: Any) -> Any:
        @functools.wraps(original)
        def __init__(self: socket.socket, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            _note_open(self.fileno(), self)

        return __init__

    def make_open(original: Any) -> Any:
        @functools.wraps(original)
        def open(*args: Any, **kwargs: Any) -> Any:
            file = original(*args, **kwargs)
            with contextlib.suppress(OSError, AttributeError):
                _note_open(file.fileno(), file)
            return file

        return open

    def make_descriptors(original: Any) -> Any:
        @functools.wraps(original)
        def opens(*args: Any, **kwargs: Any) -> Any:
            opened = original(*args, **kwargs)
            for descriptor in opened if isinstance(opened, tuple) else (opened,):
                _note_open(descriptor, None)
            return opened

        return opens

    wraps.replace(socket.socket, "__init__", make_socket)
    wraps.replace(io, "open", make_open)
    wraps.replace(builtins, "open", lambda _: io.open)
    for name in ("open", "pipe", "dup"):
        wraps.replace(os, name, make_descriptors)


ERRORS = Group(_wrap_errors)
GENERATORS = Group(_wrap_generators)
RUNS = Group(_wrap_runs)
SITES = Group(_wrap_sites)
SIM_CANCELS = Group(_wrap_sim_cancels)
NEVER_AWAITED = Group(_wrap_never_awaited)
WARNINGS = Group(_wrap_warnings)
THREADS = Group(_wrap_threads)
OPENS = Group(_wrap_opens)
