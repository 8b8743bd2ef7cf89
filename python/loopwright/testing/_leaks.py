"""What a test leaves behind: found, with the line that made it, and told with what to do about it.

Lives here: what is a leak, of which kind, and the words for it. Does not live here: what is wrapped to notice it
(:mod:`._wraps`), who swallowed a cancel (:mod:`._swallow`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import socket
import stat
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import thread as executors
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from loopwright import offloading
from loopwright._pool_driver import left_open
from loopwright.testing import _chains, _wraps
from loopwright.testing._awaits import coroutine_of
from loopwright.testing._handlers import cleans_up_at
from loopwright.testing._loop import SimTask
from loopwright.testing._swallow import CAN_TELL_LINES, CancelWatch
from loopwright.testing._wraps import Group, Place, caller, made_at, opened_at, place_of
from loopwright.testing.errors import LeakError

__all__ = ["ALL", "Checks", "Leak", "leak_checks", "selection"]

ALL: Final = frozenset(
    {"asyncgens", "cancels", "collected", "coroutines", "exceptions", "pools", "sockets", "tasks", "threads"}
)
"""The names of all checks."""
PER_PROCESS: Final = frozenset({"sockets", "threads"})
"""The checks that look at the whole process, and not at a run."""

_ORIGIN_DEPTH = 5
"""Frames that a coroutine remembers of where it was made: enough to get out of the standard library."""
_TURNS = 20
"""Turns of the loop that tasks get to end after they were told to."""
_IDLE_TIMES = 100
"""How often the garbage collector looks while a run goes on; afterwards only at its end."""
_PER_KIND = 20
"""Leaks of one kind that are described one by one."""

_COLLECTED = {"asyncgens", "collected", "coroutines", "exceptions", "sockets"}
"""The checks that the garbage collector may have something to tell to."""

_NEEDS: Final[dict[str, set[Group]]] = {
    "asyncgens": {_wraps.GENERATORS},
    "collected": {_wraps.ERRORS},
    "coroutines": {_wraps.NEVER_AWAITED, _wraps.WARNINGS},
    "exceptions": {_wraps.ERRORS},
}
_NEEDS_FOR_LINES: Final[dict[str, set[Group]]] = {
    "asyncgens": {_wraps.RUNS},
    "cancels": {_wraps.RUNS, _wraps.SITES},
    "collected": {_wraps.RUNS, _wraps.SITES},
    "exceptions": {_wraps.RUNS, _wraps.SITES},
    "pools": {_wraps.RUNS},
    "sockets": {_wraps.ERRORS, _wraps.OPENS, _wraps.WARNINGS},
    "tasks": {_wraps.RUNS, _wraps.SITES},
    "threads": {_wraps.THREADS},
}

Loop = asyncio.AbstractEventLoop
Task = asyncio.Task[Any]


@dataclass(frozen=True, slots=True)
class Leak:
    """One thing that was left behind."""

    kind: str
    """The name of the check that found it: one of :data:`ALL`."""
    what: str
    """In a few words."""
    where: Place | None
    """Where it is, was lost or went wrong."""
    created: Place | None
    """Where it was made."""
    detail: str
    """More, in whole sentences or as a chain; may be empty."""
    fix: str
    """What to do."""

    def __str__(self) -> str:
        lines = [f"{self.kind}: {self.what}"]
        for label, place in ("at", self.where), ("made at", self.created):
            if place is not None and (label == "at" or place != self.where):
                lines.append(f"    {label} {place}:  {place.source}" if place.source else f"    {label} {place}")
        if self.detail:
            lines.append(f"    {self.detail}")
        lines.append(f"    fix: {self.fix}")
        return "\n".join(lines)


def selection(on: Collection[str] | bool, off: Collection[str] = ()) -> frozenset[str]:
    """The checks that are on.

    Raises:
        ValueError: there is no check of that name.
    """
    if isinstance(on, bool):
        on = ALL if on else ()
    for names in on, off:
        if isinstance(names, str):
            raise ValueError(f"checks are given as a set of names: {{{names!r}}}, not {names!r}")
        for name in names:
            if name not in ALL:
                raise ValueError(f"there is no leak check {name!r}; there are {', '.join(sorted(ALL))}")
    return frozenset(on) - frozenset(off)


def error_of(leaks: Iterable[Leak]) -> LeakError:
    """The leaks as an exception, one block each."""
    leaks = list(leaks)
    kinds = sorted({leak.kind for leak in leaks})
    names = ", ".join(map(repr, kinds))
    head = "1 thing was left behind" if len(leaks) == 1 else f"{len(leaks)} things were left behind"
    foot = f"(what is meant to stay can be excused by the name of its check: off={{{names}}})"
    return LeakError("\n\n".join([f"{head}:", *map(str, leaks), foot]), leaks)


class leak_checks:
    """Checks that what runs inside leaves nothing behind.

    Around a whole run, in any test framework and on any loop::

        with leak_checks():
            asyncio.run(main())

    or inside of one, where tasks that have been cancelled get the turns that they need to end::

        async with leak_checks():
            await work()

    What is looked for, each under the name that switches it on or off:

    - ``tasks``: tasks that have not ended when the main task, or the block, has;
    - ``asyncgens``: async generators that are suspended inside of a ``with`` or a ``try`` and were not closed, so that
      their clean-up runs too late or never; one that has nothing to clean up may be dropped;
    - ``coroutines``: coroutines that were never awaited;
    - ``exceptions``: errors of tasks and futures that nobody retrieved, and whatever else reached the loop's exception
      handler, unless the program has set a handler of its own;
    - ``threads``: threads that are alive after ``grace``;
    - ``sockets``: sockets, files, pipes, transports and event loops that are open, or were closed only by the garbage
      collector;
    - ``pools``: pools of Loopwright that have connections when the main task has ended;
    - ``collected``: pending tasks that nothing held, so that the garbage collector destroyed them;
    - ``cancels``: tasks that were cancelled and returned all the same, without ``uncancel()``. The line that kept the
      cancel is known from CPython 3.12 on.

    While the block runs, a few functions are wrapped (see the page "Leak checks"), and each is put back afterwards. An
    exception from the block goes through, and nothing is reported.

    Args:
        on: names of checks.
        off: names of checks to leave out.
        grace: real seconds that threads get to end; nothing waits when none is left.
        fail: whether to raise. If not, look at the list that the ``with`` gives, after the block.

    Raises:
        LeakError: at the end of the block; ``leaks`` has the list.
        ValueError: there is no check of that name.
    """

    def __init__(
        self, *, on: Collection[str] = ALL, off: Collection[str] = (), grace: float = 1.0, fail: bool = True
    ) -> None:
        self._checks = Checks(selection(on, off), grace=grace)
        self._fail = fail
        self._leaks: list[Leak] = []

    def __enter__(self) -> list[Leak]:
        self._checks.__enter__()
        return self._leaks

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            found = self._checks.finish()
        finally:
            self._checks.__exit__(kind, error, trace)
        self._leaks += found
        if found and error is None and self._fail:
            raise error_of(found)

    async def __aenter__(self) -> list[Leak]:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        await asyncio.sleep(0)  # Transports that were closed let go of their sockets in the next turn.
        await let_end(self._checks.left())
        self.__exit__(kind, error, trace)


class Checks:
    """The checks of one test. Enter it around the test; tell it about runs on loops of its own with :meth:`begin`.

    Parameters:
        on: names of the checks.
        light: only what costs microseconds a run: no line is known at which a task or coroutine was made, the garbage
            collector is not asked, descriptors and threads are not looked at. For many runs; what fails in one is run
            again with all.
        grace: real seconds that threads get to end.
    """

    def __init__(self, on: Collection[str] = ALL, *, light: bool = False, grace: float = 1.0) -> None:
        self.on = frozenset(on)
        self.collect = True
        """Whether the garbage collector looks at the end of a run for what nobody holds any more."""
        self._light = light
        self._grace = grace
        self._stack = contextlib.ExitStack()
        self._found: list[Leak] = []
        self._counts: dict[str, int] = {}
        self._watch: CancelWatch | None = None
        self._loops: weakref.WeakKeyDictionary[Loop, weakref.WeakSet[Task]] = weakref.WeakKeyDictionary()
        self._reported: weakref.WeakSet[Any] = weakref.WeakSet()
        self._loop: Loop | None = None
        self._late: list[Leak] = []
        self._host: Loop | None = None
        self._begun: dict[int, _wraps.Site | None] = {}
        self._generators: weakref.WeakSet[Any] = weakref.WeakSet()
        self._cancelled: set[Task] = set()
        self._early: weakref.WeakSet[Task] = weakref.WeakSet()

    # The test

    def __enter__(self) -> Checks:
        on = self.on
        if on & _COLLECTED:
            self._stack.enter_context(_only_what_is_new())
        self._host = asyncio._get_running_loop()
        if self._host is not None:
            self._loops[self._host] = weakref.WeakSet(asyncio.all_tasks(self._host))
        self._threads = set(threading.enumerate()) if "threads" in on else set()
        self._open_pools: weakref.WeakSet[Any] = weakref.WeakSet()
        self._descriptors = _descriptors() if "sockets" in on and not self._light else {}
        self._recorder = _recorder()
        groups: set[Group] = set()
        for name in on:
            groups |= _NEEDS.get(name, set())
            if not self._light:
                groups |= _NEEDS_FOR_LINES.get(name, set())
        if "cancels" in on and not CAN_TELL_LINES:
            groups.add(_wraps.SIM_CANCELS)
        if _wraps.WARNINGS in groups:
            self._hear_warnings()
        self._stack.enter_context(_wraps.observe(self, groups))
        if "cancels" in on:
            self._watch = self._stack.enter_context(CancelWatch(keep=True))
        if "coroutines" in on and not self._light:
            depth = sys.get_coroutine_origin_tracking_depth()
            sys.set_coroutine_origin_tracking_depth(max(depth, _ORIGIN_DEPTH))
            self._stack.callback(sys.set_coroutine_origin_tracking_depth, depth)
        return self

    def _hear_warnings(self) -> None:
        """The warnings that tell of leaks are not to be filtered out."""
        self._stack.enter_context(warnings.catch_warnings())
        if "coroutines" in self.on:
            warnings.filterwarnings("always", r".* was never awaited", RuntimeWarning)
        if "sockets" in self.on and not self._light:
            warnings.simplefilter("always", ResourceWarning)

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._begun.clear()
        self._cancelled.clear()
        if self._watch is not None:
            self._watch.forget()

    def finish(self) -> list[Leak]:
        """What the test left behind; call it once, before leaving the context."""
        if not self._light:
            if self._host is not None:
                gc.collect()
                self._judge_left(self.left())
                self.generators_end(self._host)
            for loop in list(self._loops):
                if loop is not self._host and not loop.is_closed() and not loop.is_running():
                    self.loop_ends(loop)
                    self.generators_end(loop)
            gc.collect()
        self._judge_cancels(None)
        if not self._light:
            self._look_at_threads()
            self._look_at_descriptors()
        return self.take()

    def left(self) -> list[Task]:
        """The tasks of the running loop that were started since the checks began and have not ended."""
        if self._host is None or asyncio._get_running_loop() is not self._host:
            return []
        current = asyncio.current_task()
        return [task for task in self._left_on(self._host) if task is not current]

    def take(self) -> list[Leak]:
        """What was found since the last call."""
        found, self._found = self._found, []
        for kind, count in self._counts.items():
            if count > _PER_KIND:
                more = f"{count - _PER_KIND} more of this kind"
                found.append(Leak(kind, more, None, None, "", "the first ones tell"))
        self._counts.clear()
        return found

    # One run of many

    def begin(self, loop: Any) -> None:
        """A run begins, on a simulated loop; what earlier loops report from now on is not its."""
        if self._found:
            self.take()  # The run before failed by itself.
        self._loop = loop
        if self.collect:
            _collect_when_idle(loop)

    def end(self, loop: Any) -> None:
        """The main task has ended, nothing was torn down yet.

        Raises:
            LeakError: the run has left something behind.
        """
        if loop.tasks():
            loop.run_until_complete(let_end(loop.tasks()))
        if self.collect or loop.tasks():
            gc.collect()  # What nobody holds has not been left over, but lost.
        self._judge_left(loop.tasks())
        self._judge_pools(loop)
        if "asyncgens" in self.on and loop._asyncgens and not loop.tasks():
            for generator in list(loop._asyncgens):
                self._judge_generator(generator, dropped=False)
        if self._watch is not None and (self._cancelled or self._watch.suspects()):
            self._judge_cancels(None)
            self._cancelled.clear()
            self._watch.forget()
        if self._found:
            raise error_of(self.take())

    def ended(self) -> None:
        """The run was torn down and its loop is closed.

        Raises:
            LeakError: something came up meanwhile.
        """
        if self.collect:
            gc.collect()
        self._loop = None
        if self._found:
            raise error_of(self.take())

    def searched(self) -> None:
        """All runs are over.

        Raises:
            LeakError: the garbage collector has found something of a run that was over.
        """
        gc.collect()
        found, self._late = [*self._late, *self.take()], []
        if found:
            error = error_of(found)
            error.add_note("it was found by the garbage collector after its run, so no schedule can be named")
            raise error

    # What is noticed

    def loop_runs(self, loop: Loop) -> None:
        if loop not in self._loops:
            self._loops[loop] = weakref.WeakSet(task for task in asyncio.all_tasks(loop) if task not in self._early)

    def task_made(self, loop: Loop, task: Any) -> None:
        if loop not in self._loops:
            self._early.add(task)
        if "cancels" in self.on and not CAN_TELL_LINES and not isinstance(task, SimTask):
            task.add_done_callback(self._task_ended)

    def _task_ended(self, task: Task) -> None:
        if not task.cancelled() and task.cancelling():
            self._cancelled.add(task)

    def task_cancelled(self, task: Task) -> None:
        self._cancelled.add(task)

    def loop_ends(self, loop: Loop) -> None:
        """The loop's main task has ended, and what is left over will be cancelled."""
        error = sys.exception()
        if error is not None and not isinstance(error, Exception):
            return  # It was interrupted.
        gc.collect()  # What nobody holds has not been left over, but lost.
        left = self._left_on(loop)
        if left and not loop.is_running() and not loop.is_closed():
            loop.run_until_complete(let_end(left))
        self._judge_left(task for task in left if not task.done())
        self._judge_pools(loop)
        self._judge_cancels(loop)
        self._cancelled = {task for task in self._cancelled if task.get_loop() is not loop}
        if self._watch is not None:
            self._watch.forget(loop)

    def _left_on(self, loop: Loop) -> list[Task]:
        earlier = self._loops.get(loop, ())
        return [task for task in asyncio.all_tasks(loop) if task not in earlier and not _is_reported(task)]

    def generators_end(self, loop: Loop) -> None:
        if "asyncgens" in self.on:
            for generator in [generator for generator in self._generators if not generator.ag_running]:
                self._judge_generator(generator, dropped=False)

    def generator_begins(self, loop: Loop, generator: Any) -> None:
        if not self._light:
            self._begun[id(generator)] = caller(3)
            self._generators.add(generator)

    def generator_dropped(self, loop: Loop, generator: Any) -> None:
        self._judge_generator(generator, dropped=True)

    def never_awaited(self, coroutine: Any) -> None:
        if _recorder() != self._recorder:
            return  # The test looks for this very warning.
        code = coroutine.cr_code
        origin = coroutine.cr_origin or ()
        made = next((Place(*row) for row in origin if not _wraps.is_inside(row[0])), None)
        if made is None and origin:
            made = Place(*origin[0])
        detail = f"it is defined at {Place(code.co_filename, code.co_firstlineno, code.co_qualname)}"
        self._note("coroutines", f"coroutine {coroutine.__qualname__!r} was never awaited", made, made, detail, _AWAIT)

    def warned(self, message: warnings.WarningMessage) -> bool:
        if _recorder() != self._recorder:
            return False
        text = str(message.message)
        if issubclass(message.category, ResourceWarning):
            return self._warned_of_resource(text, message.source)
        if issubclass(message.category, RuntimeWarning) and text.endswith("was never awaited"):
            place = Place(message.filename, message.lineno, "?")
            if "coroutines" in self.on and "coroutine '" not in text[:11]:
                self._note("coroutines", text, place, None, "it was dropped here", _AWAIT)
        return False

    def _warned_of_resource(self, text: str, source: Any) -> bool:
        if "sockets" not in self.on or self._light or not text.startswith(_RESOURCES):
            return False
        made = made_at(source)
        for name in "_sock", "_extra":
            inner = getattr(source, name, None)
            source = inner.get("socket", source) if isinstance(inner, dict) else inner or source
        with contextlib.suppress(AttributeError, OSError, ValueError, TypeError):
            opened = opened_at(source.fileno())
            made = made or place_of(opened and opened[0])
        self._note("sockets", text, None, made, "it was closed by the garbage collector, too late", _CLOSE)
        return True

    def error(self, loop: Loop, context: dict[str, Any]) -> None:
        if self._light and loop is not self._loop:
            found, self._found = self._found, []
            self._error(loop, context)
            self._late, self._found = [*self._late, *self._found][:_PER_KIND], found
        else:
            self._error(loop, context)

    def _error(self, loop: Loop, context: dict[str, Any]) -> None:
        message = str(context.get("message") or "Unhandled exception in event loop")
        error = context.get("exception")
        future: Any = context.get("task") or context.get("future")
        name = _task_name(future) if isinstance(future, asyncio.Task) else "future"
        if message.startswith("Task was destroyed"):
            if _is_reported(future):
                return  # It was left over, and then its loop was gone.
            what = f"{name} was collected by the garbage collector while it was pending"
            where = _waits_at(future)
            self._note("collected", what, where, made_at(future), "no strong reference to it was left", _HOLD)
        elif loop.get_exception_handler() is not None:  # type: ignore[no-untyped-call, unused-ignore]
            return  # The program takes care of these itself.
        elif error is None:
            kind = "sockets" if message.startswith("Unclosed") else "exceptions"
            if kind == "exceptions" or not self._light:
                self._note(kind, message, None, None, "the loop's exception handler was told", _CLOSE)
        else:
            shown = f"{type(error).__name__}: {error}".rstrip(": ")
            if "never retrieved" in message:
                what, fix = f"{name} failed with {shown}, and nobody asked for it", _RETRIEVE
            else:
                what, fix = f"{message} ({shown})", _HANDLE
            self._note("exceptions", what, _raised_at(error.__traceback__), made_at(future), "", fix)

    # What it means

    def _note(  # noqa: PLR0913, PLR0917 (the fields of a leak)
        self, kind: str, what: str, where: Place | None, created: Place | None, detail: str, fix: str
    ) -> None:
        if kind not in self.on:
            return
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        if count <= _PER_KIND:
            self._found.append(Leak(kind, what, where, created, detail, fix))

    def _judge_pools(self, loop: Any) -> None:
        for pool in left_open(loop):
            if pool in self._open_pools:
                continue
            self._open_pools.add(pool)
            self._note("pools", f"{pool!r} was left open", None, None, "", _CLOSE_POOL)

    def _judge_left(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            if _is_reported(task):
                continue
            verdict = self._watch.verdict(task) if self._watch is not None else None
            if verdict is not None and (verdict.file is not None or task.cancelling() > 1):
                self._swallowed(task, verdict, "and goes on")
                continue
            if getattr(coroutine_of(task), "__qualname__", None) in _FRAMEWORKS:
                continue
            _set_reported(task)
            what = f"{_task_name(task)} has not ended"
            if task.cancelling():
                what = f"{_task_name(task)} was cancelled and nobody waited for its end"
            self._note("tasks", what, _waits_at(task), made_at(task), _chain(task), _END)

    def _judge_cancels(self, loop: Loop | None) -> None:
        if self._watch is None:
            return
        for task in {*self._watch.suspects(), *self._cancelled}:
            if _is_reported(task) or (loop is not None and task.get_loop() is not loop):
                continue
            verdict = self._watch.verdict(task)
            if verdict is not None and verdict.outcome == "result":
                self._swallowed(task, verdict, "and returned")

    def _swallowed(self, task: Task, verdict: Any, how: str) -> None:
        _set_reported(task)
        where = None if verdict.file is None else Place(verdict.file, verdict.line, verdict.function)
        many = "a cancel" if verdict.cancels == 1 else f"{verdict.cancels} cancels"
        self._note(
            "cancels", f"{_task_name(task)} swallowed {many} {how}", where, made_at(task), verdict.note, _RERAISE
        )

    def _judge_generator(self, generator: Any, *, dropped: bool) -> None:
        frame = generator.ag_frame
        if frame is None or generator in self._reported or not cleans_up_at(generator.ag_code, frame.f_lasti):
            return
        if not dropped:
            self._reported.add(generator)
        code = generator.ag_code
        where = Place(code.co_filename, frame.f_lineno, code.co_qualname)
        detail = "the garbage collector found it: its clean-up runs later, in another task" if dropped else ""
        what = f"async generator {generator.__qualname__!r} was not closed"
        self._note("asyncgens", what, where, place_of(self._begun.pop(id(generator), None)), detail, _ACLOSE)

    def _look_at_threads(self) -> None:
        if "threads" not in self.on:
            return
        deadline = time.monotonic() + self._grace
        kept = set(self._threads)
        hidden = False
        for loop in self._loops:  # A loop that lives on keeps the threads of its executor.
            if not loop.is_closed():
                hidden = hidden or not hasattr(loop, "_default_executor")
                kept |= getattr(getattr(loop, "_default_executor", None), "_threads", set())
        for thread in threading.enumerate():
            if thread in kept or thread is threading.current_thread() or isinstance(thread, threading._DummyThread):
                continue
            if hidden and getattr(thread, "_target", None) is getattr(executors, "_worker", None):
                continue  # It may be the executor of uvloop's loop, which does not show it.
            if getattr(thread, "_target", None) is offloading._work:
                continue  # It belongs to the process, and ends when it has had nothing to do for a while.
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                frame = sys._current_frames().get(thread.ident or 0)
                where = None
                while frame is not None and _wraps.is_inside(frame.f_code.co_filename):
                    frame = frame.f_back
                if frame is not None:
                    where = Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname)
                daemon = "daemon " if thread.daemon else ""
                self._note("threads", f"{daemon}thread {thread.name!r} runs still", where, made_at(thread), "", _JOIN)

    def _look_at_descriptors(self) -> None:
        if "sockets" not in self.on:
            return
        own = offloading._descriptors()
        hidden = any(not loop.is_closed() and not hasattr(loop, "_selector") for loop in self._loops)
        for loop in self._loops:
            own_of_loop = _descriptors_of(loop)
            if own_of_loop and not own_of_loop & self._descriptors.keys() and loop is not self._host:
                self._note("sockets", f"event loop {type(loop).__name__} was never closed", None, None, "", _CLOSE_LOOP)
            own |= own_of_loop
        for descriptor, identity in _descriptors().items():
            if descriptor in own or self._descriptors.get(descriptor) == identity:
                continue
            opened = opened_at(descriptor)
            if opened is None and (hidden or not stat.S_ISSOCK(identity[2])):
                continue  # Somebody opened it for itself, for good: a random source, uvloop's pipe for signals.
            place = place_of(opened[0]) if opened else None
            if place is not None and place.file.endswith(("resource_tracker.py", "forkserver.py")):
                continue  # multiprocessing's, one for the whole process.
            owner = opened[1] if opened else None
            detail = "" if opened else "it was not opened by Python code"
            self._note("sockets", f"{_describe(descriptor, owner)} is open", None, place, detail, _CLOSE)


