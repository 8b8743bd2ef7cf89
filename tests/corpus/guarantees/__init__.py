"""Programs that are correct by what asyncio documents, and by nothing else: none may ever fail under seeded order.

Each docstring quotes the sentence of Python's documentation (or of the method's own docstring) that it stands on. They
are run at level ``timing`` and ``task`` with 1,000 seeds each, where one failure is a false alarm of the kit; at level
``chaos``, which breaks asyncio's promises on purpose, most of them do fail: they can tell the difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from loopwright.testing import SimLoop, explore

__all__ = ["MODULES", "Guarantee", "check", "drives_loops", "guarantees", "holds", "real"]

MODULES = ("callbacks", "futures", "tasks", "primitives", "timing", "threads", "wire", "loops")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@dataclass(frozen=True)
class Guarantee:
    """One program."""

    main: Callable[..., Coroutine[Any, Any, None] | None]
    real: bool
    """It uses sockets or threads: a schedule costs a system call or ten."""
    drives: bool
    """It makes and drives loops itself, from the loop factory that it is given."""

    @property
    def name(self) -> str:
        return f"{self.main.__module__.rpartition('.')[2]}.{self.main.__name__}"


_real: set[Callable[..., object]] = set()
_drives: set[Callable[..., object]] = set()


def real(main: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], Coroutine[Any, Any, None]]:
    """Marks a program that uses sockets or threads."""
    _real.add(main)
    return main


def drives_loops(main: Callable[[LoopFactory], None]) -> Callable[[LoopFactory], None]:
    """Marks a program that makes its loops itself."""
    _drives.add(main)
    return main


def guarantees() -> Iterator[Guarantee]:
    """All of them: each public function that a module defines."""
    for name in MODULES:
        module = import_module(f"corpus.guarantees.{name}")
        for value in vars(module).values():
            if callable(value) and getattr(value, "__module__", "") == module.__name__ and not isinstance(value, type):
                if value.__name__.startswith("_"):
                    continue
                assert value.__doc__ and '"' in value.__doc__, f"{value.__qualname__} quotes no sentence"
                yield Guarantee(value, value in _real, value in _drives)


def check(program: Guarantee, seeds: int, level: str, *, first_seed: int = 0) -> None:
    """Raises what the program raises under the first seed that it does not bear."""
    if not program.drives:
        explore(program.main, seeds=seeds, level=level, first_seed=first_seed)
        return
    for seed in range(first_seed, first_seed + seeds):

        def factory(seed: int = seed) -> SimLoop:
            return SimLoop(level=level, seed=seed)

        program.main(factory)


def holds(program: Guarantee, seeds: int, level: str, *, first_seed: int = 0) -> bool:
    """Whether :func:`check` passes."""
    try:
        check(program, seeds, level, first_seed=first_seed)
    except Exception:
        return False
    return True
