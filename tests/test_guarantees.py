"""No false alarms: programs that are correct by what asyncio documents never fail under seeded order.

See ``corpus/guarantees``. 1,000 seeds each at the levels ``timing`` and ``task``. Those on sockets and threads, whose
schedules cost system calls, get 50 of them here; under ``LOOPWRIGHT_STRESS=1`` they get 1,000 too.
"""

from __future__ import annotations

import asyncio
import os

import pytest
from corpus.guarantees import Guarantee, check, guarantees, holds

from loopwright.testing import run

PROGRAMS = list(guarantees())
SEEDS, CORE_SEEDS, REAL_SEEDS, CHAOS_SEEDS = 1_000, 100, 50, 100

each = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)


def seeds_for(program: Guarantee) -> int:
    if os.environ.get("LOOPWRIGHT_STRESS") == "1":
        return SEEDS
    if program.real:
        return REAL_SEEDS
    return CORE_SEEDS if "LOOPWRIGHT_CORE_SUITE" in os.environ else SEEDS


def test_there_are_forty_programs() -> None:
    assert len(PROGRAMS) >= 40


@each
def test_correct_in_asyncios_own_order(program: Guarantee) -> None:
    """As a check of the programs: first in, first out."""
    if program.drives:
        program.main(asyncio.SelectorEventLoop)
    else:
        run(program.main)


@pytest.mark.parametrize("level", ["timing", "task"])
@each
def test_a_correct_program_never_fails(program: Guarantee, level: str) -> None:
    check(program, seeds_for(program), level)


@pytest.mark.default_only
def test_most_of_them_fail_when_the_guarantees_are_broken() -> None:
    """At ``chaos`` callbacks overtake each other: programs that no order can break would prove nothing."""
    failed = [program.name for program in PROGRAMS if not holds(program, CHAOS_SEEDS, "chaos")]
    print(f"{len(failed)} of {len(PROGRAMS)} fail at chaos within {CHAOS_SEEDS} seeds")
    assert len(failed) > len(PROGRAMS) / 2, failed