_AWAIT = "await it; or, if it is not needed, do not call the function"
_END = "wait for it before the test ends, or cancel it and wait; asyncio.TaskGroup does both"
_HOLD = "keep a strong reference until it is done: asyncio.TaskGroup, loopwright.Background, or a set of tasks"
_RETRIEVE = "await it, or use asyncio.TaskGroup, so that the error reaches somebody"
_HANDLE = "handle the error where it is raised: nobody is above a callback"
_RERAISE = "re-raise CancelledError after the clean-up; what is to live on calls asyncio.current_task().uncancel()"
_ACLOSE = "use `async with contextlib.aclosing(...) as items:` around the `async for`"
_JOIN = "join it, or shut its executor down, before the test ends"
_CLOSE = "close it where it is opened: `with`, `async with` or try/finally; for streams also await wait_closed()"
_CLOSE_POOL = "use `async with` around the pool, or await its aclose()"
_CLOSE_LOOP = "run it in asyncio.Runner, or close it"

_FRAMEWORKS = {"TestRunner._run_tests_and_fixtures"}
"""Tasks of test frameworks, by their coroutine, that end with their loop: anyio's."""
_RESOURCES = ("unclosed", "Unclosed", "subprocess ")


def _is_reported(task: Any) -> bool:
    return hasattr(task, "_loopwright_reported")


