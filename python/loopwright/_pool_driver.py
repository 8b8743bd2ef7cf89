"""What drives a pool: each hook in a task of its own, and what became of it told to the ledger.

Lives here: the tasks, the loop that is gone, the fork, the closing, events and errors. Does not live here: what a hook
is (:mod:`loopwright._pool_hooks`), when it runs (the ledger, ``crates/core/src/pool``), who has which connection (the
binding, ``crates/python/src/pool.rs``), and the public classes with their arguments (:mod:`loopwright.pools`).
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import os
import sys
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

from loopwright import _loopwright as native
from loopwright._pool_hooks import (
    BROKEN,
    CLEAN,
    DIRTY,
    Hook,
    Hooks,
    interrupts,
    is_awaitable,
    is_strategy,
    open_by,
    opener,
    was_raised_inside,
)
from loopwright.cancellation import _shielded_from_anyio
from loopwright.errors import CallCancelled, LoopMismatch, PoolClosed, PoolFull, PoolTimeout
from loopwright.timeouts import timeout

__all__ = ["Driver", "PoolEvent", "left_open"]

C = TypeVar("C")

_log: Final = logging.getLogger("loopwright.pool")

EventKind = Literal[
    "opened",
    "closed",
    "connect_failed",
    "check_failed",
    "reset_failed",
    "close_failed",
    "abandoned",
    "timeout",
    "refused",
    "leak",
]


@dataclass(frozen=True, slots=True)
class PoolEvent:
    """Something that happened in a pool, as told to ``on_event``."""

    kind: EventKind
    """What."""
    pool: str
    """The pool's name, or its class's."""
    key: object = None
    """The connection's key; of a :class:`KeyedPool`."""
    connection: object = None
    """The connection, where there is one."""
    error: BaseException | None = None
    """What a hook or the caller got."""
    phase: str | None = None
    """For ``timeout`` and ``abandoned``: what took too long."""
    seconds: float | None = None
    """For ``timeout``: how long the caller waited; for ``leak``: how long the connection is out."""


_CURES: Final = {
    "wait": "raise max_size, use connections for less time at a time, or fail early with max_waiting",
    "connect": "the server is slow to accept or not reachable; connect_timeout bounds one attempt",
    "check": "the check hook is slow: the server, or hook_timeout, which bounds it",
    "reset": "the reset hook is slow: the server, or hook_timeout, which bounds it",
}


