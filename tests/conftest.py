"""What every test shares: the cells, the rule about skips under CI, and no test that hangs (see pyproject.toml)."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import loops, requires
from support.loops import Cell

if TYPE_CHECKING:
    from support.servers import OpenSSH, Postgres, Redis, Servers


def pytest_report_header() -> list[str]:
    lines = [f"cells: {', '.join(map(str, loops.CELLS))}"]
    lines += [f"cell left out: {cell} ({reason})" for cell, reason in loops.EXCLUDED.items()]
    return lines


@pytest.fixture(params=loops.parameters())
def cell(request: pytest.FixtureRequest) -> Cell:
    """Each loop, eager and not, in debug mode and not."""
    cell: Cell = request.param
    return cell


@pytest.fixture(scope="session")
def analyser() -> Path:
    """The built program of crates/check. Tests that take it run in the step that builds it, not in the suites."""
    return requires.analyser()


@pytest.hookimpl(tryfirst=True)  # before -m is applied
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "analyser" in getattr(item, "fixturenames", ()):
            item.add_marker("analyser")


@pytest.fixture
def only_new_garbage() -> Iterator[None]:
    """A ``gc.collect()`` looks at what this test has made, and not at seven thousand others for half a second."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Real servers: each is started when a test first needs it, all are ended with the session."""
    from support.servers import Servers  # noqa: PLC0415 (few tests need it)

    with Servers() as servers:
        yield servers


@pytest.fixture
def postgres(servers: Servers) -> Iterator[Postgres]:
    with servers.one("postgres") as server:
        yield server


@pytest.fixture
def redis_server(servers: Servers) -> Iterator[Redis]:
    with servers.one("redis") as server:
        yield server


@pytest.fixture
def openssh(servers: Servers) -> Iterator[OpenSSH]:
    with servers.one("openssh") as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return requires.no_accidental_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return requires.no_accidental_skip((yield))
