"""Cancellation: asking work to stop, and work that may not be stopped half-way."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from loopwright._arguments import Unstarted, coroutines, seconds
from loopwright._loopwright import CancelToken
from loopwright.errors import FinishTimeout

__all__ = ["CancelToken", "CancelTokenStats", "finish"]

_T = TypeVar("_T")
_log = logging.getLogger("loopwright")


@dataclass(frozen=True, slots=True)
class CancelTokenStats:
    """What a :class:`CancelToken` looks like at one moment."""

    cancelled: bool
    """Whether it is cancelled."""
    reason: str | None
    """What the cancel was told."""
    waiting: int
    """Who waits for this token itself: in line, or woken and not run yet."""
    children: int
    """Tokens made from this one that are still in use."""


def finish(coro: Coroutine[Any, Any, _T], *, timeout: float | None = None) -> Coroutine[Any, Any, _T]:
    """Runs a coroutine to its end, whatever cancels of its caller arrive meanwhile; then raises the first of them.

    For what must not stop half-way: a commit, a hand-over, a clean-up::

        await finish(session.commit())

    Args:
        coro: the coroutine. It becomes a task of its own, with a copy of the caller's context.
        timeout: seconds after which it is cancelled itself, 0 or more; None waits for it as long as it takes.

    Returns:
        Its result, if no cancel arrived.

    Raises:
        CancelledError: the caller was cancelled. It is the first of the errors that arrived, the very object, once the
            coroutine has ended; its result is dropped then, its error is logged, chained and noted on what is raised.
        FinishTimeout: the coroutine did not end within ``timeout`` and was cancelled.
        Exception: whatever the coroutine raises.

    Any number of cancels are only delayed, wherever they come from: a task's ``cancel()``, a timeout, a group that
    fails, an anyio scope. What still ends the coroutine early is a cancel of *all* tasks, at the end of
    :func:`asyncio.run` or in the last phase of :func:`loopwright.run`: then it is named in the log. One that was
    cancelled before it began is closed.
    """
    if timeout is not None:
        timeout = seconds(timeout, "finish(timeout=...)")
    return _finish(coroutines((coro,), "finish()"), timeout)


if sys.version_info >= (3, 12):
    inspect.markcoroutinefunction(finish)

_finishing: set[asyncio.Task[Any]] = set()
"""The tasks of every ``finish`` that has not ended: they live on even if their callers are thrown away."""


async def _finish(unstarted: Unstarted, limit: float | None) -> Any:
    (coro,) = unstarted.take()
    name = getattr(coro, "__qualname__", None) or repr(coro)
    loop = asyncio.get_running_loop()
    task = loop.create_task(coro, name=f"finish({name})")
    _finishing.add(task)
    task.add_done_callback(_finishing.discard)
    timed_out: list[bool] = []
    timer = None if limit is None or task.done() else loop.call_later(limit, _give_up, task, name, limit, timed_out)
    first: asyncio.CancelledError | None = None
    try:
        if not task.done():
            first = await _outlast(task)
        if first is not None:
            with _shielded_from_anyio():
                while not task.done():
                    await _outlast(task)
        if timer is not None:
            timer.cancel()
        if task.cancelled() and task.cancelling() and not timed_out:
            _log.error("finish(%s) was cut short: its task was cancelled from outside, with all others", name)
        if first is not None:
            _leave_word(first, task, name, limit if timed_out else None)
            raise first
        if timed_out and task.cancelled():
            raise FinishTimeout(f"finish({name}) did not end within timeout={limit} s and was cancelled")
        return task.result()
    finally:
        # A traceback refers to this frame: without this an error and its task would live until a garbage collection.
        del first, task, coro


def _give_up(task: asyncio.Task[Any], name: str, limit: float, timed_out: list[bool]) -> None:
    if task.cancel(f"finish({name}) reached its timeout of {limit} s"):
        timed_out.append(True)


async def _outlast(task: asyncio.Task[Any]) -> asyncio.CancelledError | None:
    """Waits for a task, or for a cancel of its own."""
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError as error:
        return error
    return None


def _shielded_from_anyio() -> contextlib.AbstractContextManager[object]:
    """anyio cancels again in every turn of the loop, as long as anybody waits in a cancelled scope: not in a shield."""
    anyio = sys.modules.get("anyio")
    scope = getattr(anyio, "CancelScope", None)
    return contextlib.nullcontext() if scope is None else scope(shield=True)


def _leave_word(first: asyncio.CancelledError, task: asyncio.Task[Any], name: str, limit: float | None) -> None:
    """What became of the coroutine, on the cancel that is raised in its place."""
    if task.cancelled():
        if limit is not None:
            first.add_note(f"finish({name}) did not end within timeout={limit} s and was cancelled")
        return
    error = task.exception()
    if error is None:
        return
    _log.error("finish(%s) failed after its caller was cancelled", name, exc_info=error)
    first.add_note(f"finish({name}) failed meanwhile: {type(error).__name__}: {error}")
    if first.__cause__ is None:
        first.__cause__ = error
