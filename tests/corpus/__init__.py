"""Programs whose verdict is known: what the proof kit must find, and what it must leave in peace.

Every program is one function. A *defect* has one flaw, which its docstring names, and says which detector finds it
within how many runs; most pass every run of an ordinary test, and that is the point. A *look-alike* is the same program
done right: no detector may report it. What asyncio guarantees by its documentation is in ``guarantees/``. Released
libraries with real defects are in ``examples/found/``.

``tests/test_corpus.py`` runs them; ``python -m corpus.table`` writes the measured table into ``docs/corpus.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

__all__ = ["DETECTORS", "MODULES", "Detector", "Program", "defect", "defects", "healthy", "look_alikes", "programs"]

Detector = Literal["order", "timing", "sweep", "deadlock", "leaks", "time"]

DETECTORS: dict[Detector, str] = {
    "order": "seeded orders of the tasks' steps",
    "timing": "seeded orders of what stock asyncio leaves open: timers of one instant, events of one select",
    "sweep": "a cancel at every await point",
    "deadlock": "the run stands still: nothing runnable, no timer, nothing outside",
    "leaks": "what is left when the program has ended",
    "time": "virtual time: hours of the program's clock in milliseconds",
}

MODULES = ("races", "wakeups", "deadlocks", "cancels", "releases", "leaks", "clocks")

Scenario = Callable[..., Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Program:
    """One program of the corpus, and what is known of it."""

    main: Scenario
    """Takes nothing, or (for a sweep) the ``Play`` whose tasks may be cancelled."""
    kind: str
    """What is wrong; of a look-alike, what it does right."""
    found_by: Detector | None
    """The detector that must find it; None: a look-alike."""
    within: int = 1
    """Runs in which it must be found."""
    like: str | None = None
    """Of a look-alike: the defect that it resembles."""

    @property
    def name(self) -> str:
        return self.main.__name__

    @property
    def module(self) -> str:
        return self.main.__module__.rpartition(".")[2]

    @property
    def plays(self) -> bool:
        """Whether it spawns its tasks through a ``Play``, so that they may be cancelled."""
        return self.main.__code__.co_argcount > 0

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


_programs: dict[str, Program] = {}


def defect(kind: str, *, found_by: Detector, within: int = 1) -> Callable[[Scenario], Scenario]:
    """Marks a program with a flaw."""

    def note(main: Scenario) -> Scenario:
        return _note(Program(main, kind, found_by, within))

    return note


def healthy(kind: str, *, like: Scenario) -> Callable[[Scenario], Scenario]:
    """Marks the same program done right."""

    def note(main: Scenario) -> Scenario:
        return _note(Program(main, kind, None, like=like.__name__))

    return note


def _note(program: Program) -> Scenario:
    assert program.name not in _programs, f"two programs are called {program.name}"
    assert program.main.__doc__, f"{program} does not say what it shows"
    _programs[program.name] = program
    return program.main


def programs() -> Iterator[Program]:
    """All of them, in the order of the modules."""
    for module in MODULES:
        import_module(f"corpus.{module}")
    yield from sorted(_programs.values(), key=lambda program: MODULES.index(program.module))


def defects() -> list[Program]:
    return [program for program in programs() if program.found_by is not None]


def look_alikes() -> list[Program]:
    return [program for program in programs() if program.found_by is None]
