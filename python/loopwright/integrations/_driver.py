"""What the integrations share: a driver imported late, the options of a pool, small steps around a connect."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, Literal, TypedDict, TypeVar

from loopwright.pools import PoolEvent

C = TypeVar("C")


class KeyedPoolOptions(TypedDict, Generic[C], total=False):
    """What a ready function hands on to :class:`loopwright.KeyedPool`; a hook given here replaces the driver's."""

    close: Callable[[C], object] | None
    abort: Callable[[C], object] | None
    check: Callable[[C], object] | None
    is_closed: Callable[[C], object] | None
    is_clean: Callable[[C], object] | None
    reset: Callable[[C], object] | None
    check_after: float
    hook_timeout: float
    connect_timeout: float | None
    burst: int
    burst_linger: float
    timeout: float
    max_waiting: int | None
    max_idle: float
    max_lifetime: float
    jitter: float
    order: Literal["lifo", "fifo"]
    leak_after: float | None
    on_event: Callable[[PoolEvent], object] | None
    name: str | None


class PoolOptions(KeyedPoolOptions[C], total=False):
    """What a ready function hands on to :class:`loopwright.Pool`."""

    min_size: int


def load(module: str, *, extra: str) -> Any:
    """The driver, imported; an ``ImportError`` that says how to install it where it is missing."""
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise  # the driver is there, something it needs is not
        raise ImportError(
            f"loopwright.integrations.{extra} needs {package}: pip install loopwright[{extra}]", name=package
        ) from error
    return importlib.import_module(module)


async def connected(connection: C, setup: Callable[[C], Awaitable[object]] | None, abort: Callable[[C], object]) -> C:
    """The new connection after its ``setup``; one whose setup fails or is cancelled is aborted, never left open."""
    if setup is not None:
        try:
            await setup(connection)
        except BaseException:
            abort(connection)
            raise
    return connection


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that is known not to wait; ``RuntimeError`` if it does, after closing it."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise RuntimeError(f"{coroutine!r} waits; this version of the driver is not known to loopwright")
