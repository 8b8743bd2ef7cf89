"""Which tasks swallowed a cancel, and at which line.

A task whose cancel was requested (``cancelling() > 0``) owes its canceller a ``CancelledError``; what may keep it calls
``uncancel()``, as ``asyncio.timeout`` does. A task that ends otherwise, or goes on, has swallowed it. The line is known
from CPython 3.12 on: there :mod:`sys.monitoring` tells each handler that a ``CancelledError`` enters, at no cost while
none is raised, and the last handler of a cancel is the one that kept it.

What to make of a verdict (a leak, a point of a sweep) is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import functools
import linecache
import sys
import threading
import weakref
from collections import deque
from collections.abc import MutableMapping
from dataclasses import dataclass
from types import CodeType
from typing import Any, Literal

from loopwright.testing._handlers import handler_at

__all__ = ["CAN_TELL_LINES", "CancelWatch", "Swallowed"]

CAN_TELL_LINES = sys.version_info >= (3, 12)
"""Whether this interpreter can name the line that swallowed a cancel."""

_REMEMBERED = 16
_TAKES_CANCELS = frozenset({"BaseException", "CancelledError"})

Task = asyncio.Task[Any]


@dataclass(frozen=True, slots=True)
class Swallowed:
    """A cancel that did not come out of its task as ``CancelledError``."""

    task: str
    """The task's name."""
    outcome: Literal["result", "error", "pending"]
    """How the task went on: it returned, it raised something else, or it runs still."""
    cancels: int
    """How many cancels the task kept."""
    file: str | None
    """Where the handler is that kept it; ``None`` where that is not known."""
    line: int | None
    function: str | None
    source: str
    """The text of that line."""
    note: str
    """In one sentence: where it went, or why the line is not known."""

    @property
    def where(self) -> str | None:
        """``file.py:12 in serve``"""
        return None if self.file is None else f"{self.file}:{self.line} in {self.function}"


@dataclass(slots=True, eq=False)
class _Handled:
    """One CancelledError, and the handler that it entered last."""

    error: weakref.ref[BaseException]
    code: CodeType
    offset: int
    cancelling: int


class _Record:
    """What is known of the cancels of one task; the one that was handled last comes last."""

    __slots__ = ("_armed", "_asked_for", "_handled")

    def __init__(self, *, armed: bool = False) -> None:
        self._armed = armed
        self._asked_for: _Handled | None = None
        self._handled: deque[_Handled] = deque(maxlen=_REMEMBERED)

    def note(self, code: CodeType, offset: int, error: BaseException, cancelling: int) -> None:
        for seen in reversed(self._handled):
            if seen.error() is error:
                seen.code, seen.offset = code, offset
                self._handled.remove(seen)
                break
        else:
            seen = _Handled(weakref.ref(error), code, offset, cancelling)
            if self._armed and self._asked_for is None:
                self._asked_for = seen
        self._handled.append(seen)

    def guilty(self, cancelling: int) -> _Handled | None:
        """The handler that kept the cancel.

        After :meth:`CancelWatch.arm` that is the last one of the first CancelledError. Without, timeouts that expired
        before and tasks awaited afterwards may have been handled rightly: the last that still counts is the best guess.
        """
        if self._asked_for is not None:
            return self._asked_for
        return next((seen for seen in reversed(self._handled) if seen.cancelling <= cancelling), None)


class CancelWatch:
    """Watches, while entered, which handlers take cancels; on any loop, in any thread.

    Entering and leaving make the interpreter look at all code again: enter once around many runs, not once per run.

    Parameters:
        keep: holds every task that handled a cancel until :meth:`forget`, so that :meth:`suspects` can name those that
            have ended. Without, tasks are held weakly.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self._keep = keep
        self._records: MutableMapping[Task, _Record] = {} if keep else weakref.WeakKeyDictionary()

    def __enter__(self) -> CancelWatch:
        _events.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        _events.remove(self)

    def arm(self, task: Task) -> None:
        """``task`` is about to be cancelled: the next CancelledError in it is that cancel."""
        self._records[task] = _Record(armed=True)

    def forget(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Forgets all tasks, or those of a loop that have ended; call it between runs."""
        if loop is None:
            self._records.clear()
        else:
            for task in [task for task in self._records if task.done() and task.get_loop() is loop]:
                del self._records[task]

    def suspects(self) -> list[Task]:
        """The tasks that handled a cancel, in no order; usually most of them let it go again."""
        return list(self._records)

    def verdict(self, task: Task) -> Swallowed | None:
        """Whether ``task`` swallowed a cancel; ``None`` when it did not, or none was requested.

        A task that runs still gets a verdict too: ask when it had the time to end. One whose handler still holds the
        cancel, in a ``finally`` for example, is on its way out and has not swallowed it.
        """
        cancels = _pending_cancels(task)
        if not cancels:
            return None
        outcome: Literal["result", "error", "pending"] = "pending"
        if task.done():
            if task.cancelled():
                return None
            # Asking for exception() would mark it as retrieved.
            outcome = "result" if getattr(task, "_exception", None) is None else "error"
        record = self._records.get(task)
        handled = record and record.guilty(task.cancelling())
        name = task.get_name()
        if outcome == "pending" and handled and handled.error() is not None:
            return None
        if not handled:
            note = "no Python code handled it" if CAN_TELL_LINES else _NO_LINES
            if CAN_TELL_LINES and not _events.monitoring:
                note = "all ids of sys.monitoring are taken (a debugger, coverage): the line is not known"
            return Swallowed(name, outcome, cancels, None, None, None, "", note)
        handler = handler_at(handled.code, handled.offset, _TAKES_CANCELS)
        line, how = handler.line, "a context manager kept it" if handler.kind == "with" else "this handler kept it"
        file, function = handled.code.co_filename, handled.code.co_qualname
        source = linecache.getline(file, line).strip()
        return Swallowed(name, outcome, cancels, file, line, function, source, how)

    def _note(self, task: Task, code: CodeType, offset: int, error: BaseException, cancelling: int) -> None:
        record = self._records.get(task)
        if record is None:
            if self._keep and len(self._records) >= self._prune_at:
                self._prune()
            record = self._records[task] = _Record()
        record.note(code, offset, error, cancelling)

    _prune_at = 256

    def _prune(self) -> None:
        for task in [task for task in self._records if task.done() and self.verdict(task) is None]:
            del self._records[task]
        self._prune_at = max(256, 2 * len(self._records))


