"""Calls on an executor: what ``amap(..., on=executor)`` does for each item.

Any :class:`concurrent.futures.Executor` is taken. What an engine calls the loss of a worker, and how its own
resubmission is switched off, is its adapter's, in ``integrations``: Dask's executor is recognised, any other brings its
own with a method ``loopwright_adapter(idempotent)``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from loopwright.errors import WorkerLost

__all__ = ["Adapter", "adapt", "calls"]

T = TypeVar("T")
R = TypeVar("R")

ATTEMPTS = 4
"""How often a call is sent that may run twice: an item that kills each worker it meets must not kill them all."""


class Adapter(Protocol):
    """What an engine is to ``amap``."""

    def prepare(self) -> None:
        """Called once, in a thread, before the first call."""

    def submit(self, fn: Callable[[Any], Any], item: Any, /) -> concurrent.futures.Future[Any]:
        """Sends one call; must not block."""

    def is_lost(self, error: BaseException, /) -> bool:
        """Whether this error of a call means that its worker is gone."""

    def takes_more(self) -> bool:
        """Whether calls can be sent after a loss."""


class _Plain:
    """Threads, processes and interpreters of this machine, and whatever else is an executor."""

    def __init__(self, executor: concurrent.futures.Executor) -> None:
        self._executor = executor
        self._in_threads = isinstance(executor, concurrent.futures.ThreadPoolExecutor)
        self._broken = False

    def prepare(self) -> None:
        pass

    def submit(self, fn: Callable[[Any], Any], item: Any, /) -> concurrent.futures.Future[Any]:
        if self._in_threads:  # where context variables can go
            return self._executor.submit(contextvars.copy_context().run, fn, item)
        return self._executor.submit(fn, item)

    def is_lost(self, error: BaseException, /) -> bool:
        lost = isinstance(error, concurrent.futures.BrokenExecutor)
        self._broken = self._broken or lost
        return lost

    def takes_more(self) -> bool:
        return not self._broken


def adapt(executor: concurrent.futures.Executor, idempotent: bool) -> Adapter:
    """The adapter of an executor."""
    own = getattr(executor, "loopwright_adapter", None)
    if own is not None:
        made: Adapter = own(idempotent)
        return made
    if any(base.__module__ == "distributed.cfexecutor" for base in type(executor).__mro__):
        from loopwright.integrations import dask  # noqa: PLC0415 (only where Dask is in use)

        return dask.adapter(executor, idempotent)
    return _Plain(executor)


def calls(adapter: Adapter, fn: Callable[[T], R], idempotent: bool, name: str) -> Callable[[T], Coroutine[Any, Any, R]]:
    """The coroutine function that makes one call there."""

    async def call(item: T) -> R:
        attempt = 0
        while True:
            attempt += 1
            try:
                return await _outcome(adapter.submit(fn, item))
            except Exception as error:
                # The engine's own cancel of a call that we did not cancel: its state is gone with its worker.
                lost = isinstance(error, concurrent.futures.CancelledError) or adapter.is_lost(error)
                if not lost:
                    raise
                if idempotent and attempt < ATTEMPTS and adapter.takes_more():
                    continue
                raise WorkerLost(_why(name, attempt, idempotent, adapter.takes_more()), attempt) from error

    return call


def _why(name: str, attempts: int, idempotent: bool, takes_more: bool) -> str:
    if not takes_more:
        return (
            f"{name}: the executor lost a worker and is broken, so that it takes no more calls: give each item to a "
            "process of its own with offload, or use a cluster's executor"
        )
    if not idempotent:
        return (
            f"{name}: the worker of this item was lost; the call may have run. Pass idempotent=True if it may run twice"
        )
    return f"{name}: this item lost its worker {attempts} times in a row; it may be what kills them"


async def _outcome(future: concurrent.futures.Future[R]) -> R:
    """Its result; a cancel is passed on to it, and not waited for."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def tell(_: concurrent.futures.Future[R]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed under it
            loop.call_soon_threadsafe(_wake, done)

    future.add_done_callback(tell)
    try:
        await done
    except asyncio.CancelledError:
        future.cancel()
        raise
    try:
        return future.result()
    finally:
        del future  # its exception refers to this frame


def _wake(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
