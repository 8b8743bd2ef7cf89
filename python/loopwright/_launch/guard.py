"""What ``loopwright run`` wraps while a program runs; ``loopwright run --wraps`` prints the list.

Three functions of asyncio lead every loop here (:meth:`Guard.install`); on the loop itself, and on this one instance
only, a few methods are put in front of (:meth:`Guard.adopt`). Each calls what it replaced; a program that sets a task
factory or an exception handler of its own gets exactly that, and reads back exactly what it set.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import re
import signal
import sys
import warnings
import weakref
from collections.abc import Callable
from typing import Any, TextIO

from loopwright._launch.places import INSIDE, raised_at, task_rows
from loopwright._launch.supervisor import Supervisor
from loopwright._loopwright import TaskFactory

__all__ = ["Guard"]

_ITEMS = 50
_TEXT = 300
_NEVER_AWAITED = re.compile(r"^(?:coroutine |asynchronous generator )?'(?P<what>.+?)' was never awaited")
#: Steps of closing a loop, which a signal must not cancel: asyncio.Runner, aiohttp.web.run_app and many copies.
_CLOSING_STEPS = {"shutdown_asyncgens", "shutdown_default_executor"}
_CLOSING_CALLERS = {"_cancel_all_tasks", "_cancel_tasks"}


class Guard:
    """Watches the loops of a program that knows nothing of Loopwright.

    Parameters:
        supervisor: gets the phases and the sections of the report.
        explicit: whether the user asked for a loop by name; else a policy that the program sets wins.
        eager: whether tasks start eagerly, unless the program sets a task factory of its own.
    """

    def __init__(self, supervisor: Supervisor, *, explicit: bool, eager: bool) -> None:
        self._supervisor = supervisor
        self._explicit = explicit
        self._eager = eager
        self._counter = TaskFactory(INSIDE)
        self._watched: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        #: What each running loop runs until complete; ``None`` for ``run_forever``.
        self._roots: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Future[Any] | None] = (
            weakref.WeakKeyDictionary()
        )
        self._undo: list[Callable[[], None]] = []
        self._lost = _Section("lost_exceptions", supervisor)
        self._never_awaited = _Section("never_awaited", supervisor)
        self._swallowed = _Section("swallowed_cancels", supervisor)
        supervisor.tasks_started = lambda: self._counter.started
        supervisor.handlers.append(self.interrupt)

    def install(self) -> None:
        """Wraps."""
        new_event_loop, set_event_loop = asyncio.new_event_loop, asyncio.set_event_loop
        runner_init, showwarning = asyncio.Runner.__init__, warnings.showwarning
        set_signal = signal.signal

        @functools.wraps(new_event_loop)
        def watched_new_event_loop() -> asyncio.AbstractEventLoop:
            make_loop = self._supervisor.make_loop
            if make_loop is None or (not self._explicit and _program_set_a_policy()):
                make_loop = new_event_loop
            return self.adopt(make_loop())

        @functools.wraps(set_event_loop)
        def watched_set_event_loop(loop: asyncio.AbstractEventLoop | None) -> None:
            set_event_loop(loop if loop is None else self.adopt(loop))

        @functools.wraps(runner_init)
        def watched_runner_init(runner: asyncio.Runner, **kwargs: Any) -> None:
            factory = kwargs.get("loop_factory")
            if factory is not None:
                kwargs["loop_factory"] = lambda: self.adopt(factory())
            runner_init(runner, **kwargs)

        @functools.wraps(showwarning)
        def watched_showwarning(  # noqa: PLR0913, PLR0917 - the signature is Python's
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            self._note_warning(str(message), filename, lineno)
            showwarning(message, category, filename, lineno, file, line)

        @functools.wraps(set_signal)
        def watched_signal(signalnum: int, handler: Any) -> Any:
            previous = set_signal(signalnum, handler)
            self._supervisor.watchdog.rearm()
            return previous

        self._replace(signal, "signal", watched_signal)
        for owner in (asyncio, asyncio.events):
            self._replace(owner, "new_event_loop", watched_new_event_loop)
            self._replace(owner, "set_event_loop", watched_set_event_loop)
        self._replace(asyncio.Runner, "__init__", watched_runner_init)
        self._replace(warnings, "showwarning", watched_showwarning)

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        old = getattr(owner, name)
        setattr(owner, name, value)
        self._undo.append(lambda: setattr(owner, name, old))

    def uninstall(self) -> None:
        """Puts everything back that is not on a loop."""
        while self._undo:
            self._undo.pop()()

    def close_left_open(self) -> None:
        """Closes the loops that the program left to the garbage collector, with the warning that this gives.

        What is put in front of a loop's methods refers to the loop. So it goes with its cycle and not by itself, and
        it may find its sockets gone before it: a traceback that plain Python would not print.
        """
        for loop in list(self._watched):
            if not loop.is_closed() and not loop.is_running():
                warnings.warn(f"unclosed event loop {loop!r}", ResourceWarning, stacklevel=1, source=loop)
                with contextlib.suppress(Exception):
                    loop.close()

    # one loop

    def adopt(self, loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
        """Watches ``loop``, once."""
        if loop in self._watched:
            return loop
        self._watched.add(loop)
        try:
            self._wrap_tasks(loop)
            self._wrap_errors(loop)
            self._wrap_running(loop)
        except AttributeError:
            pass  # A loop class that refuses attributes runs unwatched.
        return loop

    def _wrap_tasks(self, loop: asyncio.AbstractEventLoop) -> None:
        factory = TaskFactory(INSIDE, self._counter)
        factory.inner = loop.get_task_factory()
        if factory.inner is None and self._eager:
            factory.inner = asyncio.eager_task_factory  # type: ignore[attr-defined, unused-ignore]
        set_task_factory = loop.set_task_factory

        def watched_set_task_factory(inner: Any) -> None:
            set_task_factory(inner)  # Let it complain.
            factory.inner = inner
            set_task_factory(factory)

        set_task_factory(factory)
        vars(loop).update(set_task_factory=watched_set_task_factory, get_task_factory=lambda: factory.inner)

    def _wrap_errors(self, loop: asyncio.AbstractEventLoop) -> None:
        call_exception_handler = loop.call_exception_handler

        @functools.wraps(call_exception_handler)
        def watched_call_exception_handler(context: dict[str, Any]) -> None:
            with contextlib.suppress(Exception):
                self._note_error(context)
            call_exception_handler(context)

        vars(loop)["call_exception_handler"] = watched_call_exception_handler

    def _wrap_running(self, loop: asyncio.AbstractEventLoop) -> None:
        run_until_complete, run_forever, close = loop.run_until_complete, loop.run_forever, loop.close
        state = _LoopState()

        @functools.wraps(run_until_complete)
        def watched_run_until_complete(future: Any) -> Any:
            if loop.is_closed() or loop.is_running():
                return run_until_complete(future)  # Let it complain.
            caller = sys._getframe(1).f_code.co_name
            if caller in _CLOSING_CALLERS or getattr(future, "__name__", None) in _CLOSING_STEPS:
                self._note_closing(loop, state)
                return run_until_complete(future)
            future = asyncio.ensure_future(future, loop=loop)
            with self._running(loop, state, future):
                return run_until_complete(future)

        @functools.wraps(run_forever)
        def watched_run_forever() -> None:
            with self._running(loop, state, None):
                run_forever()

        @functools.wraps(close)
        def watched_close() -> None:
            if not loop.is_closed() and not loop.is_running():
                self._note_closing(loop, state)
                self._note_closed(state)
            close()

        vars(loop).update(
            run_until_complete=watched_run_until_complete, run_forever=watched_run_forever, close=watched_close
        )

    @contextlib.contextmanager
    def _running(self, loop: asyncio.AbstractEventLoop, state: _LoopState, root: asyncio.Future[Any] | None) -> Any:
        if state.running or loop.is_running() or loop.is_closed():
            yield
            return
        state.running = True
        state.root = root
        self._roots[loop] = root
        if not state.announced:
            state.announced = True
            self._supervisor.watchdog.phase("run")
        stop_heart = self._supervisor.watch(loop)
        loop.call_soon(self._supervisor.ready)
        try:
            yield
        finally:
            stop_heart()
            state.running = False
            self._roots.pop(loop, None)

    def _note_closing(self, loop: asyncio.AbstractEventLoop, state: _LoopState) -> None:
        """The main task has ended; what is alive now was left over."""
        if state.closing:
            return
        state.closing = True
        self._supervisor.watchdog.phase("close")
        state.left_over = [task for task in asyncio.all_tasks(loop) if task is not state.root]
        self._supervisor.note_left_over(state.left_over)

    def _note_closed(self, state: _LoopState) -> None:
        tasks, state.left_over = state.left_over, []
        if isinstance(state.root, asyncio.Task):
            tasks.append(state.root)
        swallowed = [task for task in tasks if task.done() and not task.cancelled() and task.cancelling() > 0]
        self._swallowed.add(task_rows(swallowed), count=len(swallowed))
        state.root = None

    # signals

    def interrupt(self, number: int) -> None:
        """The first signal, if the program has no handler of its own: cancels the main task of the running loop."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise SystemExit(128 + number) from None
        loop.call_soon_threadsafe(self._cancel, loop)

    def _cancel(self, loop: asyncio.AbstractEventLoop) -> None:
        self._supervisor.watchdog.phase("cancel")
        root = self._roots.get(loop)
        if root is not None:
            root.cancel()
            return
        tasks = asyncio.all_tasks(loop)
        waiting = len(tasks)

        def one_less(_: Any) -> None:
            nonlocal waiting
            waiting -= 1
            if waiting == 0:
                loop.stop()

        for task in tasks:
            task.add_done_callback(one_less)
            task.cancel()
        if not tasks:
            loop.stop()

    # what goes wrong

    def _note_error(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None:
            return
        task = context.get("task") or context.get("future")
        item = {
            "message": str(context.get("message", ""))[:_TEXT],
            "exception": f"{type(error).__name__}: {error}"[:_TEXT],
            "raised": raised_at(error.__traceback__),
            "task": task.get_name() if isinstance(task, asyncio.Task) else None,
            "created": getattr(task, "_loopwright_site", None),
        }
        self._lost.add([item])

    def _note_warning(self, message: str, filename: str, lineno: int) -> None:
        match = _NEVER_AWAITED.match(message)
        if match:
            self._never_awaited.add([{"what": match["what"], "dropped": f"{filename}:{lineno}", "count": 1}])


class _LoopState:
    """What is known of one loop."""

    def __init__(self) -> None:
        self.running = False
        self.announced = False
        self.closing = False
        self.root: asyncio.Future[Any] | None = None
        self.left_over: list[asyncio.Task[Any]] = []


class _Section:
    """A count and the first few of what was counted."""

    def __init__(self, name: str, supervisor: Supervisor) -> None:
        self._name = name
        self._supervisor = supervisor
        self._count = 0
        self._items: list[dict[str, Any]] = []

    def add(self, items: list[dict[str, Any]], *, count: int | None = None) -> None:
        self._count += len(items) if count is None else count
        if items and len(self._items) < _ITEMS:
            self._items = [*self._items, *items][:_ITEMS]
        if items:
            section = {"count": self._count, "items": self._items}
            self._supervisor.watchdog.put(self._name, json.dumps(section))


def _program_set_a_policy() -> bool:
    """Whether the program chose its loops by a policy, the way that ended with CPython 3.16."""
    get_policy = getattr(asyncio, "get_event_loop_policy", None)
    if get_policy is None:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return not type(get_policy()).__module__.startswith("asyncio.")
