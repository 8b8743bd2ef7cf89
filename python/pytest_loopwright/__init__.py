"""The door of the pytest plugin: its options, its marker, its fixtures, and which tests it takes.

A package of its own, because importing any module of ``loopwright`` imports the extension and asyncio: a test run that
has Loopwright installed and marks no test pays for this file only. What happens to a marked test is in
``loopwright.testing.plugin``, which is imported when the first one is collected.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import random
    from types import ModuleType

    from loopwright.testing import SweepReport
    from loopwright.testing.net import SimNet
    from loopwright.testing.plugin import Advance, Sim

MARKER = "loopwright"

_OPTIONS = {
    "seeds": ("N", "schedules for each marked test (default: 100)"),
    "strategy": ("NAME", "how schedules are chosen: task, timing, chaos, random, pct, delays or dpor (default: task)"),
    "cancel": ("WHERE", "cancel the marked tests' tasks: every, await, step, or none to switch it off (default: none)"),
    "timeout": ("SECONDS", "virtual seconds that one schedule may take, or none (default: 100000)"),
}
"""What can be set on the command line, which has the last word, and in the ini file, where the defaults are."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("loopwright", "loopwright: schedules, virtual time, cancel sweeps")
    for name, (value, text) in _OPTIONS.items():
        group.addoption(f"--loopwright-{name}", metavar=value, default=None, help=f"{text}; overrides the marker")
        parser.addini(f"loopwright_{name}", f"{text}; the marker overrides it", default=None)
    group.addoption(
        "--loopwright-replay",
        metavar="STRING",
        default=None,
        help="run the one test that is selected under the schedule that a failure printed: lw1:...",
    )
    group.addoption(
        "--loopwright-report",
        metavar="html|json[:DIR]",
        default=None,
        help="write each failing schedule as a picture or as data into DIR (default: loopwright-report)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{MARKER}(seeds, strategy, level, cancel, victims, virtual_time, leaks, timeout, net): "
        "run the async test under many schedules of a simulated event loop",
    )
    if any(config.getoption(f"loopwright_{name}") is not None for name in (*_OPTIONS, "replay", "report")):
        _kit(config).check_options(config)


def _kit(config: pytest.Config) -> ModuleType:
    """The plugin proper, imported and registered at the first call."""
    plugin = importlib.import_module("loopwright.testing.plugin")
    if not config.pluginmanager.is_registered(plugin):
        config.pluginmanager.register(plugin, plugin.__name__)
    return plugin


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Under pytest-xdist the seeds of a test become several tests, one for each worker."""
    if metafunc.definition.get_closest_marker(MARKER) is not None and hasattr(metafunc.config, "workerinput"):
        _kit(metafunc.config).spread_seeds(metafunc)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """Takes what is marked, and nothing else. Outermost, so that it has the last word over other plugins for async
    tests, whatever mode they are in."""
    found = yield
    nodes = found if isinstance(found, list) else [found]
    if not any(isinstance(node, pytest.Function) and node.get_closest_marker(MARKER) for node in nodes):
        return found
    take = _kit(collector.config).take
    return [take(node) if isinstance(node, pytest.Function) else node for node in nodes]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker(MARKER) is not None:
        _kit(item.config).refuse_what_cannot_be_taken(item)


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.getoption("loopwright_replay") is not None:
        _kit(session.config).check_replay_has_one_test(session)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What the searches that can tell have covered."""
    claims = [
        f"{report.nodeid}: {text}"
        for report in terminalreporter.getreports("passed")
        for name, text in report.user_properties
        if name == MARKER and report.when == "call"
    ]
    if claims:
        terminalreporter.section("loopwright")
        for claim in claims:
            terminalreporter.line(claim)


@pytest.fixture
def _loopwright_seeds(request: pytest.FixtureRequest) -> tuple[int, int] | None:
    """Which seeds a test has to itself under pytest-xdist: the first one, and how many."""
    return getattr(request, "param", None)


@pytest.fixture
def sim(request: pytest.FixtureRequest) -> Sim:
    """The simulated loop that runs this schedule: its time, its seed, its steps."""
    sim: Sim = _kit(request.config).sim(request)
    return sim


@pytest.fixture
def advance(request: pytest.FixtureRequest) -> Advance:
    """``await advance(seconds)``: lets virtual seconds pass, with everything that is due in them."""
    advance: Advance = _kit(request.config).advance(request)
    return advance


@pytest.fixture
async def sim_net(request: pytest.FixtureRequest) -> AsyncIterator[SimNet]:
    """The simulated network of this schedule, in place of the real one; the marker's ``net=`` has its arguments."""
    async with _kit(request.config).network(request) as net:
        yield net


@pytest.fixture
def seeded(request: pytest.FixtureRequest) -> Iterator[random.Random]:
    """``random`` and ``uuid`` begin every schedule with the same numbers; see ``loopwright.testing.seeded``."""
    with _kit(request.config).begin_seeded(request) as numbers:
        yield numbers


@pytest.fixture
def virtual_clock(request: pytest.FixtureRequest) -> Iterator[None]:
    """``time`` and ``datetime`` follow the simulated loop's clock; see ``loopwright.testing.virtual_clock``."""
    with _kit(request.config).begin_virtual_clock(request):
        yield


@pytest.fixture
def cancel_sweep(request: pytest.FixtureRequest) -> Callable[..., SweepReport]:
    """``loopwright.testing.cancel_sweep`` for a test that is neither async nor marked: it runs loops of its own."""
    sweep: Callable[..., SweepReport] = _kit(request.config).cancel_sweep(request)
    return sweep
