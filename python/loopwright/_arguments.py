"""Arguments that are checked at the door of the objects written in Python; ``args.rs`` is its twin."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Coroutine
from typing import Any

__all__ = ["Unstarted", "coroutines", "count", "real", "seconds"]


def seconds(value: object, what: str, *, positive: bool = False) -> float:
    """Reads a length of time: a number of seconds, 0 or more (more than 0 if ``positive``). ``what`` names it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} must be a number of seconds, got {value!r}")
    if math.isnan(value) or value < 0 or (positive and value == 0):
        raise ValueError(f"{what} must be {'more than 0' if positive else '0 or more'} seconds, got {value!r}")
    return float(value)


def count(value: object, what: str, *, least: int = 1, below: float = math.inf) -> int:
    """Reads how many: an int, ``least`` or more, and less than ``below``. ``what`` names it."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be an int, got {value!r}")
    if not least <= value < below:
        raise ValueError(f"{what} must be {least} or more, got {value}")
    return value


def real(value: object, what: str) -> float:
    """Reads a number, whose bounds the caller knows. ``what`` names it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} must be a number, got {value!r}")
    return value


class Unstarted:
    """Coroutines that nobody has started. Those nobody ever does are closed, not left to warn."""

    __slots__ = ("_coroutines",)

    def __init__(self, coroutines: tuple[Coroutine[Any, Any, Any], ...]) -> None:
        self._coroutines = coroutines

    def take(self) -> tuple[Coroutine[Any, Any, Any], ...]:
        """Hands them over to whoever starts them."""
        coroutines, self._coroutines = self._coroutines, ()
        return coroutines

    def __del__(self) -> None:
        for coroutine in self._coroutines:
            coroutine.close()


def coroutines(given: tuple[object, ...], what: str) -> Unstarted:
    """Takes coroutines at the door of ``what``; when one of the arguments is none, closes the others and raises."""
    unstarted = Unstarted(tuple(item for item in given if asyncio.iscoroutine(item)))
    for item in given:
        if not asyncio.iscoroutine(item):
            hint = "call it" if inspect.iscoroutinefunction(item) else "wrap it in an `async def`"
            raise TypeError(f"{what} takes coroutines, got {item!r}: {hint}")
    return unstarted
