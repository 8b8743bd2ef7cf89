"""The corpus: every defect is found by the detector that claims it, and no look-alike is reported by any.

``docs/corpus.md`` has the table of what was found in how many runs; ``python -m corpus.table`` writes it.
"""

from __future__ import annotations

import os

import pytest
from corpus import Program, defects, look_alikes
from corpus.detectors import detect, search

from loopwright import testing

DEFECTS, LOOK_ALIKES = defects(), look_alikes()
CORE = os.environ.get("LOOPWRIGHT_CORE_SUITE") == "1"


def by(*detectors: str) -> pytest.MarkDecorator:
    """Each defect that one of these detectors must find."""
    return pytest.mark.parametrize("program", [p for p in DEFECTS if p.found_by in detectors], ids=str)


plain = pytest.mark.parametrize("program", [p for p in LOOK_ALIKES if not p.plays], ids=str)


def test_forty_defects_of_different_kinds_and_twenty_look_alikes() -> None:
    assert len({program.kind for program in DEFECTS}) == len(DEFECTS) >= 40
    assert len(LOOK_ALIKES) >= 20
    assert {program.like for program in LOOK_ALIKES} <= {program.name for program in DEFECTS}


@by("order", "timing", "deadlock", "time")
def test_a_defect_is_found_by_its_detector(program: Program) -> None:
    found = detect(program, program.found_by, program.within)
    assert found is not None, f"not found in {program.within} runs: {program.kind}"
    assert found.runs <= program.within


@by("order", "timing")
def test_a_defect_of_order_passes_first_in_first_out(program: Program) -> None:
    """Which is why an ordinary test does not see it."""
    testing.run(program.main)


@by("order")
def test_a_defect_of_order_can_be_replayed(program: Program) -> None:
    """From the string that the failure prints, and nothing else."""
    found = detect(program, "order", program.within)
    assert found is not None
    with pytest.raises(type(found.error)):
        testing.replay(program.main, found.error.__loopwright__.replay)


@plain
def test_no_order_makes_a_look_alike_fail(program: Program) -> None:
    found = search(program, "random", 50 if CORE else 300)
    assert found is None, found
