"""What looks for a defect, and what it took: used by the tests, and by the table of ``docs/corpus.md``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from corpus import Program
from loopwright import testing
from loopwright.testing import strategies

__all__ = ["STRATEGIES", "Found", "detect", "search"]


@dataclass(frozen=True, slots=True)
class Found:
    """A detector's verdict against a program."""

    error: BaseException
    runs: int
    """The run in which it was found."""
    seconds: float
    """Until it was reported, shrinking included."""


def _timed(look: Callable[[], Any], runs: Callable[[BaseException], int]) -> Found | None:
    began = time.perf_counter()
    try:
        look()
    except (KeyboardInterrupt, SystemExit, testing.Nondeterministic):
        raise
    except BaseException as error:
        return Found(error, runs(error), time.perf_counter() - began)
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """asyncio's log, which repeats what is about to be reported."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _schedule(error: BaseException) -> int:
    return error.__loopwright__.schedule  # type: ignore[attr-defined]


STRATEGIES: dict[str, Callable[[int], strategies.Strategy]] = {
    "random": strategies.random,
}


def search(program: Program, strategy: str, runs: int, *, level: str = "task", first_seed: int = 0) -> Found | None:
    """Schedules of one strategy, until one fails or ``runs`` are over."""
    with _quiet():
        return _timed(
            lambda: testing.explore(
                program.main, strategy=STRATEGIES[strategy](runs), level=level, first_seed=first_seed
            ),
            _schedule,
        )


def detect(program: Program, detector: str, runs: int = 1) -> Found | None:
    """One detector, by its name in :data:`corpus.DETECTORS`."""
    match detector:
        case "order":
            return search(program, "random", runs)
        case "timing":
            return search(program, "random", runs, level="timing")
        case "deadlock" | "time":
            with _quiet():
                return _timed(lambda: testing.run(program.main), lambda _: 1)
        case _:
            raise ValueError(f"no detector {detector!r}")
