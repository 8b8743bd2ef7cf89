"""Resources: what is opened when it is first asked for, shared, and closed in reverse order.

Each resource has a *keeper*: one task that opens it, holds it open and closes it, so that what is entered in a task is
left in the same one, in a context of its own. Here is what the keepers do, who
waits for them, and the order of the end.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any, Final, Literal, NoReturn, Self, TypeVar, overload

from loopwright._arguments import seconds
from loopwright._loopwright import Event
from loopwright.cancellation import finish
from loopwright.errors import CallCancelled, CloseError, CloseTimeout, LoopMismatch, ResourceCycle, ResourcesClosed

__all__ = ["Resources", "ResourcesStats"]

_T = TypeVar("_T")
_D = TypeVar("_D")
_log = logging.getLogger("loopwright")

_State = Literal["opening", "open", "failed", "closing", "closed"]
"""``closing``: nobody else gets it, whether or not its turn to be closed has come."""

_opener: Final[contextvars.ContextVar[_Resource | None]] = contextvars.ContextVar("loopwright_opener", default=None)
"""Whose factory it is that runs: what that one asks for, it depends on."""


@dataclass(frozen=True, slots=True)
class ResourcesStats:
    """What a :class:`Resources` looks like at one moment."""

    open: int
    """Resources that can be had without waiting."""
    opening: int
    """Resources whose factory runs."""
    closing: int
    """Resources that are being closed."""
    opened: int
    """Resources opened so far."""
    failed: int
    """Factories that failed."""
    close_failures: int
    """Resources whose closing failed or had to be given up."""
    closed: bool
    """Whether ``aclose`` was called."""


class _Resource:
    """One resource, from the first who asks for it until its keeper has ended."""

    def __init__(self, key: Hashable, context: contextvars.Context) -> None:
        self.key = key
        self.context = context
        self.state: _State = "opening"
        self.task: asyncio.Task[None] | None = None
        self.value: Any = None
        self.error: BaseException | None = None
        """Why it could not be opened, and the traceback of that."""
        self.traceback: TracebackType | None = None
        self.is_kept = True
        """Its keeper has something to close in the end, and lives until then."""
        self.opened = Event()
        """The factory has ended, in whatever way."""
        self.end = Event()
        """It shall be closed, now."""
        self.closed = Event()
        """Its keeper has ended or was given up, and it is forgotten."""
        self.needs: dict[_Resource, None] = {}
        self.dependents: dict[_Resource, None] = {}

    def path_to(self, other: _Resource) -> list[_Resource] | None:
        """From one that is being opened to another one that it waits for."""
        if self is other:
            return [self]
        for need in self.needs:
            if need.state == "opening" and (path := need.path_to(other)) is not None:
                return [self, *path]
        return None

    def is_there_for(self, asker: _Resource | None) -> bool:
        """Whether it is open; one that is about to be closed is so for what depends on it and is closed before it."""
        if self.state == "closing":
            return asker is not None and self in asker.needs and not self.end.is_set()
        return self.state == "open"


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to close, what depends on something before it."""

    opening: list[_Resource]
    open: list[_Resource]
    theirs: list[_Resource]
    """Those that somebody else closes already."""


