"""The hooks of a pool, in whatever form they come: functions, plain or async, context managers, strategies.

Lives here: what each form means, and the verdict on a connection that comes back. Does not live here: when a hook runs
(the ledger, ``crates/core/src/pool``) and in which task (:mod:`loopwright.pools`).
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Protocol, TypeVar, runtime_checkable

__all__ = [
    "BROKEN",
    "CLEAN",
    "DIRTY",
    "ConnectionStrategy",
    "Hooks",
    "interrupts",
    "is_awaitable",
    "is_strategy",
    "open_by",
    "opener",
    "was_raised_inside",
]

C = TypeVar("C")

CLEAN, DIRTY, BROKEN = 0, 1, 2
"""In what condition a connection comes back."""


@runtime_checkable
class ConnectionStrategy(Protocol[C]):
    """The three methods of asyncio-connection-pool's strategies: a pool takes such an object in place of ``connect``.

    ``make_connection`` may be called ``create_connection``; ``connection_is_closed`` may be ``async``.
    """

    async def make_connection(self) -> C:
        """Opens a connection."""
        ...

    def connection_is_closed(self, conn: C, /) -> bool:
        """Whether it is of no use any more."""
        ...

    async def close_connection(self, conn: C, /) -> None:
        """Closes it."""
        ...


Hook = Callable[[Any], Any]

HOOKS = ("close", "abort", "check", "reset", "is_clean", "is_closed")
"""All but ``connect``, by the names of their arguments."""


@dataclass(slots=True)
class Hooks:
    """What a pool calls. A hook that returns an awaitable is awaited; any other has done its work when it returns."""

    connect: Callable[..., Any]
    close: Hook
    abort: Hook
    check: Hook | None
    reset: Hook | None
    is_clean: Callable[[Any], object] | None
    is_closed: Callable[[Any], object] | None
    """Asked at each hand-out, and at a release without ``is_clean``."""

    @classmethod
    def of(cls, what: str, connect: Any, given: dict[str, Any]) -> Hooks:
        """Reads the arguments of a pool called ``what``."""
        for name, hook in given.items():
            if hook is not None and not callable(hook):
                raise TypeError(f"{what}({name}=...) must be a function of the connection, got {hook!r}")
        close, abort, check, reset, is_clean, is_closed = (given[hook] for hook in HOOKS)
        for name in ("is_clean", "is_closed"):
            if inspect.iscoroutinefunction(given[name]):
                raise TypeError(
                    f"{what}({name}=...) must be a plain function: it is called at every "
                    f"{'release' if name == 'is_clean' else 'hand-out'}; what has to be awaited is a check or a reset. "
                    f"Got {given[name]!r}"
                )
        if is_strategy(connect):
            close = close or connect.close_connection
            if inspect.iscoroutinefunction(connect.connection_is_closed):
                check = check or open_by(connect)
            else:
                is_closed = is_closed or connect.connection_is_closed
            connect = opener(connect)
        elif not callable(connect):
            raise TypeError(
                f"{what}(connect=...) must be a function that opens a connection, an async context manager factory, or "
                f"a ConnectionStrategy, got {connect!r}"
            )
        return cls(connect, close or close_it, abort or cut_it, check, reset, is_clean, is_closed)


def is_strategy(given: Any) -> bool:
    """Whether it has a strategy's methods, and is not the class: that one is called, with the key."""
    return (
        not isinstance(given, type) and callable(getattr(given, "close_connection", None)) and opener(given) is not None
    )


def opener(strategy: Any) -> Any:
    """The strategy's method that opens a connection."""
    return getattr(strategy, "make_connection", None) or getattr(strategy, "create_connection", None)


def open_by(strategy: Any) -> Hook:
    """The check that a strategy's ``connection_is_closed`` comes to."""
    is_closed = strategy.connection_is_closed
    if not inspect.iscoroutinefunction(is_closed):
        return lambda connection: not is_closed(connection)

    async def is_open(connection: Any) -> bool:
        return not await is_closed(connection)

    return is_open


def is_awaitable(result: Any) -> bool:
    """Whether a hook's result has to be awaited."""
    return isinstance(result, Awaitable) or inspect.isawaitable(result)


def close_it(connection: Any) -> Any:
    """The default ``close``: the connection's own ``aclose()`` or ``close()``, and ``wait_closed()`` after that."""
    close = getattr(connection, "aclose", None) or getattr(connection, "close", None)
    if close is None:
        return None
    result = close()
    if is_awaitable(result):
        return result
    wait_closed = getattr(connection, "wait_closed", None)
    return None if wait_closed is None else wait_closed()


def cut_it(connection: Any) -> Any:
    """The default ``abort``: the connection's own ``abort()`` or ``terminate()``, or its transport's ``abort()``."""
    abort = getattr(connection, "abort", None) or getattr(connection, "terminate", None)
    if abort is None:
        abort = getattr(getattr(connection, "transport", None), "abort", None)
    return None if abort is None else abort()


def interrupts(error: BaseException) -> bool:
    """Whether an exception that leaves a block may have cut an operation of its connection short."""
    if isinstance(error, BaseExceptionGroup):
        return any(interrupts(part) for part in error.exceptions)
    return not isinstance(error, Exception) or isinstance(error, (TimeoutError, asyncio.CancelledError))


def was_raised_inside(error: BaseException, connection: Any) -> bool:
    """Whether an exception was raised within a call of the connection's driver, by what its traceback shows.

    That is a frame whose first argument is the connection, or one of the package that the connection's class is from
    (unless the block is of that package too).
    """
    driver = _package(type(connection).__module__)
    frames = _frames(error.__traceback__)
    caller = next(frames, None)
    if caller is None:
        return False
    own = _package(caller.f_globals.get("__name__")) == driver or driver in ("builtins", "__main__")
    return any(
        _first_argument(frame) is connection or (not own and _package(frame.f_globals.get("__name__")) == driver)
        for frame in frames
    )


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _package(module: object) -> str:
    return str(module).partition(".")[0]


def _first_argument(frame: FrameType) -> object:
    code = frame.f_code
    return frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
