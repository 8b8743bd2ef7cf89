"""The pytest plugin proper: how a marked test is run, and what is told when it fails.

    @pytest.mark.loopwright(seeds=100, cancel="every")
    async def test_transfer() -> None: ...

Lives here: the test item, its schedules, its report. Does not live here: options, the marker and which tests are taken
(``pytest_loopwright``, the door, which costs nothing where no test is marked); what the settings mean
(:mod:`._settings`); fixtures (:mod:`._fixtures`); hypothesis (:mod:`._examples`); the schedules themselves
(:mod:`._explore`). These modules import pytest, and nothing else in ``loopwright`` imports them.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import os
import re
import shlex
import sys
import zlib
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol

import _pytest
import pluggy
import pytest

from loopwright.errors import LoopwrightError
from loopwright.testing import _examples, _explore, _table, _timeline
from loopwright.testing._fixtures import WIDER, Fixtures, fixturedefs, is_async
from loopwright.testing._leaks import PER_PROCESS, leak_checks, selection
from loopwright.testing._loop import SimLoop
from loopwright.testing._settings import Misuse, Report, Settings, option
from loopwright.testing._settings import check_options as check_settings
from loopwright.testing.errors import SweepFailure

if TYPE_CHECKING:
    import random

    from loopwright.testing._points import SweepReport
    from loopwright.testing.net import SimNet

MARKER = "loopwright"
SEEDS = "_loopwright_seeds"

SWEEPS: dict[str, tuple[Literal["await", "step"], tuple[str, ...]]] = {
    "every": ("await", ("cancel", "again", "timeout", "error", "early")),
    "await": ("await", ("cancel", "early")),
    "step": ("step", ("cancel", "again", "early")),
}
"""What ``cancel=`` means to ``cancel_sweep``: where, and what arrives there."""

NO_FAILURES = (pytest.skip.Exception, pytest.xfail.Exception, pytest.exit.Exception)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """``-p loopwright.testing.plugin``, where entry points are not installed: opens the door too."""
    import pytest_loopwright as door  # noqa: PLC0415 (it is there already, or this is the rare case)

    if not pluginmanager.is_registered(door):
        pluginmanager.register(door, MARKER)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: Any) -> Generator[None, Any, Any]:
    """Outermost, so that no other plugin takes an async fixture of a marked test to a loop of its own."""
    item = request.node
    if not isinstance(item, LoopwrightFunction) or item.fixtures is None:
        return (yield)
    with item.fixtures.in_place_of(fixturedef, request):
        return (yield)


# Which tests


def take(function: pytest.Function) -> pytest.Function:
    """The item that runs a marked function, in place of the one that pytest or another plugin collected.

    A synchronous function below a mark of its module or class is left alone: it has no schedule.
    """
    mark = function.get_closest_marker(MARKER)
    if mark is None or isinstance(function, LoopwrightFunction):
        return function
    marked_itself = any(own.name == MARKER for own in getattr(function.obj, "pytestmark", ()))
    if not marked_itself and not _examples.is_awaited(function.obj):
        return function
    return LoopwrightFunction.in_place_of(function, mark)


def refuse_what_cannot_be_taken(item: pytest.Item) -> None:
    """Fails a marked item that is no function of ours: a method of unittest, an item of another plugin."""
    if isinstance(item, LoopwrightFunction):
        return
    if isinstance(item, pytest.Function) and _is_unittest(item.cls) and inspect.iscoroutinefunction(item.obj):
        _refuse(
            f"{item.name} is a method of a unittest.TestCase, which makes an event loop of its own; make it a plain "
            "async function, or a method of a plain class, to mark it with loopwright"
        )


def _is_unittest(cls: Any) -> bool:
    unittest = sys.modules.get("unittest")
    return unittest is not None and isinstance(cls, type) and issubclass(cls, unittest.TestCase)


def spread_seeds(metafunc: pytest.Metafunc) -> None:
    """Makes one test of each worker's share of the seeds. Every worker collects the same tests."""
    mark = metafunc.definition.get_closest_marker(MARKER)
    assert mark is not None
    config = metafunc.config
    try:
        settings = Settings.of(config, mark)
    except Misuse:
        return  # told when the test is set up
    workers = min(config.workerinput["workercount"], settings.seeds)  # type: ignore[attr-defined]
    replayed = option(config, "replay") is not None
    if workers < 2 or replayed or not settings.is_spread or not inspect.iscoroutinefunction(metafunc.function):  # noqa: PLR2004
        return
    bounds = [settings.seeds * worker // workers for worker in range(workers + 1)]
    shares = [(first, last - first) for first, last in itertools.pairwise(bounds)]
    metafunc.fixturenames.append(SEEDS)
    metafunc.parametrize(SEEDS, shares, indirect=True, ids=[_share_id(*share) for share in shares])


def _share_id(first: int, count: int) -> str:
    return f"seeds{first}to{first + count - 1}"


def check_options(config: pytest.Config) -> None:
    try:
        check_settings(config)
        if (replay := option(config, "replay")) is not None:
            _explore.parse_replay(replay)
    except (Misuse, LoopwrightError) as error:
        raise pytest.UsageError(f"loopwright: {error}") from None


def check_replay_has_one_test(session: pytest.Session) -> None:
    ours = [item for item in session.items if isinstance(item, LoopwrightFunction)]
    if len(ours) != 1:
        found = f"{len(ours)} marked tests are" if ours else "no marked test is"
        raise pytest.UsageError(
            f"loopwright: --loopwright-replay runs one test under one schedule, and {found} selected: write "
            "pytest path/to/test_file.py::test_name --loopwright-replay=..."
        )


def _refuse(text: str) -> NoReturn:
    pytest.fail(f"loopwright: {text}", pytrace=False)


# The test


class LoopwrightFunction(pytest.Function):
    """An async test function that is run once for each schedule."""

    fixtures: Fixtures | None = None
    """Those of the running schedule."""
    settings: Settings
    _wrong: str | None = None
    outcome: BaseException | None = None
    """What ends the test and is no failure: it was skipped."""

    @classmethod
    def in_place_of(cls, function: pytest.Function, mark: pytest.Mark) -> LoopwrightFunction:
        item: LoopwrightFunction = cls.from_parent(
            function.parent,
            name=function.name,
            callspec=getattr(function, "callspec", None),
            callobj=function.obj,
            fixtureinfo=function._fixtureinfo,
            keywords=function.keywords,
            originalname=function.originalname,
        )
        item.own_markers = function.own_markers
        try:
            item.settings = Settings.of(item.config, mark)
            if item.settings.net and "sim_net" not in item.fixturenames:
                item.fixturenames.append("sim_net")
            share = item._share
            if share is not None:
                item.settings = replace(item.settings, first_seed=share[0], seeds=share[1])
            item._wrong = item._what_is_wrong()
        except Misuse as error:
            item._wrong = str(error)
        return item

    @property
    def _share(self) -> tuple[int, int] | None:
        callspec = getattr(self, "callspec", None)
        share: tuple[int, int] | None = callspec.params.get(SEEDS) if callspec else None
        return share

    def _what_is_wrong(self) -> str | None:
        if not _examples.is_awaited(self.obj):
            kind = "an async generator" if inspect.isasyncgenfunction(self.obj) else "not async"
            return (
                f"{self.name} is {kind}, so it has no schedule: make it async def with no yield, or take the mark off"
            )
        wanted = list(self._fixtureinfo.initialnames)
        known = fixturedefs(self)
        autouse = set(wanted) - set(self._fixtureinfo.argnames) - _used_by_mark(self)
        asked = {name for name in wanted if name not in autouse or known[name].scope == "function"}
        while asked:
            name = asked.pop()
            if (fixturedef := known.get(name)) is None:
                continue
            if fixturedef.scope == "function":
                asked |= {needed for needed in fixturedef.argnames if needed != name}
            elif is_async(fixturedef.func):
                return (
                    f"{self.name} uses {name!r}, an async fixture of scope {fixturedef.scope!r}: it lives in an event "
                    "loop that goes on from test to test, and each schedule has a simulated loop of its own. Give it "
                    "scope='function' for marked tests, or make it synchronous if what it returns needs no loop"
                )
        return None

    def setup(self) -> None:
        """Sets up what is wider than the function: shared by the schedules, as it is by tests."""
        if self._wrong is not None:
            _refuse(self._wrong)
        if _examples.is_property(self.obj):
            _examples.prepare(self)
        if "anyio_backend" in self.fixturenames:
            self._check_backend(self._request.getfixturevalue("anyio_backend"))
        for name, fixturedef in fixturedefs(self).items():
            if self._scope_of(name, fixturedef) in WIDER:
                self._request.getfixturevalue(name)

    def _scope_of(self, name: str, fixturedef: pytest.FixtureDef[Any]) -> str:
        callspec = getattr(self, "callspec", None)
        if callspec is not None and name in callspec.params:
            return str(callspec._arg2scope[name].value)
        return fixturedef.scope

    def _check_backend(self, backend: Any) -> None:
        name = backend if isinstance(backend, str) else backend[0]
        if name != "asyncio":
            _refuse(
                f"{self.name} is marked for anyio's {name} backend too, and the simulated loop is asyncio's: leave out "
                "the anyio mark, or override the anyio_backend fixture to return 'asyncio'"
            )

    def begin_anew(self) -> None:
        """Forgets the instance and the fixture values of the schedule before."""
        for name in ("_instance", "_obj"):
            if self.cls is not None:
                vars(self).pop(name, None)
        self._initrequest()

    def runtest(self) -> None:
        __tracebackhide__ = True
        self.outcome = None
        with leak_checks(on=selection(self.settings.leaks) & PER_PROCESS):
            if _examples.is_property(self.obj):
                _examples.run(self)
            else:
                self._run()
        if self.outcome is not None:
            raise self.outcome

    def _run(self) -> None:
        __tracebackhide__ = True
        settings = self.settings
        replay = option(self.config, "replay")
        if replay is not None:
            self.replay(self.schedule, replay)
            return
        found = _explore.explore(self.schedule, **self.how(), seeds=settings.seeds, first_seed=settings.first_seed)
        self._tell(found)
        if settings.cancel is not None and settings.first_seed == 0 and self.outcome is None:
            self._sweep(settings.cancel)

    def _tell(self, found: _explore.Exploration) -> None:
        """For the end of the session: how much of what there is was run, where the strategy can say so."""
        if self.settings.is_spread or self.outcome is not None:
            return
        claim = "every interleaving that could make a difference was run" if found.covered else found.note
        self.user_properties.append((MARKER, f"{found.schedules} schedules; {claim}"))

    def _sweep(self, cancel: str, only: str | None = None) -> None:
        """Cancels the test's tasks, under asyncio's own order. A share of the seeds has no sweep, but the first."""
        __tracebackhide__ = True
        from loopwright.testing._sweep import cancel_sweep  # noqa: PLC0415 (most tests do without)

        settings = self.settings
        at, waves = SWEEPS[cancel]

        async def scenario() -> None:
            __tracebackhide__ = True
            await self.schedule()

        scenario.__qualname__ = self.name
        try:
            cancel_sweep(
                scenario,
                at=at,
                waves=waves,
                victims=settings.victims,
                leaks=bool(settings.leaks),
                level=settings.level or "task",
                only=only,
                show="failing",
            )
            return
        except ValueError as error:  # about the sweep: what goes wrong in the test is a SweepFailure
            wrong = str(error)
        _refuse(wrong)

    def how(self) -> dict[str, Any]:
        """The settings as ``explore`` takes them."""
        settings = self.settings
        return {
            "strategy": settings.strategy,
            "level": settings.level,
            "virtual_time": settings.virtual_time,
            "timeout": settings.timeout,
            "leaks": settings.leaks,
        }

    def replay(self, schedule: Callable[[], Coroutine[Any, Any, None]], text: str) -> None:
        """One schedule again, with its cancel if it is one of a sweep."""
        __tracebackhide__ = True
        _, _, point = _explore.parse_replay(text)
        if point:
            self._sweep(self.settings.cancel or "every", text)
            return
        settings = self.settings
        options: dict[str, Any] = {"virtual_time": settings.virtual_time, "timeout": settings.timeout}
        _explore.replay(schedule, text, leaks=settings.leaks, **options)

    async def schedule(self, given: Mapping[str, Any] | None = None) -> None:
        """The test once, under a schedule, with fixtures of its own. ``given`` is what hypothesis has to add."""
        __tracebackhide__ = True
        given = given or {}
        _examples.rewind(given)
        if self.outcome is not None:
            return  # skipped: the schedules that are left have nothing to tell
        self.fixtures = Fixtures(self)
        error: BaseException | None = None
        try:
            arguments = await self.fixtures.set_up()
            await self._test(**arguments, **given)
        except (*NO_FAILURES, *_examples.control_exceptions()) as outcome:
            self.outcome = outcome
        except BaseException as raised:
            if str(raised).startswith("Timeout (>") and isinstance(raised, pytest.fail.Exception):
                self.outcome = raised  # pytest-timeout's alarm: it would not go off again
            else:
                error = raised
        try:
            await self.fixtures.tear_down()
        except BaseException as raised:
            if error is None:
                raise
            error.add_note(f"and then, tearing down its fixtures: {type(raised).__name__}: {raised}")
        finally:
            self.fixtures = None
        if error is not None:
            try:
                raise error
            finally:
                del error

    @property
    def _test(self) -> Callable[..., Coroutine[Any, Any, None]]:
        function = _examples.inner(self.obj)
        if _examples.is_property(self.obj) and self.instance is not None:
            return function.__get__(self.instance)  # type: ignore[no-any-return]
        return function

    # The report

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """pytest's own report of the error, then the schedule that led to it and how to run it again."""
        failure = _failure_of(excinfo.value)
        shown: Any
        if isinstance(excinfo.value, SweepFailure) and excinfo.value.report is not None:
            shown = excinfo.getrepr(style="value")
            shown.addsection("run it again", self._command_of(excinfo.value.report))
            return shown
        if failure is None:
            return super().repr_failure(excinfo)
        with _table.without_note(excinfo.value):
            if all(_is_machinery(entry.path) for entry in excinfo.traceback):  # a deadlock, say
                shown = excinfo.getrepr(style="value")
            else:
                shown = super().repr_failure(excinfo)
        for title, text in self._sections(failure):
            shown.addsection(title, text)
        return shown

    def _traceback_filter(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
        """As pytest's, which begins with the test's own frame. Where that is not there, begins after the machinery."""
        if not self.config.getoption("fulltrace", False):
            entries = list(excinfo.traceback)
            code = getattr(_examples.inner(self.obj), "__code__", None)
            of_test = [number for number, entry in enumerate(entries) if entry.frame.code.raw is code]
            of_user = [number for number, entry in enumerate(entries) if not _is_machinery(entry.path)]
            excinfo.traceback = type(excinfo.traceback)(entries[next(iter([*of_test, *of_user]), 0) :])
        return super()._traceback_filter(excinfo)

    def _sections(self, failure: _explore.Failure) -> Generator[tuple[str, str], None, None]:
        command = self.command(failure.replay)
        yield f"schedule: {self._how_found(failure)}", _table.table(failure.rows)
        lines = [command]
        report = Report.of(self.config)
        if report is not None:
            lines.append(f"see {self._write(report, failure, command)}")
        yield "run it again", "\n".join(lines)

    def _how_found(self, failure: _explore.Failure) -> str:
        settings = self.settings
        sampled = settings.is_spread and failure.strategy.startswith(("random", "pct"))
        found = f"seed {settings.first_seed + failure.schedule - 1}, " if sampled else ""
        return f"{found}{failure.strategy}, level {failure.level}"

    def command(self, replay: str) -> str:
        """The command that runs one schedule of this test again."""
        nodeid = self.nodeid
        if (share := self._share) is not None:  # without pytest-xdist the test has no shares
            shared = re.escape(_share_id(*share))
            nodeid = re.sub(rf"\[{shared}\]$|-{shared}(?=\]$)|(?<=\[){shared}-", "", nodeid)
        _, separator, names = nodeid.partition("::")
        path = os.path.relpath(self.path, self.config.invocation_params.dir)
        return f"pytest {shlex.quote(path + separator + names)} {shlex.quote(f'--loopwright-replay={replay}')}"

    def _command_of(self, report: SweepReport) -> str:
        """The command for the first point of a sweep at which something broke."""
        return self.command(report.failures[0].replay)

    def _write(self, report: Report, failure: _explore.Failure, command: str) -> str:
        name = re.sub(r"[^\w.-]+", "_", self.nodeid).strip("_")
        if "[" in self.nodeid:
            name = f"{name[:100]}_{zlib.crc32(self.nodeid.encode()):08x}"
        path = report.directory / f"{name}.{report.kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if report.kind == "html":
            text = _timeline.timeline(failure, title=self.nodeid, command=command)
        else:
            text = json.dumps(_timeline.as_data(failure, title=self.nodeid, command=command), indent=1)
        path.write_text(text, encoding="utf-8")
        return str(path)


_MACHINERY = tuple(os.path.dirname(str(module.__file__)) + os.sep for module in (asyncio, _explore, _pytest, pluggy))


def _is_machinery(path: str | os.PathLike[str]) -> bool:
    return os.fspath(path).startswith(_MACHINERY)


def _used_by_mark(item: pytest.Function) -> set[str]:
    return {name for mark in item.iter_markers("usefixtures") for name in mark.args}


def _failure_of(error: BaseException) -> _explore.Failure | None:
    failure: _explore.Failure | None = getattr(error, "__loopwright__", None)
    if failure is None and isinstance(error, BaseExceptionGroup):
        return next((found for one in error.exceptions if (found := _failure_of(one))), None)
    return failure


# The fixtures


class Sim:
    """The simulated loop that runs a schedule, for the test in it."""

    def __init__(self, loop: SimLoop, settings: Settings) -> None:
        self.loop = loop
        self.settings = settings

    @property
    def time(self) -> float:
        """Virtual seconds since the schedule began."""
        return self.loop.time()

    @property
    def steps(self) -> int:
        """Steps that were run."""
        steps: int = self.loop.steps
        return steps

    async def advance(self, seconds: float) -> None:
        """Lets virtual time pass, and whatever is due in it happen: when this returns, nothing else is ready."""
        await asyncio.sleep(seconds)
        while self.loop._waiting:  # noqa: ASYNC110 (there is no event for "nothing is ready")
            await asyncio.sleep(0)


class Advance(Protocol):
    """The type of the fixture ``advance``."""

    def __call__(self, seconds: float) -> Coroutine[Any, Any, None]: ...


def sim(request: pytest.FixtureRequest) -> Sim:
    item = _marked(request)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    return Sim(loop, item.settings)


def advance(request: pytest.FixtureRequest) -> Advance:
    return sim(request).advance


def network(request: pytest.FixtureRequest) -> SimNet:
    from loopwright.testing.net import SimNet  # noqa: PLC0415 (most tests do without)

    return SimNet(**_marked(request).settings.net)


def begin_seeded(request: pytest.FixtureRequest) -> AbstractContextManager[random.Random]:
    from loopwright.testing._seeded import seeded  # noqa: PLC0415 (most tests do without)

    _marked(request)
    return seeded(0)


def begin_virtual_clock(request: pytest.FixtureRequest) -> AbstractContextManager[object]:
    from loopwright.testing._seeded import virtual_clock  # noqa: PLC0415 (most tests do without)

    return virtual_clock(sim(request).loop)


def cancel_sweep(request: pytest.FixtureRequest) -> Callable[..., SweepReport]:
    from loopwright.testing._sweep import cancel_sweep  # noqa: PLC0415 (most tests do without)

    if isinstance(request.node, LoopwrightFunction):
        _refuse(
            f"cancel_sweep runs event loops of its own, and {request.node.name} is inside of one: write a test that is "
            "neither async nor marked, or use the marker's cancel="
        )
    return cancel_sweep


def _marked(request: pytest.FixtureRequest) -> LoopwrightFunction:
    item = request.node
    if not isinstance(item, LoopwrightFunction):
        _refuse(f"the fixture {request.fixturename!r} is for async tests that are marked with @pytest.mark.loopwright")
    return item