class Resources:
    """What is opened when it is first asked for, shared by all who ask, and closed in reverse order.

    For what lives as long as a service or a request does: a client, a database, what is built on them::

        async with Resources() as resources:
            http = await resources.get("http", httpx.AsyncClient)
            repo = await resources.get("repo", open_repo, resources)   # asks for "db" itself: closed before it

    - *One is opened however many ask.* The factory runs in a task and a context of the Resources' own, not in that of
      whoever asked first: cancelling one of those who wait never fails the others, and no trace or context variable of
      a request ends up in what outlives it. What nobody waits for any more is opened all the same, and kept.
    - *A factory that fails raises its own error, to all who wait*, and is tried again by the next who asks.
    - *What a factory asks for, it depends on.* Dependencies are closed after what depends on them; everything else in
      reverse order of its opening. A cycle is an error that names it, not a deadlock.
    - *Everything is closed*, whatever fails, hangs or is cancelled meanwhile.

    What a factory gives is

    - an asynchronous context manager: entered, and left in the end, in one and the same task;
    - else a context manager without a ``close()``: entered and left likewise;
    - else, if it can be awaited (an ``async def`` factory), awaited. What comes out is taken as it is, and not entered;
    - else taken as it is.

    What is taken as it is is closed by its ``aclose()`` or else its ``close()``, awaited if they give something to be
    awaited, and followed by ``wait_closed()`` if there is one. What has none of these is only let go. A lock, which is
    anything with ``acquire`` and ``release`` and nothing to close it, is never entered.

    Args:
        close_timeout: seconds that the closing of one resource may take, more than 0. Then it is cancelled and has as
            long again to end, and is given up after that; the next one is closed all the same.

    Raises:
        ValueError, TypeError: ``close_timeout`` makes no sense.

    One object serves one event loop at a time: it belongs to a loop while it has resources. Not thread-safe.
    """

    def __init__(self, *, close_timeout: float = 10.0) -> None:
        self._close_timeout = seconds(close_timeout, "Resources(close_timeout=...)", positive=True)
        self._context = contextvars.copy_context()
        self._resources: dict[Hashable, _Resource] = {}
        """All that are not closed yet, in the order in which they were asked for."""
        self._order: dict[_Resource, None] = {}
        """Those that are open, in the order in which they were opened."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._closing: asyncio.Task[None] | None = None
        self._opened = self._failed = self._close_failures = 0

    @overload
    async def get(
        self, key: Hashable, factory: Callable[..., AbstractAsyncContextManager[_T, Any]], /, *args: Any
    ) -> _T: ...
    @overload
    async def get(self, key: Hashable, factory: Callable[..., Awaitable[_T]], /, *args: Any) -> _T: ...
    @overload
    async def get(
        self, key: Hashable, factory: Callable[..., AbstractContextManager[_T, Any]], /, *args: Any
    ) -> _T: ...
    @overload
    async def get(self, key: Hashable, factory: Callable[..., _T], /, *args: Any) -> _T: ...
    async def get(self, key: Hashable, factory: Callable[..., Any], /, *args: Any) -> Any:
        """The resource of a key: opened by ``factory(*args)`` if it is not there yet.

        Args:
            key: anything hashable.
            factory: see :class:`Resources`. If the key is there already, or on its way, it is not called.
            args: what the factory is called with.

        Returns:
            What its ``async with`` or ``with`` binds, or the object itself.

        Raises:
            CancelledError: the wait was cancelled; the resource is opened all the same.
            Exception: whatever the factory raises, to each who waits for it.
            ResourceCycle: the factory of this key waits, perhaps over others, for the one that asks here.
            ResourcesClosed: ``aclose`` was called.
            LoopMismatch: resources of another event loop are open.
        """
        if not callable(factory):
            if asyncio.iscoroutine(factory):
                factory.close()
            raise TypeError(f"Resources.get takes a function and its arguments, got {factory!r}: pass the function")
        asker = _opener.get()
        while True:
            resource = self._resources.get(key)
            if resource is not None and resource.is_there_for(asker):
                self._check_loop()
                break
            self._admit()
            is_new = resource is None
            if resource is None:
                resource = self._resources[key] = _Resource(key, self._context.copy())
            if resource.state == "opening":
                _depend(asker, resource)
            if is_new:
                self._start(resource, factory, args)
            await resource.opened.wait()
            if resource.state == "failed":
                _raise(resource)
            if resource.state == "open":
                break
            await resource.closed.wait()
        _depend(asker, resource)
        return resource.value

    @overload
    def peek(self, key: Hashable) -> Any | None: ...
    @overload
    def peek(self, key: Hashable, default: _D) -> Any | _D: ...
    def peek(self, key: Hashable, default: Any = None) -> Any:
        """The resource of a key if it is open, else ``default``: :meth:`get` that neither waits nor opens."""
        resource = self._resources.get(key)
        return resource.value if resource is not None and resource.state == "open" else default

    def __contains__(self, key: object) -> bool:
        """Whether the resource of a key is open."""
        resource = self._resources.get(key)
        return resource is not None and resource.state == "open"

    def __len__(self) -> int:
        return len(self._order)

    async def discard(self, key: Hashable) -> bool:
        """Closes one resource, and before it what depends on it. The next who asks for one of them has it opened anew.

        One that is being opened is not waited for: its factory is cancelled, and those who wait have it opened anew.

        Returns:
            Whether it was there.

        Raises:
            CloseError: something could not be closed, or not in time.
            CancelledError: the call was cancelled; everything is closed all the same, first.
        """
        resource = self._resources.get(key)
        if resource is None:
            return False
        self._check_loop()
        self._check_caller("discard")
        await finish(self._close(self._begin_to_close([resource])))
        return True

    async def aclose(self) -> None:
        """Closes everything: what is being opened is cancelled, what is open is closed in reverse order.

        An error, or a resource that does not close in time, keeps none of the others from being closed. Whoever waits
        for a resource gets :class:`ResourcesClosed`. Calling it again waits for the same closing.

        Raises:
            CloseError: an exception group: what could not be closed, or not in time, in the order of the closing.
            CancelledError: the call was cancelled; everything is closed all the same, first. That takes no longer than
                twice ``close_timeout`` for each resource.
        """
        if self._resources:
            self._check_loop()
        self._check_caller("aclose")
        if not self._is_closed:
            self._is_closed = True
            if self._resources:
                opening = [resource for resource in self._resources.values() if resource not in self._order]
                plan = self._begin_to_close([*opening, *reversed(self._order)])
                loop = asyncio.get_running_loop()
                self._closing = loop.create_task(self._close(plan), name="Resources.aclose")
        if self._closing is not None:
            await finish(_result(self._closing))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes everything. An error of the block goes before those of the closing, which are logged then."""
        del kind, traceback
        try:
            await self.aclose()
        except CloseError as trouble:
            if error is None:
                raise
            _log.error("%s", trouble.message, exc_info=trouble)
            error.add_note(f"{trouble.message}: {', '.join(repr(each) for each in trouble.exceptions)}")

    def stats(self) -> ResourcesStats:
        """A frozen :class:`ResourcesStats` of this moment."""
        states = [resource.state for resource in self._resources.values()]
        return ResourcesStats(
            open=states.count("open"),
            opening=states.count("opening"),
            closing=states.count("closing"),
            opened=self._opened,
            failed=self._failed,
            close_failures=self._close_failures,
            closed=self._is_closed,
        )

    def __repr__(self) -> str:
        stats = self.stats()
        counts = [(name, getattr(stats, name)) for name in ("open", "opening", "closing")]
        shown = "".join(f" {name}={n}" for name, n in counts if n or name == "open")
        return f"<Resources{shown}{' closed' if stats.closed else ''}>"

    # Who may ask

    def _admit(self) -> None:
        """Something is to be opened, or waited for."""
        if self._is_closed:
            raise ResourcesClosed("Resources: it was closed, and opens nothing more: make a new one")
        self._check_loop()

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._resources and self._loop is not None:
            if not self._loop.is_closed():
                raise LoopMismatch(
                    f"Resources is bound to a different event loop: {len(self._resources)} resource(s) of that loop "
                    "are open; use one object per loop, or close this one first"
                )
            keys = ", ".join(repr(key) for key in self._resources)
            _log.warning("Resources: their event loop was closed before them, they are lost: %s", keys)
            self._resources.clear()
            self._order.clear()
            self._closing = None
        self._loop = loop

    def _check_caller(self, what: str) -> None:
        caller = _opener.get()
        if caller is not None and caller.state in ("opening", "closing") and self._resources.get(caller.key) is caller:
            raise RuntimeError(
                f"Resources.{what} was called while {caller.key!r} is {caller.state}, by its own code: it would wait "
                "for itself; call it from outside"
            )

    # Keepers

    def _start(self, resource: _Resource, factory: Callable[..., Any], args: tuple[Any, ...]) -> None:
        resource.context.run(_opener.set, resource)
        keeper = self._keep(resource, factory, args)
        loop = asyncio.get_running_loop()
        resource.task = loop.create_task(keeper, name=f"Resources[{resource.key!r}]", context=resource.context)
        resource.task.add_done_callback(lambda _: self._ended(resource))

    async def _keep(self, resource: _Resource, factory: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """The life of one resource."""
        given = factory(*args)
        kind = type(given)
        closer = _closer(given)
        is_lock = closer is None and hasattr(given, "acquire") and hasattr(given, "release")
        if hasattr(kind, "__aenter__") and hasattr(kind, "__aexit__") and not is_lock:
            async with given as value:
                self._is_open(resource, value)
                await resource.end.wait()
            return
        if hasattr(kind, "__enter__") and hasattr(kind, "__exit__") and not is_lock and closer is None:
            with given as value:
                self._is_open(resource, value)
                await resource.end.wait()
            return
        value = given
        if inspect.isawaitable(given):
            value = await given
            closer = _closer(value)
        del given
        resource.is_kept = closer is not None
        self._is_open(resource, value)
        if closer is not None:
            try:
                await resource.end.wait()
            finally:
                await _call(value, closer)

    def _is_open(self, resource: _Resource, value: Any) -> None:
        self._opened += 1
        resource.value = value
        if resource.end.is_set():
            resource.state = "closing"  # its factory was cancelled, and succeeded none the less
        else:
            resource.state = "open"
            self._order[resource] = None
        resource.opened.set()

    def _ended(self, resource: _Resource) -> None:
        """A keeper has ended. Called by its task, or by who waited for that, whichever comes first."""
        task = resource.task
        assert task is not None
        if resource.closed.is_set() or not task.done() or not resource.is_kept:
            return
        error = None if task.cancelled() else task.exception()
        if resource.state == "open":
            _log.error(
                "Resources: the task that held %r open was cancelled by somebody else, and so it is closed; it will be "
                "opened anew for the next who asks",
                resource.key,
                exc_info=error,
            )
        elif resource.state == "opening" and (error is not None or not resource.end.is_set()):
            if error is None:
                error = CallCancelled(
                    f"Resources: the factory of {resource.key!r} raised CancelledError although nobody who asks for it "
                    "was cancelled: what it waits for was"
                )
            self._failed += 1
            if resource.opened.waiting == 0:
                _log.error(
                    "Resources: %r could not be opened, and nobody waits for it any more", resource.key, exc_info=error
                )
            resource.error, resource.traceback = error, error.__traceback__
            self._forget(resource, "failed")
            return
        self._forget(resource, "closed")

    def _forget(self, resource: _Resource, state: Literal["failed", "closed"]) -> None:
        resource.state = state
        resource.value = None
        self._order.pop(resource, None)
        if self._resources.get(resource.key) is resource:
            del self._resources[resource.key]
        for need in resource.needs:
            need.dependents.pop(resource, None)
        resource.needs.clear()
        resource.opened.set()
        resource.closed.set()

    # The end

    def _begin_to_close(self, resources: list[_Resource]) -> _Plan:
        """From here on nobody else gets these, nor what depends on them; what is being opened is cancelled."""
        resources = _dependents_first(resources)
        plan = _Plan(
            opening=[resource for resource in resources if resource.state == "opening" and not resource.end.is_set()],
            open=[resource for resource in resources if resource.state == "open"],
            theirs=[resource for resource in resources if resource.end.is_set() or resource.state == "closing"],
        )
        for resource in plan.opening:
            resource.end.set()
            if resource.task is not None:
                resource.task.cancel()
        for resource in plan.open:
            resource.state = "closing"
            del self._order[resource]
        return plan

    async def _close(self, plan: _Plan) -> None:
        errors: list[Exception] = []
        await self._see_off(plan.opening, errors, opening=True)  # they depend on what is open
        for resource in plan.open:
            resource.end.set()
            await self._see_off([resource], errors)
        for resource in plan.theirs:
            await resource.closed.wait()
        if errors:
            self._close_failures += len(errors)
            total = len(plan.opening) + len(plan.open)
            raise CloseError(f"Resources: {len(errors)} of {total} could not be closed properly", errors)

    async def _see_off(self, resources: list[_Resource], errors: list[Exception], *, opening: bool = False) -> None:
        """Waits until they have ended, or gives them up."""
        late = await self._outlast([resource.task for resource in resources if resource.task is not None])
        for resource in resources:
            task = resource.task
            assert task is not None
            error = task.exception() if task.done() and not task.cancelled() else None
            self._ended(resource)
            if task in late:
                timeout = self._timed_out(resource)
                timeout.__cause__ = error
                errors.append(timeout)
            elif resource.state == "failed":
                pass  # who waits for it was told, or else the log
            elif isinstance(error, Exception):
                error.add_note(f"raised when the resource {resource.key!r} was closed")
                errors.append(error)
            elif task.cancelled() and not opening:
                errors.append(
                    CallCancelled(f"Resources: the closing of {resource.key!r} was cancelled by somebody else")
                )
            if not resource.closed.is_set():  # there was nothing to end, or it does not
                self._forget(resource, "closed")

    async def _outlast(self, tasks: list[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
        """Waits for them, then cancels them and waits as long again. Gives those that had to be cancelled."""
        running = [task for task in tasks if not task.done()]
        if not running:
            return set()
        _, late = await asyncio.wait(running, timeout=self._close_timeout)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=self._close_timeout)
        return late

    def _timed_out(self, resource: _Resource) -> CloseTimeout:
        ended = resource.task is not None and resource.task.done()
        outcome = "was cancelled" if ended else "was cancelled, has not ended, and is given up"
        if not ended:
            _log.error(
                "Resources: %r does not end, not even cancelled, and is given up: %r", resource.key, resource.task
            )
        return CloseTimeout(
            f"Resources: {resource.key!r} did not close within close_timeout={self._close_timeout} s and {outcome}; "
            "raise close_timeout, or look at what its closing waits for"
        )


def _depend(asker: _Resource | None, resource: _Resource) -> None:
    """If it is a factory that asks, its resource depends on this one."""
    if asker is None or asker.state != "opening":
        return
    if resource.state == "opening" and (path := resource.path_to(asker)) is not None:
        names = " -> ".join(repr(each.key) for each in [asker, *path])
        raise ResourceCycle(
            f"Resources: a cycle, {names}: each waits for the next one to be opened; let one of them ask later, when "
            "it uses the other"
        )
    asker.needs[resource] = None
    resource.dependents[asker] = None


def _dependents_first(resources: list[_Resource]) -> list[_Resource]:
    """These and all that depends on them, each behind what depends on it, otherwise in their order."""
    ordered: dict[_Resource, None] = {}

    def visit(resource: _Resource) -> None:
        if resource not in ordered:
            for dependent in reversed(resource.dependents):
                visit(dependent)
            ordered[resource] = None

    for resource in resources:
        visit(resource)
    return list(ordered)


def _raise(resource: _Resource) -> NoReturn:
    error = resource.error
    assert error is not None
    try:
        # The traceback of the factory, without those of all who were told before.
        raise error.with_traceback(resource.traceback)
    finally:
        del error


async def _result(task: asyncio.Task[_T]) -> _T:
    await asyncio.wait([task])
    return task.result()


def _closer(value: object) -> str | None:
    """The name of the method that closes it."""
    if isinstance(value, (type, ModuleType)):
        return None
    return next((name for name in ("aclose", "close") if callable(getattr(value, name, None))), None)


async def _call(value: Any, closer: str) -> None:
    result = getattr(value, closer)()
    if inspect.isawaitable(result):
        await result
    elif inspect.iscoroutinefunction(wait_closed := getattr(value, "wait_closed", None)):
        await wait_closed()