_NO_LINES = f"CPython 3.{sys.version_info[1]} cannot tell the line: sys.monitoring came with 3.12"


def _pending_cancels(task: Task) -> int:
    """How many cancels were requested and not taken back, by ``uncancel`` or by a group that will not do it itself."""
    cancelling = getattr(task, "cancelling", None)  # A task class of the program's own may lack it.
    return cancelling() - _events.kept_by_groups.get(task, 0) if cancelling else 0


class _Events:
    """The one place that listens, for all watches."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: tuple[CancelWatch, ...] = ()
        self._undo_groups: Any = None
        self._tool: int | None = None
        #: Cancels that a TaskGroup of CPython < 3.13 requested of its parent and never takes back.
        self.kept_by_groups: weakref.WeakKeyDictionary[Task, int] = weakref.WeakKeyDictionary()

    @property
    def monitoring(self) -> bool:
        return self._tool is not None

    def add(self, watch: CancelWatch) -> None:
        with self._lock:
            self._watches += (watch,)
            if len(self._watches) == 1:
                self._listen()

    def remove(self, watch: CancelWatch) -> None:
        with self._lock:
            self._watches = tuple(other for other in self._watches if other is not watch)
            if not self._watches:
                self._stop()

    def _listen(self) -> None:
        if sys.version_info < (3, 13):
            self._wrap_groups()
        if sys.version_info >= (3, 12):
            monitoring = sys.monitoring
            # 0 to 2 and 5 are by convention those of debuggers, coverage, profilers and optimizers.
            for tool in (4, 3, 5, 2, 1, 0):
                if monitoring.get_tool(tool) is None:
                    monitoring.use_tool_id(tool, "loopwright cancels")
                    monitoring.register_callback(tool, monitoring.events.EXCEPTION_HANDLED, self._handled)
                    monitoring.set_events(tool, monitoring.events.EXCEPTION_HANDLED)
                    self._tool = tool
                    return

    def _stop(self) -> None:
        if sys.version_info >= (3, 12) and self._tool is not None:
            monitoring, tool = sys.monitoring, self._tool
            monitoring.set_events(tool, 0)
            monitoring.register_callback(tool, monitoring.events.EXCEPTION_HANDLED, None)
            monitoring.free_tool_id(tool)
            self._tool = None
        if self._undo_groups is not None:
            group: Any = asyncio.TaskGroup
            group._on_task_done = self._undo_groups
            self._undo_groups = None

    def _handled(self, code: CodeType, offset: int, error: BaseException) -> None:
        if not isinstance(error, asyncio.CancelledError) or asyncio._get_running_loop() is None:
            return
        task = asyncio.current_task()
        if task is None:
            return
        cancelling = getattr(task, "cancelling", None)
        level = cancelling() if cancelling else 0
        if level:
            for watch in self._watches:
                watch._note(task, code, offset, error, level)

    def _wrap_groups(self) -> None:
        """Counts the cancels that a group requests of its parent while the parent leaves the group.

        CPython < 3.13 does not take those back (python/cpython#116720): ``cancelling()`` stays at 1 although the group
        kept the cancel as it should. On these versions only, one private method is wrapped while a watch is on.
        """
        group: Any = asyncio.TaskGroup
        original = self._undo_groups = group._on_task_done
        kept = self.kept_by_groups

        @functools.wraps(original)
        def watched_on_task_done(self: Any, task: Task) -> None:
            before = self._parent_cancel_requested
            original(self, task)
            if self._exiting and self._parent_cancel_requested and not before:
                kept[self._parent_task] = kept.get(self._parent_task, 0) + 1

        group._on_task_done = watched_on_task_done


_events = _Events()
