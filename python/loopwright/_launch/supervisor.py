"""Signals, phases, the watchdog and the report of one process. Nothing of asyncio is wrapped here.

Signals arrive twice. The native watchdog gets each one first, whatever state Python is in, and counts the grace; it
then calls the handler the program has. Python's own handler (:meth:`Supervisor.handle`, unless the program set one)
begins the orderly end: it runs in the main thread between two bytecodes and only schedules.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import logging
import os
import platform
import signal
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

from loopwright._launch.loops import LoopFactory
from loopwright._launch.places import stack_of_thread, task_rows
from loopwright._loopwright import Watchdog, __version__, _flush_logs

__all__ = ["Supervisor", "current"]

Handler = Callable[[int], None]

_HEARTBEAT = 0.05
_LOGS = 0.2
"""Seconds that a forced end leaves to the sinks of log lines."""
_ROWS = 50
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_current: Supervisor | None = None


def current() -> Supervisor | None:
    """The supervisor of this process, if there is one."""
    return _current if _current is not None and _current.is_ours else None


class Supervisor:
    """Ends the process within ``grace`` seconds of the first signal, and knows what the report needs.

    Parameters:
        grace: seconds from the first signal to the end of the process.
        report: ``"text"``, ``"json"`` (both to standard error) and names of files; written by :meth:`conclude`.
        target: what the report calls the program.
        launched: whether the whole process is ours (``loopwright run``) and not only a call of ``loopwright.run``.
    """

    def __init__(self, *, grace: float, report: Iterable[str], target: str, launched: bool = False) -> None:
        self.launched = launched
        self.loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        #: What begins the orderly end; the innermost of a nest of them.
        self.handlers: list[Handler] = []
        #: Whether a signal came back to us after the program's own handler had taken it: it wishes to die of it.
        self.reraised: int | None = None
        #: Whether :meth:`handle` began the end, and not a handler of the program's.
        self.acted: int | None = None
        #: Whether a ``main(token)`` ended by itself after the first signal.
        self.drained = False
        #: Whether the user gave ``--grace``, which then wins over a program's own.
        self.grace_is_fixed = False
        #: What ``--loop`` means.
        self.make_loop: LoopFactory | None = None
        self.tasks_started: Callable[[], int | None] = lambda: None
        self._pid = os.getpid()
        self._main_thread = threading.main_thread().ident or 0
        self._program: dict[str, Any] = {
            "target": target,
            "pid": self._pid,
            "loopwright": __version__,
            "python": platform.python_version(),
            "grace": grace,
        }
        self._previous: dict[int, Any] = {}
        self._left_over: tuple[int, list[dict[str, Any]]] = (0, [])
        self._ready = False
        self._stack_file: int | None = _unnamed_file()
        self._stack_signal = signal.SIGRTMAX - 3 if hasattr(signal, "SIGRTMAX") else None
        self.watchdog = Watchdog(
            grace=grace,
            report=list(report),
            dump_signal=self._stack_signal,
            dump_fd=self._stack_file if self._stack_signal else None,
        )
        self.describe()

    @property
    def is_ours(self) -> bool:
        """Whether this is the process that made it, and not a forked child."""
        return os.getpid() == self._pid

    def describe(self, **fields: Any) -> None:
        """Adds to what the report says of the program."""
        self._program.update(fields)
        self.watchdog.put("program", json.dumps(self._program))

    def start(self) -> None:
        """Starts the watchdog; this is now the supervisor of the process."""
        global _current  # noqa: PLW0603 - there is one process
        if self._stack_signal and self._stack_file is not None:
            faulthandler.register(self._stack_signal, file=self._stack_file, all_threads=True, chain=False)
        self.watchdog.start(self._witness)
        _current = self

    def stop(self) -> None:
        """Stops the watchdog and puts the signal handlers back."""
        global _current  # noqa: PLW0603
        if not self.is_ours:
            return
        if threading.current_thread() is threading.main_thread():
            self.release_signals()
        self.watchdog.stop()
        if self._stack_signal:
            faulthandler.unregister(self._stack_signal)
        if self._stack_file is not None:
            os.close(self._stack_file)
            self._stack_file = None
        if _current is self:
            _current = None

    def conclude(self) -> None:
        """Writes the report; the watchdog stays after a signal, since something may yet block."""
        if not self.is_ours:
            return
        self.watchdog.rest()
        self.watchdog.put("tasks", self._tasks(alive=False))
        self.watchdog.phase("end")
        self.watchdog.notify("STOPPING=1")
        self.watchdog.write()
        if self.watchdog.arrivals == 0:
            self.stop()

    # signals

    def take_signals(self, signals: Iterable[int] = _SIGNALS) -> list[int]:
        """Makes :meth:`handle` the handler of ``signals``, except of one that the program ignores; tells which."""
        taken: list[int] = []
        if threading.current_thread() is not threading.main_thread():
            return taken
        for number in signals:
            previous = signal.getsignal(number)
            if number in self._previous or previous in {signal.SIG_IGN, None}:
                continue
            self._previous[number] = previous
            self.watchdog.stand_in(number, previous == signal.SIG_DFL)
            signal.signal(number, self.handle)
            taken.append(number)
        self.watchdog.rearm()
        return taken

    def release_signals(self, signals: Iterable[int] | None = None) -> None:
        """Puts back what was there before, unless the program has set its own since."""
        for number in list(self._previous) if signals is None else signals:
            previous = self._previous.get(number)
            if previous is not None and signal.getsignal(number) == self.handle:
                signal.signal(number, previous)
            # Only now: until Python has the default action back, the native handler stands in for it in a forked child.
            self.watchdog.stand_in(number, False)
            self._previous.pop(number, None)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler: begins the orderly end, then calls the handler that was there before."""
        if self.acted is None and self.is_ours:
            self.acted = number
            if self.watchdog.arrivals > 1 and self.watchdog.last_from_self:
                self.reraised = number
            if not self.handlers:
                raise SystemExit(128 + number)
            self.handlers[-1](number)
        previous = self._previous.get(number)
        if callable(previous) and previous is not signal.default_int_handler:
            previous(number, frame)

    # the loop

    def watch(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        """Begins the heartbeat of a loop that is about to run; call what it returns when it has stopped."""
        self.loops.add(loop)
        kind = type(loop)
        self.describe(loop=f"{kind.__module__}.{kind.__qualname__}")
        if threading.current_thread() is not threading.main_thread() or loop.is_closed():
            return lambda: None
        heart = _Heart(self, loop)
        heart.start()
        return heart.stop

    def ready(self) -> None:
        """The program's loop runs: tells systemd, once."""
        if not self._ready:
            self._ready = True
            self.watchdog.notify("READY=1")

    def note_left_over(self, tasks: list[asyncio.Task[Any]]) -> None:
        """The main task has ended and these are still alive."""
        count, rows = self._left_over
        self._left_over = (count + len(tasks), [*rows, *task_rows(tasks)][:_ROWS])

    def _tasks(self, *, alive: bool) -> str:
        """The section ``tasks``: what is alive now, or else what was when the main task had ended."""
        tasks = [task for loop in list(self.loops) for task in asyncio.all_tasks(loop)] if alive else []
        count, rows = (len(tasks), task_rows(tasks)[:_ROWS]) if tasks else self._left_over
        return json.dumps({"started": self.tasks_started(), "left_over": count, "sites": rows})

    def _witness(self, kind: str) -> Any:
        """Called by the watchdog's second thread, with the interpreter's lock."""
        if kind == "stall":
            return stack_of_thread(self._main_thread)
        if kind == "tasks":
            return self._tasks(alive=True)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        logging.shutdown()
        _flush_logs(_LOGS, False)
        return None


class _Heart:
    """A timer on the loop: each beat says how late it is; systemd hears of the loop's health from here."""

    def __init__(self, supervisor: Supervisor, loop: asyncio.AbstractEventLoop) -> None:
        self._supervisor = supervisor
        self._loop = loop
        self._due = 0.0
        self._timer: asyncio.Handle | None = None
        self._alive_every = _watchdog_interval() if supervisor.watchdog.notifies else None
        self._alive_next = 0.0

    def start(self) -> None:
        self._due = self._loop.time()
        self._timer = self._loop.call_soon(self._beat)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._supervisor.watchdog.rest()

    def _beat(self) -> None:
        now = self._loop.time()
        self._supervisor.watchdog.beat(max(0.0, now - self._due))
        if self._alive_every is not None and now >= self._alive_next:
            self._supervisor.watchdog.notify("WATCHDOG=1")
            self._alive_next = now + self._alive_every
        self._due = now + _HEARTBEAT
        self._timer = self._loop.call_at(self._due, self._beat)


def _watchdog_interval() -> float | None:
    """Half of ``$WATCHDOG_USEC`` in seconds, when it is meant for this process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        interval = int(os.environ["WATCHDOG_USEC"]) / 2e6
    except (KeyError, ValueError):
        return None
    return interval if interval > 0 else None


def _unnamed_file() -> int:
    """A file descriptor of a file without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("loopwright-stacks")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _after_fork_in_child() -> None:
    global _current
    supervisor, _current = _current, None
    if supervisor is not None:
        supervisor.release_signals()
        supervisor.watchdog.stop()


os.register_at_fork(after_in_child=_after_fork_in_child)