def _set_reported(task: Any) -> None:
    """A note on the task itself: weak references are cleared before the task says that it is destroyed."""
    with contextlib.suppress(AttributeError):
        task._loopwright_reported = True


def _task_name(task: Any) -> str:
    coroutine = coroutine_of(task)
    function = getattr(coroutine, "__qualname__", None) or type(coroutine).__name__
    return f"task {task.get_name()!r} ({function})"


def _waits_at(task: Task) -> Place | None:
    """Where a task stands, in the program's own code."""
    place = _chains.where(task)
    return None if place.file is None or place.line is None else Place(place.file, place.line, place.function)


def _chain(task: Task) -> str:
    """The await chain of a task, in one line."""
    names = [link.function for link in _chains.chain(task)]
    what = _chains.where(task).what
    return f"{' > '.join(names)}; it {what}" if names else f"it {what}"


async def let_end(tasks: list[Task]) -> None:
    """Tasks that were cancelled, or are about to end, get the turns that they need for it."""
    for _ in range(_TURNS):
        if all(task.done() for task in tasks):
            break
        await asyncio.sleep(0)


_FROZEN_AT_START: Final = 1000
"""More than CPython 3.12 freezes at its own start (375 objects; other versions: none), less than any program does."""


@contextlib.contextmanager
def _only_what_is_new() -> Iterator[None]:
    """The garbage collector looks at nothing that was there before: what earlier tests left is not this one's.

    It also takes microseconds then, instead of a good part of a second.
    """
    if gc.get_freeze_count() > _FROZEN_AT_START:  # By checks around these, or by the program.
        gc.collect()
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _collect_when_idle(loop: Any) -> None:
    """Before time jumps, the garbage collector takes what nobody holds: at the same points in each run."""
    outside = loop._outside
    times = itertools.count()

    def collect() -> Any:
        if next(times) < _IDLE_TIMES:
            gc.collect()
        return outside()

    loop._outside = collect


