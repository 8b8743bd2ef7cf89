"""The courses that programs take, as numbers: equal in every process, and across versions for programs of tasks alone.

``python -m corpus.digests`` prints them as JSON; ``--write`` makes ``digests.json``, against which each interpreter's
suite holds its own.

One number covers every step and every decision of a run; it is the same in every process of one minor version. Another
has the order of the tasks' steps alone, and goes into the table: asyncio's own minor versions take other steps between
them (``gather`` of 3.14 registers one callback more), which move no task.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from dataclasses import astuple, dataclass
from pathlib import Path

from corpus import Program, programs
from corpus.detectors import quiet
from loopwright.testing import SimLoop

__all__ = ["SEEDS", "TABLE", "Course", "course", "courses"]

TABLE = Path(__file__).with_name("digests.json")

SEEDS = 10

LEFT_OUT = {"leaks", "clocks"}
"""Modules whose programs use sockets, threads or the garbage collector, or run for hours of the loop's time."""

VERSIONED = {
    "races.cache_filled_by_one_task",
    "races.all_of_a_set_of_tasks",
    "wakeups.condition_asked_once",
    "deadlocks.semaphore_held_over_children",
    "deadlocks.semaphore_free_for_children",
}
"""Programs in which a callback that asyncio's ``gather`` or ``shield`` registers on some versions only comes between
two tasks, and so changes what may run next."""


@dataclass(frozen=True, slots=True)
class Course:
    """What a program does under a seed."""

    exact: str
    """The digest of all steps and decisions."""
    order: str
    """Which task made each step, and how the program ended."""


def course(program: Program, seed: int) -> Course:
    """Runs a program under a seed."""
    loop = SimLoop(seed=seed)
    order = hashlib.blake2b(digest_size=8)

    def on_step(task: asyncio.Task[object] | None, number: int) -> None:
        if task is not None:
            order.update(f"{loop.lane(task)}@{number} ".encode())

    loop.on_step = on_step
    try:
        loop.run_until_complete(program.main())
        end = "ok"
    except Exception as error:
        end = type(error).__name__
    found = Course(f"{loop.digest():016x}", f"{order.hexdigest()} {end}")
    if tasks := loop.tasks():
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks))
    loop.close()
    return found


def courses() -> dict[str, list[Course]]:
    """Programs of tasks alone, by name: the course under each seed."""
    with quiet():
        return {
            str(program): [course(program, seed) for seed in range(SEEDS)]
            for program in programs()
            if program.module not in LEFT_OUT and not program.plays
        }


if __name__ == "__main__":
    found = courses()
    if "--write" in sys.argv:
        table = {name: [each.order for each in runs] for name, runs in found.items() if name not in VERSIONED}
        TABLE.write_text(json.dumps(table, indent=1) + "\n")
    else:
        print(json.dumps({name: [astuple(each) for each in runs] for name, runs in found.items()}))
