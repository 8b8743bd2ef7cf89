"""What looks for a defect, and what it took: used by the tests, and by the table of ``docs/corpus.md``."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from corpus import Program
from loopwright import testing
from loopwright.testing import strategies

__all__ = ["DELAYS", "STRATEGIES", "Found", "detect", "quiet", "search", "sweep"]


@dataclass(frozen=True, slots=True)
class Found:
    """A detector's verdict against a program."""

    error: BaseException
    runs: int
    """The run in which it was found."""
    seconds: float
    """Until it was reported, shrinking included."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without asyncio's log and Python's warnings, which repeat what is about to be reported."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _timed(look: Callable[[], Any], runs: Callable[[Any], int]) -> Found | None:
    began = time.perf_counter()
    with quiet():
        try:
            look()
        except (KeyboardInterrupt, SystemExit, testing.Nondeterministic):
            raise
        except BaseException as error:
            return Found(error, runs(error), time.perf_counter() - began)
    return None


def _schedule(error: Any) -> int:
    number: int = error.__loopwright__.schedule
    return number


DELAYS = 3

STRATEGIES: dict[str, Callable[[int], strategies.Strategy]] = {
    "random": strategies.random,
    "pct": lambda n: strategies.pct(n, 3),
    "delays": lambda n: strategies.delays(DELAYS),
    "dpor": strategies.dpor,
}
"""By name: a strategy that makes at most so many runs (delay bounding has its own end)."""


def search(program: Program, strategy: str, runs: int, *, level: str = "task", first_seed: int = 0) -> Found | None:
    """Schedules of one strategy, until one fails or ``runs`` are over."""
    chosen = STRATEGIES[strategy](runs)
    return _timed(
        lambda: testing.explore(program.main, strategy=chosen, level=level, first_seed=first_seed),
        _schedule,
    )


def sweep(program: Program) -> Found | None:
    """A cancel at every await point: of the tasks that it spawns through its ``Play``, else of the whole program."""
    victims = None if program.plays else "main"
    return _timed(
        lambda: testing.cancel_sweep(program.main, victims=victims),
        lambda failure: failure.report.runs,
    )


def _with_leak_checks(program: Program) -> None:
    with testing.leak_checks():  # of the whole process: threads, sockets
        testing.run(program.main, leaks=True)  # of the run


def detect(program: Program, detector: str, runs: int = 1) -> Found | None:
    """One detector, by its name in :data:`corpus.DETECTORS`."""
    match detector:
        case "order":
            return search(program, "random", runs)
        case "timing":
            return search(program, "random", runs, level="timing")
        case "deadlock" | "time":
            return _timed(lambda: testing.run(program.main), lambda _: 1)
        case "leaks":
            return _timed(lambda: _with_leak_checks(program), lambda _: 1)
        case "sweep":
            return sweep(program)
        case _:
            raise ValueError(f"no detector {detector!r}")
