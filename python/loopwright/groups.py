"""Groups: tasks that end before their parent goes on."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from loopwright._arguments import Unstarted, coroutines
from loopwright._loopwright import TaskGroup, _race_group

__all__ = ["TaskGroup", "TaskGroupStats", "race"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TaskGroupStats:
    """What a :class:`TaskGroup` looks like at one moment."""

    alive: int
    """Tasks that have not ended."""
    limit: int | None
    """The most tasks alive at a time; None for no limit."""
    waiting: int
    """``spawn`` calls that wait for a slot."""
    started: int
    """Tasks started so far."""
    failed: int
    """Tasks that ended with an error."""
    cancelled: int
    """Tasks that ended cancelled."""
    state: Literal["new", "entered", "exiting", "cancelling", "over"]
    """``exiting``: the block's body has ended, its tasks have not. ``cancelling``: they have been told to."""


def race(*coros: Coroutine[Any, Any, _T]) -> Coroutine[Any, Any, _T]:
    """Runs coroutines against each other: the first that succeeds wins, the others are cancelled and awaited.

    Args:
        *coros: the coroutines, each of which becomes a task. At least one.

    Returns:
        The winner's result, once every loser has ended too: what they hold is free again.

    Raises:
        ExceptionGroup: all of them failed; it holds the errors in the order in which they came.
        CancelledError: the caller was cancelled. The coroutines have been cancelled and have ended; a result that was
            there already is dropped, no cancel is ever swallowed.
        ValueError: there are no coroutines.
        TypeError: one of the arguments is not a coroutine; the others are closed.

    A loser's own error is dropped, it lost. The error of a loser that fails *because* it was cancelled goes to the
    loop's exception handler. ``KeyboardInterrupt`` and ``SystemExit`` end the race at once and are raised as they are.
    Coroutines that were never started, because the race itself was cancelled before it began, are closed.
    """
    unstarted = coroutines(coros, "race()")
    if not coros:
        raise ValueError("race() needs at least one coroutine: nobody can win an empty race")
    return _race(unstarted)


async def _race(unstarted: Unstarted) -> Any:
    async with _race_group() as group:
        for coroutine in unstarted.take():
            group.create_task(coroutine)
    winner = group._winner
    if winner is None:  # it takes a coroutine that ran `cancel()` on everything
        raise asyncio.CancelledError
    return winner.result()


if sys.version_info >= (3, 12):
    inspect.markcoroutinefunction(race)
