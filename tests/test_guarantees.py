"""No false alarms: programs that are correct by what asyncio documents never fail under seeded order.

See ``corpus/guarantees``. 1,000 seeds each at the levels ``timing`` and ``task``. Those on sockets and threads, whose
schedules cost system calls, get 50 of them here; under ``LOOPWRIGHT_STRESS=1`` they get 1,000 too.
"""

from __future__ import annotations

import asyncio
import os

import pytest
from corpus.guarantees import Guarantee, guarantees

from loopwright.testing import SimLoop, explore

PROGRAMS = list(guarantees())
SEEDS, CORE_SEEDS, REAL_SEEDS, CHAOS_SEEDS = 1_000, 100, 50, 100

each = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)


def seeds_for(program: Guarantee) -> int:
    if os.environ.get("LOOPWRIGHT_STRESS") == "1":
        return SEEDS
    if program.real:
        return REAL_SEEDS
    return CORE_SEEDS if os.environ.get("LOOPWRIGHT_CORE_SUITE") == "1" else SEEDS


def run(program: Guarantee, seeds: int, level: str) -> None:
    """Raises what the program raises under the first seed that it does not bear."""
    if not program.drives:
        explore(program.main, seeds=seeds, level=level)
        return
    for seed in range(seeds):

        def factory(seed: int = seed) -> SimLoop:
            return SimLoop(level=level, seed=seed)

        program.main(factory)


def test_there_are_forty_programs() -> None:
    assert len(PROGRAMS) >= 40


@each
def test_correct_on_asyncio_itself(program: Guarantee) -> None:
    """As a check of the programs: first in, first out, in virtual time."""
    if program.drives:
        program.main(asyncio.SelectorEventLoop)
    else:
        explore(program.main, seeds=1, level="timing")


@pytest.mark.parametrize("level", ["timing", "task"])
@each
def test_a_correct_program_never_fails(program: Guarantee, level: str) -> None:
    run(program, seeds_for(program), level)


@pytest.mark.default_only
def test_most_of_them_fail_when_the_guarantees_are_broken() -> None:
    """At ``chaos`` callbacks overtake each other: programs that no order can break would prove nothing."""
    failed = []
    for program in PROGRAMS:
        try:
            run(program, CHAOS_SEEDS, "chaos")
        except Exception:
            failed.append(program.name)
    print(f"{len(failed)} of {len(PROGRAMS)} fail at chaos within {CHAOS_SEEDS} seeds")
    assert len(failed) > len(PROGRAMS) / 2, failed