class Driver(native._Pool[C]):
    """The part of a pool that is Python. The binding calls ``_start_connect`` and the like; whatever happens in a hook
    ends up in ``_connected``, ``_checked`` and the like, or nowhere when the ledger has stopped listening.
    """

    _hooks: Hooks
    _kind: str
    """The class's public name."""
    _timeout: float
    _hook_timeout: float
    _max_size: int
    _shared: bool

    def _set_up(self, *, on_event: Callable[[PoolEvent], object] | None, name: str | None) -> None:
        if on_event is not None and not callable(on_event):
            raise TypeError(f"{self._kind}(on_event=...) must be a function of a PoolEvent, got {on_event!r}")
        self._on_event = on_event
        self._name = name
        self._context = contextvars.copy_context()
        self._jobs: dict[int, asyncio.Task[None]] = {}
        """The hook that runs for a connection."""
        self._keepers: dict[int, asyncio.Task[None]] = {}
        """The tasks that are inside of the ``async with`` of a connection."""
        self._leaving: dict[int, asyncio.Future[None]] = {}
        """What tells a keeper to leave it."""
        self._over: dict[int, Exception | None] = {}
        """Connections whose ``async with`` has ended by itself, and in what. They are in use, or being checked."""
        self._strategies: dict[int, Any] = {}
        """Of connections whose ``connect`` gave a strategy."""
        self._strays: set[asyncio.Task[None]] = set()
        """Tasks that nobody waits for any more and that have not ended."""
        self._gone = native.Event()
        """The pool is closed, and nothing of it is left."""
        _pools.add(self)

    @property
    def _label(self) -> str:
        return self._kind if self._name is None else f"{self._kind} {self._name!r}"

    # Connect

    def _start_connect(self, conn: int, key: object) -> None:
        self._spawn(conn, self._connect(conn, key), "connect", lambda stopped: self._not_connected(conn, key, stopped))

    async def _connect(self, conn: int, key: object) -> None:
        close = self._hooks.close
        try:
            made = self._open(key)
            if is_strategy(made):
                self._strategies[conn] = made
                close = made.close_connection
                made = opener(made)()
            if is_awaitable(made):
                connection = await made
            elif hasattr(type(made), "__aenter__"):
                await self._keep(conn, key, made)
                return
            else:
                connection = made
        except BaseException as error:
            self._not_connected(conn, key, error)
            if not isinstance(error, Exception):
                raise
            return
        finally:
            self._job_ended(conn)
        await self._have(conn, key, connection, close)

    def _open(self, key: object) -> Any:
        """Calls ``connect``."""
        return self._hooks.connect()

    async def _have(self, conn: int, key: object, connection: Any, close: Hook) -> None:
        """A connection has been opened. One that comes too late is put away."""
        if self._connected(conn, connection):
            self._tell("opened", key=key, connection=connection)
        else:
            await self._put_away(close, connection)

    async def _put_away(self, close: Hook, connection: Any) -> None:
        try:
            async with timeout(self._hook_timeout):
                result = close(connection)
                if is_awaitable(result):
                    await result
        except BaseException as error:
            self._cut(connection)
            if not isinstance(error, Exception):
                raise
            self._report(error, f"{self._label}: closing a connection that came too late failed")

    async def _keep(self, conn: int, key: object, manager: Any) -> None:
        """Enters a connection's ``async with``, and leaves it, in this task, when the connection is to be closed."""
        leaving: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.current_task()
        assert task is not None
        opened = told = False
        try:
            async with manager as connection:
                opened = True
                self._keepers[conn] = task
                self._leaving[conn] = leaving
                self._job_ended(conn)
                if self._connected(conn, connection):
                    self._tell("opened", key=key, connection=connection)
                    told = True
                    await leaving
        except BaseException as error:
            if not opened:
                raise
            if told:
                self._left(conn, leaving, error if isinstance(error, Exception) else None)
            if not isinstance(error, Exception):
                raise
        else:
            if told:
                self._left(conn, leaving, None)
        finally:
            self._keepers.pop(conn, None)
            self._leaving.pop(conn, None)

    def _left(self, conn: int, leaving: asyncio.Future[None], error: Exception | None) -> None:
        """The ``async with`` of a connection is over: as it was told, or because tasks of its own failed."""
        if leaving.done() and not leaving.cancelled():
            self._hook_ended(conn, None, error, self._was_closed, "close")
            return
        self._keepers.pop(conn, None)
        self._leaving.pop(conn, None)
        self._over[conn] = error
        if self._lost(conn):
            _log.warning("%s: a connection ended by itself: %s", self._label, error or "its task was cancelled")
        else:
            self._over.pop(conn, None)

    def _not_connected(self, conn: int, key: object, error: BaseException) -> None:
        self._strategies.pop(conn, None)
        if isinstance(error, asyncio.CancelledError):
            # Not the pool's own cancel (then the ledger has stopped listening): it is nobody's who waits.
            strange = CallCancelled(f"{self._label}: the connect was cancelled, and not by the pool")
            strange.__cause__ = error
            error = strange
        if self._connect_failed(conn, error):
            self._tell("connect_failed", key=key, error=error)

    # Check, reset, close

    def _start_check(self, conn: int, connection: Any) -> None:
        self._run_hook(conn, self._hook(conn, "check"), connection, self._checked, "check")

    def _start_reset(self, conn: int, connection: Any) -> None:
        self._run_hook(conn, self._hook(conn, "reset"), connection, self._was_reset, "reset")

    def _start_close(self, conn: int, connection: Any) -> None:
        leaving = self._leaving.pop(conn, None)
        if conn in self._over:
            self._hook_ended(conn, connection, self._over.pop(conn), self._was_closed, "close")
        elif leaving is None:
            self._run_hook(conn, self._hook(conn, "close"), connection, self._was_closed, "close")
        elif not leaving.done():
            leaving.set_result(None)

    def _hook(self, conn: int, what: str) -> Hook:
        strategy = self._strategies.get(conn)
        if strategy is not None and what == "close":
            hook: Hook = strategy.close_connection
            return hook
        if strategy is not None and what == "check":
            return open_by(strategy)
        return getattr(self._hooks, what) or _nothing

    def _run_hook(self, conn: int, hook: Hook, connection: Any, report: Callable[[int, bool], bool], what: str) -> None:
        try:
            result = self._context.copy().run(hook, connection)
        except BaseException as error:
            self._hook_ended(conn, connection, error, report, what)
            if not isinstance(error, Exception):
                raise
            return
        if not is_awaitable(result):
            self._hook_ended(conn, connection, result, report, what)
            return

        def never_ran(stopped: BaseException) -> None:
            if inspect.iscoroutine(result):
                result.close()
            self._hook_ended(conn, connection, stopped, report, what)

        self._spawn(conn, self._await_hook(conn, result, connection, report, what), what, never_ran)

    async def _await_hook(
        self, conn: int, hook: Awaitable[Any], connection: Any, report: Callable[[int, bool], bool], what: str
    ) -> None:
        result: object
        try:
            result = await hook
        except BaseException as error:
            self._job_ended(conn)
            self._hook_ended(conn, connection, error, report, what)
            if not isinstance(error, Exception):
                raise
            return
        self._job_ended(conn)
        self._hook_ended(conn, connection, result, report, what)

    def _hook_ended(
        self, conn: int, connection: Any, result: object, report: Callable[[int, bool], bool], what: str
    ) -> None:
        """A hook has returned something or raised it. False is how a check says no; a close has no say."""
        error = result if isinstance(result, BaseException) else None
        ok = error is None and (result is not False or what == "close")
        key = self._key(conn)
        if what == "close":
            self._strategies.pop(conn, None)
        if not report(conn, ok):
            return
        if not ok:
            kind: Any = f"{what}_failed"
            self._tell(kind, key=key, connection=connection, error=error)
            if what == "close" and connection is not None:
                self._cut(connection)  # whatever the close got done: it is not to stay open
        if what == "close":
            self._tell("closed", key=key, connection=connection)

    # Given up

    def _abandon(self, conn: int, phase: str, connection: Any) -> None:
        """The ledger has written a connection off: end what runs for it, cut it, and wait for neither."""
        key = self._key(conn)
        self._strategies.pop(conn, None)
        self._leaving.pop(conn, None)
        self._over.pop(conn, None)
        for tasks in (self._jobs, self._keepers):
            task = tasks.pop(conn, None)
            if task is not None and not task.done():
                self._strays.add(task)
                task.add_done_callback(self._strays.discard)
                task.cancel()
        if connection is not None:
            self._cut(connection)
        if phase == "use":
            _log.warning("%s: a connection was still in use when the time to close was over, and was cut", self._label)
        else:
            limit = "connect_timeout" if phase == "connect" else "hook_timeout"
            _log.warning("%s: a %s took longer than %s and was abandoned", self._label, phase, limit)
        self._tell("abandoned", key=key, connection=connection, phase=phase)

    def _cut(self, connection: Any) -> None:
        """Calls ``abort``. Nothing that it raises gets out."""
        try:
            result = self._context.copy().run(self._hooks.abort, connection)
            if is_awaitable(result):
                self._spawn(None, self._await_abort(result), "abort")
        except Exception as error:
            self._report(error, f"{self._label}: abort raised")

    async def _await_abort(self, aborting: Awaitable[Any]) -> None:
        try:
            async with timeout(self._hook_timeout):
                await aborting
        except Exception as error:
            self._report(error, f"{self._label}: abort raised")

    # Tasks

    def _spawn(
        self,
        conn: int | None,
        coroutine: Coroutine[Any, Any, None],
        what: str,
        never_ran: Callable[[BaseException], None] | None = None,
    ) -> None:
        """Makes a task of a hook. One that is cancelled before its first step reports nothing: ``never_ran`` does."""
        loop = self._loop or asyncio.get_running_loop()
        task = loop.create_task(coroutine, name=f"{self._label}: {what}", context=self._context.copy())
        if task.done():
            return  # an eager one
        if conn is None:
            self._strays.add(task)
            task.add_done_callback(self._strays.discard)
        elif self._keepers.get(conn) is not task:
            self._jobs[conn] = task

            def ended(_: asyncio.Task[None]) -> None:
                if self._jobs.get(conn) is task:
                    del self._jobs[conn]
                    if never_ran is not None:
                        never_ran(asyncio.CancelledError())

            task.add_done_callback(ended)

    def _job_ended(self, conn: int) -> None:
        """Called by the job itself, which may be finalised long after its loop has gone."""
        self._jobs.pop(conn, None)

    # What came back

    def _judge(self, connection: Any, error: BaseException) -> int:
        """In what condition a connection is whose block an exception has left."""
        is_clean = None if self._shared else self._hooks.is_clean
        try:
            if self._hooks.is_closed is not None and self._hooks.is_closed(connection):
                return BROKEN
            if interrupts(error):
                return DIRTY
            if is_clean is None:
                return DIRTY if was_raised_inside(error, connection) else CLEAN
            return CLEAN if is_clean(connection) else DIRTY
        except Exception as trouble:
            self._verdict_failed(trouble)
            return BROKEN

    def _verdict_failed(self, trouble: Exception) -> None:
        self._report(trouble, f"{self._label}: is_clean or is_closed raised, the connection is closed")

    # Errors and events

    def _timed_out(self, phase: str, waited: float) -> PoolTimeout:
        counts = self._counts()
        in_use, waiting = counts["in_use"], counts["waiting"]
        holders = [self._holder(held, site) for _, held, site in self._users() if site is not None]
        message = (
            f"{self._label}: no connection within {waited:.3g} s (it waited for a {_PHASES.get(phase, phase)}): "
            f"{in_use} of {self._max_size} in use, {waiting} more waiting; {_CURES.get(phase, _CURES['wait'])}"
        )
        if holders:
            message += "; in use by " + ", ".join(holders)
        error = PoolTimeout(message, phase, in_use, waiting, holders)
        self._tell("timeout", error=error, phase=phase, seconds=waited)
        return error

    def _is_closed_error(self) -> PoolClosed:
        error = PoolClosed(f"{self._label} is closed: make a new one, or close it later")
        self._tell("refused", error=error)
        return error

    def _is_full_error(self, waiting: int) -> PoolFull:
        error = PoolFull(
            f"{self._label}: {waiting} others wait for a connection already (max_waiting): "
            "shed the load, or raise max_size or max_waiting"
        )
        self._tell("refused", error=error)
        return error

    def _site(self) -> tuple[str, str, int, str]:
        """Who calls: task, file, line, function."""
        frame = sys._getframe(1)
        while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("loopwright."):
            frame = frame.f_back
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        name = "no task" if task is None else task.get_name()
        return name, frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname

    def _holder(self, held: float, site: tuple[str, str, int, str]) -> str:
        task, file, line, function = site
        return f"{task} for {held:.3g} s, acquired at {file}:{line} in {function}"

    def _leaked(self, connection: Any, held: float, site: tuple[str, str, int, str] | None) -> None:
        who = "somebody" if site is None else self._holder(held, site)
        _log.warning("%s: a connection is out for %.3g s: in use by %s", self._label, held, who)
        self._tell("leak", connection=connection, seconds=held)

    def _tell(self, kind: EventKind, **facts: Any) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(PoolEvent(kind, self._name or self._kind, **facts))
        except Exception as error:
            self._report(error, f"{self._label}: on_event raised")

    def _report(self, error: BaseException, message: str) -> None:
        loop = self._loop
        if loop is None or loop.is_closed():
            _log.error(message, exc_info=error)
        else:
            loop.call_exception_handler({"message": message, "exception": error})

    # The end

    def _drained(self) -> None:
        self._gone.set()

    def _be_here(self) -> None:
        """The connections of a closed loop are forgotten; those of another one cannot be closed from here."""
        loop = self._loop
        if loop is None or loop is asyncio.get_running_loop():
            return
        if loop.is_closed():
            self._loop_is_gone()
        elif self._counts()["opening"] or self._connections():
            raise LoopMismatch(f"{self._label} has connections of another event loop: close it there")

    async def _close(self, grace: float) -> None:
        self._be_here()
        self._drain()
        interrupted: asyncio.CancelledError | None = None
        if not self._gone.is_set():
            try:
                async with timeout(grace):
                    await self._gone.wait()
            except TimeoutError:
                pass
            except asyncio.CancelledError as error:
                interrupted = error
        if not self._gone.is_set():
            self._force()
        # hook_timeout bounds this: the ledger gives up what takes longer.
        with _shielded_from_anyio():
            while not self._gone.is_set():
                try:
                    await self._gone.wait()
                except asyncio.CancelledError as error:
                    interrupted = interrupted or error
        try:
            if interrupted is not None:
                raise interrupted
        finally:
            del interrupted

    async def _drain_out(self) -> None:
        self._be_here()
        self._drain()
        await self._gone.wait()

    def _loop_is_gone(self) -> None:
        """Its loop was closed under the connections: nothing can be awaited there any more."""
        closed = self._draining
        for connection in self._forget_all():
            self._cut_dead(connection)
        self._forget_tasks()
        if closed:
            self._gone.set()

    def _cut_dead(self, connection: Any) -> None:
        """Calls ``abort``, which may fail in any way: its loop is closed."""
        try:
            result = self._hooks.abort(connection)
            if asyncio.iscoroutine(result):
                result.close()
        except Exception as error:
            _log.debug("%s: abort after the end of the loop raised", self._label, exc_info=error)
        self._tell("abandoned", connection=connection, phase="use")

    def _forget_tasks(self) -> list[object]:
        """What was of a loop that is gone."""
        tasks: list[object] = [self._jobs, self._keepers, self._leaving, self._over, self._strategies, self._strays]
        self._jobs, self._keepers, self._leaving, self._over, self._strategies = {}, {}, {}, {}, {}
        self._strays = set()
        return tasks

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del error, traceback
        cancelled = kind is not None and issubclass(kind, asyncio.CancelledError)
        await self._close(0.0 if cancelled else 5.0)


_PHASES: Final = {"wait": "connection to come back", "connect": "connect", "check": "check", "reset": "reset"}


def _nothing(connection: Any) -> None:
    """The hook of a pool that has none."""


_pools: Final[weakref.WeakSet[Driver[Any]]] = weakref.WeakSet()


def left_open(loop: asyncio.AbstractEventLoop) -> list[Driver[Any]]:
    """The pools that have connections of this loop."""
    return [pool for pool in _pools if pool._loop is loop and pool._connections()]


_inherited: Final[list[object]] = []
"""In a child after a fork: its parent's connections. Kept for ever, so that nothing is ever written to their sockets,
not even by a finaliser."""


def _forget_parents() -> None:
    """In the child: no connection of the parent's is used, closed or dropped."""
    for pool in list(_pools):
        _inherited.append((pool._forget_all(), pool._forget_tasks()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)