def _recorder() -> Any:
    """Who gets warnings: another one than at the beginning is a test that expects some."""
    module: Any = warnings
    return module._showwarnmsg_impl, module.showwarning


def _raised_at(traceback: TracebackType | None) -> Place | None:
    """The innermost line of a traceback that is not the standard library's, else the innermost."""
    last = user = None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        last = Place(code.co_filename, traceback.tb_lineno, code.co_qualname)
        if not _wraps.is_inside(code.co_filename):
            user = last
        traceback = traceback.tb_next
    return user or last


def _descriptors() -> dict[int, tuple[int, int, int]]:
    """The open descriptors, and what they are: device, inode, mode."""
    found = {}
    try:
        names = os.listdir("/dev/fd")
    except OSError:
        return {}  # Windows has no list of them.
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            status = os.fstat(int(name))
            found[int(name)] = (status.st_dev, status.st_ino, status.st_mode)
    return found


def _descriptors_of(loop: Loop) -> set[int]:
    """A loop's own: its selector and the pipe that wakes it."""
    found = set()
    if not loop.is_closed():
        for name in "_selector", "_ssock", "_csock":
            with contextlib.suppress(OSError, ValueError, AttributeError):
                found.add(getattr(loop, name).fileno())
    return found


def _describe(descriptor: int, owner: Any) -> str:
    if isinstance(owner, socket.socket):
        ends = []
        for name, ask in ("from", owner.getsockname), ("to", owner.getpeername):
            with contextlib.suppress(OSError):
                address = ask()
                shown = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address or "")
                if shown and shown not in {"0.0.0.0:0", ":::0"}:
                    ends.append(f"{name} {shown}")
        return " ".join([f"socket {descriptor}", *ends])
    try:
        target = os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        target = ""
    kind = "socket" if target.startswith("socket:") else "pipe" if target.startswith("pipe:") else "file"
    return f"{kind} {descriptor}" if kind != "file" else f"file {descriptor} {target}".rstrip()
