"""SimLoop: an asyncio event loop whose time and order are the test's.

Lives here: what asyncio expects of a loop and the native core does not do (tasks, selectors, the real waits). Does not
live here: which step runs next and when time jumps (``crates/core/src/schedule``), the turn of the loop
(``crates/python/src/sim.rs``), what counts as the outside (:mod:`._quiescence`).
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

from loopwright._loopwright import _Search, _SimCore
from loopwright.testing._deadlock import explain_loop, picture
from loopwright.testing._quiescence import Quiescence
from loopwright.testing.errors import Deadlock, Livelock

__all__ = ["SimLoop", "SimTask"]

T = TypeVar("T")
_Ts = TypeVarTuple("_Ts")

_real_monotonic = time.monotonic
"""Bound at import: a test may patch ``time`` to follow the loop's clock."""

_ThreadSafeHandle: Any = getattr(asyncio.events, "_ThreadSafeHandle", None)

_LONGEST_WAIT = 0.05
"""Seconds after which a wait for the outside asks again whether there still is one: a thread can end without a word."""


class SimTask(asyncio.Task[T]):
    """A task that hashes by the order of creation, so that sets of tasks iterate in the same order in every process."""

    __slots__ = ("_loopwright_lane",)
    _loopwright_lane: int

    def __hash__(self) -> int:
        try:
            return self._loopwright_lane
        except AttributeError:
            loop = self.get_loop()
            return loop._adopt(self) if isinstance(loop, _SimCore) else object.__hash__(self)


