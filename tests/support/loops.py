"""The cells that a test can run in: each event loop, with eager tasks on and off, in debug mode and not.

Results have to be the same in all of them. A test that takes the fixture ``cell`` runs once in each::

    def test_release_wakes(cell: Cell) -> None:
        async def main() -> None: ...

        run(main, cell)

A test that does not care runs its coroutine with ``run(main)``, in the plain cell: asyncio's loop, ordinary tasks.
"""

from __future__ import annotations

import asyncio
import heapq
import importlib.util
import itertools
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from support import requires

__all__ = ["CELLS", "EXCLUDED", "PLAIN", "Cell", "VirtualLoop", "parameters", "run"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cell:
    """One way to run a program."""

    loop: str = "asyncio"
    eager: bool = False
    debug: bool = False

    def __str__(self) -> str:
        return "-".join([self.loop, *(["eager"] if self.eager else []), *(["debug"] if self.debug else [])])

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """A fresh loop, set up; skips the test where this machine lacks the loop."""
        loop = requires.module("uvloop").new_event_loop() if self.loop == "uvloop" else asyncio.new_event_loop()
        if self.eager:
            loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
        return loop


PLAIN = Cell()

THIN = os.environ.get("LOOPWRIGHT_CORE_SUITE") == "thin"
"""A version between the oldest and the newest: every loop, eager tasks on and off, but no debug mode."""


def _excluded(cell: Cell) -> str | None:
    """Why a cell is left out on this interpreter, whatever runs in it."""
    if cell.debug and THIN:
        return "debug mode is run on the oldest and the newest version"
    if cell.eager and sys.version_info < (3, 12):
        return "eager tasks came with CPython 3.12"
    if cell.loop == "uvloop" and sys.platform == "win32":
        return "uvloop does not support Windows"
    if cell.loop == "uvloop" and cell.eager and (3, 13, 0) <= sys.version_info < (3, 13, 3):
        return "uvloop 0.23 passes eager_start to CPython 3.13.0-3.13.2's eager task factory, which refuses it"
    return None


_SWITCH = (False, True)
_ALL = [Cell(loop, eager, debug) for loop in ("asyncio", "uvloop") for eager in _SWITCH for debug in _SWITCH]

EXCLUDED = {cell: reason for cell in _ALL if (reason := _excluded(cell))}
"""The cells that are left out on this interpreter, and why; pytest's header lists them."""

CELLS = [cell for cell in _ALL if cell not in EXCLUDED]
"""The cells of this interpreter, :data:`PLAIN` first."""


def parameters(cells: list[Cell] | None = None) -> list[Any]:
    """The cells as parameters of a test or fixture; where uvloop is missing, its cells are skipped as such."""
    no_uvloop = importlib.util.find_spec("uvloop") is None
    skip = pytest.mark.skip(reason=f"{requires.MISSING} the module uvloop")
    return [
        pytest.param(cell, id=str(cell), marks=[skip] if cell.loop == "uvloop" and no_uvloop else [])
        for cell in (CELLS if cells is None else cells)
    ]


def run(main: Callable[[], Coroutine[Any, Any, T]], cell: Cell = PLAIN) -> T:
    """Runs ``main()`` to its end on a fresh loop of this kind and closes the loop, as ``asyncio.run`` does."""

    async def enter() -> T:  # its body runs when the loop's task factory is in place, and so does main's
        return await main()

    with asyncio.Runner(debug=cell.debug, loop_factory=cell.new_loop) as runner:
        return runner.run(enter())


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's loop with a clock that stands still until :meth:`advance`."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual_now = 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self._virtual_now

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:  # type: ignore[override]
        handle = super().call_at(when, callback, *args, context=context)
        heapq.heappush(self._timers, (when, next(self._order), handle))
        return handle

    def advance(self) -> bool:
        """Jumps to the next live timer; tells whether there was one."""
        while self._timers:
            when, _, handle = heapq.heappop(self._timers)
            if not handle.cancelled():
                self._virtual_now = max(self._virtual_now, when)
                return True
        return False
