"""The courses that programs take, as numbers: equal in every process, and across versions for programs of tasks alone.

``python -m corpus.digests`` prints them as JSON; ``--write`` makes ``digests.json``, against which each interpreter's
suite holds its own. A number covers every step's task and every decision of a run; asyncio's own minor versions may
take other steps inside (a callback more in ``TaskGroup``), so that table has only programs whose steps are their own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import warnings
from pathlib import Path

from corpus import Program, programs
from loopwright.testing import SimLoop

__all__ = ["TABLE", "course", "courses"]

TABLE = Path(__file__).with_name("digests.json")

SEEDS = 10

LEFT_OUT = {"leaks", "clocks"}
"""Modules whose programs use sockets, threads or the garbage collector, or run for hours of the loop's time."""

VERSIONED = {"races.cache_filled_by_one_task", "races.all_of_a_set_of_tasks", "deadlocks.join_with_task_done"}
"""Programs in which asyncio itself takes other steps on some versions: ``shield``, and ``gather`` of what is done."""


def course(program: Program, seed: int) -> str:
    """What a program does under a seed: the digest of its steps, and how it ended."""
    loop = SimLoop(seed=seed)
    try:
        loop.run_until_complete(program.main())
        end = "ok"
    except Exception as error:
        end = type(error).__name__
    digest = loop.digest()
    tasks = loop.tasks()
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.wait(tasks)) if tasks else None
    loop.close()
    return f"{digest:016x} {end}"


def courses() -> dict[str, list[str]]:
    """Programs of tasks alone, by name: the course under each seed."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    return {
        str(program): [course(program, seed) for seed in range(SEEDS)]
        for program in programs()
        if program.module not in LEFT_OUT and not program.plays
    }


if __name__ == "__main__":
    found = courses()
    if "--write" in sys.argv:
        table = {name: course for name, course in found.items() if name not in VERSIONED}
        TABLE.write_text(json.dumps(table, indent=1) + "\n")
    else:
        print(json.dumps(found))
