"""What every test shares: the cells, the rule about skips under CI, and no test that hangs (see pyproject.toml)."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from support import loops, requires
from support.loops import Cell


def pytest_report_header() -> list[str]:
    lines = [f"cells: {', '.join(map(str, loops.CELLS))}"]
    lines += [f"cell left out: {cell} ({reason})" for cell, reason in loops.EXCLUDED.items()]
    return lines


@pytest.fixture(params=loops.parameters())
def cell(request: pytest.FixtureRequest) -> Cell:
    """Each loop, eager and not, in debug mode and not."""
    cell: Cell = request.param
    return cell


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return requires.no_accidental_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return requires.no_accidental_skip((yield))
