"""The corpus: every defect is found by the detector that claims it, and no look-alike is reported by any.

``docs/corpus.md`` has the table of what was found in how many runs; ``python -m corpus.table`` writes it.
"""

from __future__ import annotations

import os
import sys

import pytest
from corpus import Program, defects, look_alikes
from corpus.detectors import detect, search, sweep

from loopwright import testing

DEFECTS, LOOK_ALIKES = defects(), look_alikes()
WATCHES_LINES = sys.version_info >= (3, 12)
CORE = "LOOPWRIGHT_CORE_SUITE" in os.environ
RUNS = 50 if CORE else 200
SYSTEMATIC_RUNS = 20 if CORE else 100


def by(*detectors: str) -> pytest.MarkDecorator:
    """Each defect that one of these detectors must find."""
    return pytest.mark.parametrize("program", [p for p in DEFECTS if p.found_by in detectors], ids=str)


short = pytest.mark.parametrize("program", [p for p in LOOK_ALIKES if p.module != "clocks"], ids=str)
"""An hour of the loop's time has more await points than a test has seconds."""
plain = pytest.mark.parametrize("program", [p for p in LOOK_ALIKES if not p.plays], ids=str)


def test_forty_defects_of_different_kinds_and_twenty_look_alikes() -> None:
    assert len({program.kind for program in DEFECTS}) == len(DEFECTS) >= 40
    assert len(LOOK_ALIKES) >= 20
    assert {program.like for program in LOOK_ALIKES} <= {program.name for program in DEFECTS}


@pytest.mark.parametrize("program", DEFECTS, ids=str)
def test_a_defect_is_found_by_its_detector(program: Program) -> None:
    """Within the number of runs that it claims; a sweep takes one run for each of its points."""
    found = detect(program, program.found_by, program.within)
    assert found is not None, f"not found in {program.within} runs: {program.kind}"
    assert program.found_by == "sweep" or found.runs <= program.within


@by("order", "timing", "leaks")
def test_an_ordinary_run_does_not_see_it(program: Program) -> None:
    """A defect of order passes first in, first out; a leak passes every assert of its test."""
    testing.run(program.main)


@by("order")
def test_a_defect_of_order_can_be_replayed(program: Program) -> None:
    """From the string that the failure prints, and nothing else."""
    found = detect(program, "order", program.within)
    assert found is not None
    with pytest.raises(type(found.error)):
        testing.replay(program.main, found.error.__loopwright__.replay)


@pytest.mark.skipif(not WATCHES_LINES, reason="lines can be watched from 3.12 on")
@by("order")
def test_partial_order_reduction_finds_every_defect_of_order(program: Program) -> None:
    """Within 100 runs, whatever the odds of a random schedule are."""
    assert search(program, "dpor", 100) is not None


@plain
def test_no_order_makes_a_look_alike_fail(program: Program) -> None:
    runs = 10 if program.module == "clocks" else RUNS  # some run for an hour of the loop's time
    for level in ("timing", "task"):
        assert search(program, "random", runs, level=level) is None
    for strategy in ("pct", "dpor") if WATCHES_LINES else ("pct",):
        assert search(program, strategy, min(runs, SYSTEMATIC_RUNS)) is None


@short
def test_no_cancel_makes_a_look_alike_fail(program: Program) -> None:
    assert sweep(program) is None


@plain
def test_a_look_alike_leaves_nothing_behind(program: Program) -> None:
    assert detect(program, "leaks") is None