class _NoSelector(selectors.BaseSelector):
    """Stands in until the first file descriptor is registered: a program of tasks alone needs no selector."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        selector = self._loop._selector = selectors.DefaultSelector()
        self._loop._io_begins()
        return selector.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        raise KeyError(f"{fileobj!r} is not registered")

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        raise KeyError(f"{fileobj!r} is not registered")

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {}


class SimLoop(_SimCore, Quiescence, asyncio.SelectorEventLoop):
    """An asyncio loop with virtual time and a schedule that can be chosen, searched and repeated.

    Streams, servers, subprocesses, executors and signals work: it is asyncio's own selector loop underneath. Use it
    with ``asyncio.Runner(loop_factory=SimLoop)``, or through :func:`loopwright.testing.run` and ``explore``.

    *Time* is virtual, in seconds, and starts at 0. It stands still while anything is ready and jumps to the next timer
    when nothing is and nothing outside of the loop can change that; while the outside can (an executor job, another
    thread, a socket to another process), it runs at the real rate. So no timeout expires that in truth is not due.

    *Order* is asyncio's own unless there is a seed. With one, it is random within what ``level`` leaves open:

    - ``"timing"``: ties between timers, and the order of I/O events;
    - ``"task"``: also, the step of a task may be delayed; nothing else moves. A program that relies only on what
      asyncio documents does not fail here;
    - ``"chaos"``: any callback may go next, against what asyncio documents.

    The same seed is the same schedule, in any process of the same CPython minor version.

    Args:
        level: what the schedule may change.
        seed: of the schedule; None is first in, first out, exactly asyncio's order.
        virtual_time: False keeps time at the real rate; a deadlock is found all the same.
        max_steps: how many steps may run without time passing before that is a :class:`Livelock`.

    Raises:
        Deadlock: from ``run_forever`` and what is built on it: nothing can run any more.
        Livelock: likewise: tasks keep each other awake and get nowhere.
        ValueError: there is no such level.
    """

    if TYPE_CHECKING:  # what asyncio's loop has and its stubs do not tell
        _selector: selectors.BaseSelector
        _task_factory: Any
        _asyncgens: Any
        _default_executor: Any
        _ssock: Any
        _csock: Any

        _thread_id: int | None

        def _check_closed(self) -> None: ...
        def _process_events(self, event_list: list[Any], /) -> None: ...

    task_type: type[SimTask[Any]] = SimTask
    """What :meth:`create_task` makes."""

    def __init__(
        self,
        *,
        level: str = "task",
        seed: int | None = None,
        virtual_time: bool = True,
        max_steps: int = 1_000_000,
        search: _Search | None = None,
    ) -> None:
        if search is None and seed is not None:
            search = _Search.random(seed & 0xFFFF_FFFF_FFFF_FFFF, 1)
            search.begin()
        self._max_steps = max_steps
        self._configure(level, search, virtual_time, max_steps)
        self._ssock = self._csock = None
        Quiescence.__init__(self, _NoSelector(self))

    # Tasks

    def create_task(
        self, coro: Any, *, name: Any = None, context: contextvars.Context | None = None, **options: Any
    ) -> Any:
        """A task; see ``asyncio.loop.create_task``. It is named by its number in this run, not in this process."""
        if self._task_factory is not None:
            return super().create_task(coro, name=name, context=context, **options)
        self._check_closed()
        if name is None:
            name = f"Task-{self._lanes + 1}"
        task = self.task_type(coro, loop=self, name=name, context=context, **options)
        if origin := getattr(task, "_source_traceback", None):
            del origin[-1]
        return task

    def trace(self) -> bytes:
        """The schedule so far: what ``replay`` needs to run it again."""
        return self._schedule()

    # Turns

    def _poll(self) -> None:
        self._serve_events(self._selector.select(0))

    def _serve_events(self, events: list[Any]) -> None:
        if not events:
            return
        self._progressed()
        if len(events) > 1:
            own = -1 if self._ssock is None else self._ssock.fileno()
            # Who woke the loop from another thread is not among the decisions: threads have no schedule.
            first = [event for event in events if event[0].fd == own]
            rest = sorted((event for event in events if event[0].fd != own), key=lambda event: event[0].fd)
            events = first + [rest[index] for index in self._order_events(len(rest))]
        self._process_events(events)

    _met_outside = False
    """Whether another thread took part or the loop waited in real time: no schedule decides those moments."""
    _waiting_since: float | None = None
    """When the wait began that goes on: other threads may want to know the time before it ends."""

    def _wait(self, timeout: float | None) -> float:
        """Waits for the outside, for a moment at most; returns how many real seconds that took."""
        self._ensure_self_pipe()
        if self._waiting:
            return 0.0
        self._met_outside = True
        began = self._waiting_since = _real_monotonic()
        try:
            events = self._selector.select(_LONGEST_WAIT if timeout is None else min(timeout, _LONGEST_WAIT))
        finally:
            self._waiting_since = None
        self._serve_events(events)
        return _real_monotonic() - began

    def _involves_thread(self) -> None:
        self._met_outside = True
        self._progressed()

    def _deadlock(self) -> Deadlock:
        return Deadlock(explain_loop(self))

    def _livelock(self) -> Livelock:
        return Livelock(
            f"{self._max_steps:,} steps were run and no time passed at {self.time():g} s: somebody polls without "
            f"sleeping, or max_steps= is too low for this test\n\n{picture(self)}"
        )

    def _overtime(self) -> TimeoutError:
        late = f"the test was not over after {self.time():g} s of the loop's time"
        return TimeoutError(f"{late}\n\n{picture(self)}")

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: contextvars.Context | None = None
    ) -> Any:
        """See ``asyncio.loop.call_soon_threadsafe``. What another thread gets is a handle of asyncio's own, since that
        has one that another thread may cancel: from CPython 3.14 on.
        """
        if _ThreadSafeHandle is None or threading.get_ident() == self._thread_id:
            return super().call_soon_threadsafe(callback, *args, context=context)
        self._check_closed()
        handle = _ThreadSafeHandle(callback, args, self, context)
        self._add_callback(handle)
        self._progressed()
        self._write_to_self()
        return handle

    # The pipe by which other threads and signals wake the loop: made when it is first needed

    def _make_self_pipe(self) -> None:
        pass

    def _ensure_self_pipe(self) -> None:
        if self._ssock is None:
            super()._make_self_pipe()  # type: ignore[misc]

    def _write_to_self(self) -> None:
        self._met_outside = True
        super()._write_to_self()  # type: ignore[misc]

    def _close_self_pipe(self) -> None:
        if self._ssock is not None:
            super()._close_self_pipe()  # type: ignore[misc]

    def add_signal_handler(self, sig: int, callback: Callable[[Unpack[_Ts]], Any], *args: *_Ts) -> None:
        self._ensure_self_pipe()
        super().add_signal_handler(sig, callback, *args)

    def close(self) -> None:
        super().close()
        self._close()


class _Catch:
    """As much of a loop as a task needs to schedule its first step."""

    callback: Any = None

    def call_soon(self, callback: Any, *_: Any, context: Any = None) -> None:
        self.callback = callback

    def get_debug(self) -> bool:
        return False


def task_step_type() -> type:
    """The type of the callback by which CPython's own tasks step; for the native core."""

    async def nothing() -> None: ...

    coroutine: Coroutine[Any, Any, None] = nothing()
    catch = _Catch()
    task = asyncio.Task(coroutine, loop=catch)  # type: ignore[arg-type]
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine.close()
    kind = type(catch.callback)
    return kind if kind.__name__ == "TaskStepMethWrapper" else type("NoSuchStep", (), {})
