"""Search strategies: which schedules of a test are run, and when the search is over.

A strategy is given to ``explore(strategy=...)`` and to the pytest marker, by name or as one of these::

    explore(test, strategy="random", seeds=200)
    explore(test, strategy=strategies.random(200))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loopwright._loopwright import _Search

__all__ = ["LEVELS", "Strategy", "choose", "delays", "dpor", "pct", "random"]

LEVELS = ("timing", "task", "chaos")
"""How much of the order a schedule may change; see :class:`loopwright.testing.SimLoop`."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to search. Made by the functions of this module."""

    name: str
    """What to call it, with its parameters."""
    start: Callable[[int], _Search]
    """Begins a search from a first seed."""


def random(n: int) -> Strategy:
    """``n`` schedules by lot, of consecutive seeds. The best first choice: cheap, and no kind of bug escapes for ever.

    Raises:
        ValueError: ``n`` is not positive.
    """
    if n < 1:
        raise ValueError(f"random({n}): a search needs one schedule or more")
    return Strategy(f"random({n})", lambda seed: _Search.random(seed, n))


def pct(n: int, depth: int = 3) -> Strategy:
    """``n`` schedules with random priorities of tasks that change at ``depth - 1`` random places.

    Finds what needs one task to run long ahead of the others, which choices by lot hardly ever do. A bug that takes
    ``depth`` orderings is found with a known chance by each schedule.

    Raises:
        ValueError: ``n`` or ``depth`` is not positive.
    """
    if n < 1 or depth < 1:
        raise ValueError(f"pct({n}, {depth}): both are 1 or more")
    return Strategy(f"pct({n}, {depth})", lambda seed: _Search.pct(seed, n, depth))


def delays(bound: int) -> Strategy:
    """Every schedule that differs from asyncio's own in at most ``bound`` decisions, fewest first.

    Raises:
        ValueError: ``bound`` is negative.
    """
    if bound < 0:
        raise ValueError(f"delays({bound}): the bound is 0 or more")
    return Strategy(f"delays({bound})", lambda seed: _Search.delays(bound))


def dpor(max: int | None = 10_000) -> Strategy:
    """One schedule of each kind: two that differ only in the order of steps that touch nothing in common are one kind.

    Ends when all kinds were run, and only then says that every interleaving is covered; ends after ``max`` schedules
    in any case. What a step touches is found by watching its lines (CPython 3.12 and later).

    Raises:
        ValueError: ``max`` is not positive.
    """
    if max is not None and max < 1:
        raise ValueError(f"dpor({max}): a search needs one schedule or more")
    return Strategy(f"dpor({max})", lambda seed: _Search.dpor(max))


_BY_NAME: dict[str, Callable[[int], Strategy]] = {
    "random": random,
    "pct": pct,
    "delays": lambda seeds: delays(2),
    "dpor": lambda seeds: dpor(),
}


def choose(strategy: str | Strategy, *, seeds: int, level: str | None) -> tuple[Strategy, str]:
    """The strategy and the level that are meant: the name of a level stands for random schedules at that level.

    Raises:
        TypeError: ``strategy`` is neither a name nor a strategy.
        ValueError: there is no such strategy or level.
    """
    if isinstance(strategy, str) and strategy in LEVELS:
        if level is not None and level != strategy:
            raise ValueError(f"strategy={strategy!r} is a level itself, and level={level!r} another: give one of them")
        level = strategy
        strategy = random(seeds)
    level = "task" if level is None else level
    if level not in LEVELS:
        raise ValueError(f"no level {level!r}: use one of {', '.join(LEVELS)}")
    if isinstance(strategy, Strategy):
        return strategy, level
    if not isinstance(strategy, str):
        raise TypeError(f"strategy= takes a name or one of loopwright.testing.strategies, not {strategy!r}")
    if strategy not in _BY_NAME:
        raise ValueError(
            f"no strategy {strategy!r}: use one of {', '.join(_BY_NAME)}, or a level ({', '.join(LEVELS)}) for random "
            "schedules at that level"
        )
    return _BY_NAME[strategy](seeds), level
