"""How our own sweeps are run: at every step, in every cell, and how many random cancels there are.

The machinery is :mod:`loopwright.testing`'s: ``cancel_sweep`` and ``random_cancels``.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from support import loops
from support.loops import PLAIN, Cell

__all__ = ["EVERY_STEP", "cancels", "in_cell"]

DEFAULT, CELL, THIN, DEBUG, STRESS = 50_000, 2_000, 500, 200, 1_000_000

EVERY_STEP: dict[str, Any] = {"at": "step", "waves": ("cancel", "again")}
"""For ``cancel_sweep``: a cancel at every step of anybody while the victim lives, and a second one soon after."""


def cancels(*, cell: Cell = PLAIN, again: bool = False, share: float = 1.0) -> int:
    """How many random cancels to deliver.

    One object gets 50,000 in all on the default interpreter and loop, 2,000 in each other cell (uvloop, eager tasks,
    other interpreters; 500 on a thin one, see loops.py), 200 in debug mode, where asyncio spends its time on stacks,
    and 1,000,000 under ``LOOPWRIGHT_STRESS=1``; ``share`` is one scenario's part of it. ``again``: another test has the
    plain cell's.
    """
    if os.environ.get("LOOPWRIGHT_STRESS") == "1":
        return max(1, round(STRESS * share))
    secondary = again or cell != PLAIN or "LOOPWRIGHT_CORE_SUITE" in os.environ
    most = DEBUG if cell.debug else THIN if loops.THIN else CELL if secondary else DEFAULT
    return max(1, round(most * share))


def in_cell(cell: Cell) -> dict[str, Any]:
    """The arguments that make a sweep run in a cell: ``cancel_sweep(scenario, **in_cell(cell))``.

    The plain cell and the eager ones are on virtual time. The others are on the loop as it is without us: uvloop, and
    for asyncio's own the cell of debug mode.
    """

    def setup(loop: asyncio.AbstractEventLoop) -> None:
        loop.set_debug(cell.debug)
        if cell.eager:
            loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]

    real = cell.loop != PLAIN.loop or (cell.debug and not cell.eager)
    return {"loop_factory": cell.new_loop if real else None, "setup": setup}
