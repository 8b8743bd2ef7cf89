"""CPython's own tests of the running interpreter pass with our objects in place of asyncio's."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import requires
from support.cpython_suite import EXCLUDED, MODULES, Outcome

TESTS = Path(__file__).parent
MOST_EXCLUSIONS = 15
ENOUGH = 0.9
"""The share of the tests that has to make an object of ours: else the substitution has come undone."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("module", MODULES)
def test_passes_with_our_objects(module: str) -> None:
    if importlib.util.find_spec("test") is None or importlib.util.find_spec(f"test.test_asyncio.{module}") is None:
        requires.missing("CPython's own tests (the package test.test_asyncio)")
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "ignore", "-m", "support.cpython_suite", module],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = Outcome(**json.loads(done.stdout.splitlines()[-1]))
    print(
        f"{module} of CPython {sys.version.split()[0]}: {outcome.ran} ran, {len(outcome.excluded)} excluded, "
        f"{len(outcome.skipped)} skipped by themselves, {outcome.constructed} made an object of ours, "
        f"{outcome.seconds} s"
    )
    assert not outcome.failures, "\n\n".join(f"{test}\n{trace}" for test, trace in outcome.failures.items())
    assert outcome.constructed >= ENOUGH * outcome.ran, f"made none of ours: {', '.join(outcome.without)}"
    stale = [name for name in EXCLUDED if name.startswith(f"{module}.") and name not in outcome.excluded]
    assert not stale, f"excluded and not there: {', '.join(stale)}"


def test_few_are_excluded() -> None:
    assert len(EXCLUDED) <= MOST_EXCLUSIONS
