"""Running a test under one schedule, under many, and under one again.

Lives here: the run and its teardown, the search, the report of a failing schedule. Does not live here: which schedules
there are (:mod:`.strategies`), the loop (:mod:`._loop`), how a report looks (:mod:`._table`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import math
import sys
import time
import traceback
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field, replace
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeVar

from loopwright._loopwright import _Search, _Shrink
from loopwright.testing import strategies
from loopwright.testing._awaits import coroutine_of, is_library
from loopwright.testing._chains import source_line, where
from loopwright.testing._leaks import PER_PROCESS, Checks, selection
from loopwright.testing._loop import SimLoop
from loopwright.testing.errors import Nondeterministic, ReplayError
from loopwright.testing.strategies import Strategy

if TYPE_CHECKING:
    from loopwright.testing._footprints import Watch

__all__ = ["Exploration", "Failure", "Row", "explore", "replay", "run"]

T = TypeVar("T")
Test = Callable[[], Coroutine[Any, Any, T]]
OnLoop = Callable[[SimLoop], object]

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
_VERSION = "lw1"
_DELAYS_INSTEAD = 2
"""Of delay bounding, where dpor cannot be had."""
_SHRINK_RUNS = 500
"""Runs that shrinking may take: a fraction of a second for a test of some milliseconds, ..."""
_SHRINK_SECONDS = 20.0
"""... and seconds of real time, for a test with real servers."""
_UNDECIDED = "threads or servers take part in this test, and when they answer no schedule decides"


@dataclass(frozen=True, slots=True)
class Row:
    """One step of a schedule."""

    step: int
    time: float
    """Seconds of the loop's clock."""
    lane: str
    """The task, by creation path."""
    task: str
    """The task, by name."""
    file: str
    line: int
    source: str
    """The line of the program at which the step ended."""
    what: str
    """What the step ended with: what the task waits for, or how it ended."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A schedule under which the test failed, shrunk and run again."""

    error: BaseException
    replay: str
    """Runs it again: ``pytest --loopwright-replay=...``, or :func:`replay`."""
    schedule: int
    """How many schedules had been run when it was found, itself included."""
    level: str
    strategy: str
    preemptions: int
    """Decisions that were not first in, first out."""
    rows: list[Row] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Exploration:
    """A search that found nothing."""

    schedules: int
    seconds: float
    covered: bool
    """Whether every interleaving that could make a difference was run."""
    note: str
    """Why not."""
    digests: frozenset[int] = field(repr=False)
    """One number per course that a run took; two runs with the same are the same."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What every run of one search shares."""

    level: str = "task"
    virtual_time: bool = True
    timeout: float | None = None
    max_steps: int = 1_000_000
    on_loop: OnLoop | None = None
    leaks: Checks | None = None


def play(test: Test[T], search: _Search | None, settings: Settings) -> T:
    """One run on a loop of its own. The search gets its strategy back, and knows whether the run failed."""
    loop = SimLoop(
        level=settings.level, search=search, virtual_time=settings.virtual_time, max_steps=settings.max_steps
    )
    failed = True
    try:
        if settings.on_loop is not None:
            settings.on_loop(loop)
        if settings.leaks is not None:
            settings.leaks.begin(loop)
        if settings.timeout is not None:
            loop._limit(settings.timeout)
        result: T = loop.run_until_complete(_checked(test()))
        if settings.leaks is not None:
            settings.leaks.end(loop)
        failed = False
    finally:
        loop.on_step = None
        loop._limit(math.inf)
        loop._finish(failed)
        _tear_down(loop)
    if settings.leaks is not None:
        settings.leaks.ended()
    return result


def _checked(coroutine: Any) -> Coroutine[Any, Any, Any]:
    if type(coroutine) is CoroutineType or asyncio.iscoroutine(coroutine):
        return coroutine
    raise TypeError(f"a test is an async def without arguments; calling this one gave {coroutine!r}")


def _tear_down(loop: SimLoop) -> None:
    """What ``asyncio.run`` does at its end."""
    try:
        left = loop.tasks()
        if left:
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            for task in left:
                if not task.cancelled() and (error := task.exception()) is not None:
                    loop.call_exception_handler(
                        {
                            "message": "unhandled exception during the teardown of a test",
                            "exception": error,
                            "task": task,
                        }
                    )
        if loop._asyncgens:
            loop.run_until_complete(loop.shutdown_asyncgens())
        if loop._default_executor is not None:
            loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def run(  # noqa: PLR0913 (each is a setting of its own)
    main: Test[T],
    *,
    seed: int | None = None,
    level: str = "task",
    virtual_time: bool = True,
    timeout: float | None = None,
    max_steps: int = 1_000_000,
    leaks: bool | Collection[str] = False,
) -> T:
    """Runs ``main()`` to its end, as ``asyncio.run`` does, on a :class:`SimLoop`.

    Args:
        main: an ``async def`` without arguments.
        seed: of the schedule; None is asyncio's own order.
        level: what the schedule may change; see :class:`SimLoop`.
        virtual_time: False keeps time at the real rate.
        timeout: seconds of the loop's clock after which the run fails.
        max_steps: steps without time passing after which it fails.
        leaks: as for :func:`explore`.

    Returns:
        What ``main()`` returns.

    Raises:
        Deadlock: nothing can run any more.
        Livelock: tasks keep each other awake and get nowhere.
        TimeoutError: ``timeout`` is over.
    """
    search = None
    if seed is not None:
        search = _Search.random(seed & 0xFFFF_FFFF_FFFF_FFFF, 1)
        search.begin()
    with _checks(leaks, light=False) as checks:
        return play(main, search, Settings(level, virtual_time, timeout, max_steps, leaks=checks))


def explore(  # noqa: PLR0913 (each is a setting of its own)
    test: Test[Any],
    *,
    strategy: str | Strategy = "random",
    seeds: int = 100,
    level: str | None = None,
    first_seed: int = 0,
    virtual_time: bool = True,
    timeout: float | None = None,
    max_steps: int = 1_000_000,
    leaks: bool | Collection[str] = False,
    on_loop: Callable[[SimLoop], object] | None = None,
) -> Exploration:
    """Runs a test under many schedules; the first under which it fails is shrunk, run again and reported.

    Args:
        test: an ``async def`` without arguments, called anew for every schedule.
        strategy: which schedules: a name ("random", "pct", "delays", "dpor"), the name of a level (random schedules at
            that level), or one of :mod:`loopwright.testing.strategies`.
        seeds: how many schedules, for strategies that sample.
        level: what a schedule may change: "timing", "task" (the default) or "chaos"; see :class:`SimLoop`.
        first_seed: where strategies that sample begin.
        virtual_time: False keeps time at the real rate.
        timeout: seconds of the loop's clock that one run may take.
        max_steps: steps without time passing that one run may take.
        leaks: True, or the names of leak checks (see :class:`leak_checks`): a run that leaves something behind fails.
            Each run is checked; threads, files and sockets are left to ``leak_checks`` around the whole search.
        on_loop: called with the loop of every run before it starts.

    Returns:
        What was searched.

    Raises:
        Exception: what the test raised, as itself, with a note that has the schedule as a table and the string that
            replays it; ``error.__loopwright__`` is the :class:`Failure`.
        Nondeterministic: the same schedule took two courses.
        ValueError: there is no such strategy or level.
    """
    chosen, level = strategies.choose(strategy, seeds=seeds, level=level)
    settings = Settings(level, virtual_time, timeout, max_steps, on_loop)
    with _checks(leaks, light=True) as checks:
        settings = replace(settings, leaks=checks)
        search = chosen.start(first_seed)
        if not search.wants_accesses:
            return _search(test, chosen, search, settings)
        # Its import is worth its time only here.
        from loopwright.testing._footprints import Unavailable, Watch  # noqa: PLC0415

        try:
            with Watch() as watch:
                return _search(test, chosen, search, settings, watch)
        except Unavailable as reason:
            chosen = strategies.delays(_DELAYS_INSTEAD)
            found = _search(test, chosen, chosen.start(first_seed), settings)
            return replace(found, note=f"{chosen.name} instead of dpor ({reason}): {found.note}")


def _checks(leaks: bool | Collection[str], *, light: bool) -> contextlib.AbstractContextManager[Checks | None]:
    """The leak checks of runs: those that can tell which run it was."""
    on = selection(leaks) - PER_PROCESS
    return Checks(on, light=light) if on else contextlib.nullcontext()


def _search(
    test: Test[Any], chosen: Strategy, search: _Search, settings: Settings, watch: Watch | None = None
) -> Exploration:
    """Runs schedule after schedule."""
    began = time.monotonic()
    digests = set()
    watched = settings if watch is None else replace(settings, on_loop=_both(watch.watch, settings.on_loop))
    schedules = 0
    while search.begin():
        schedules += 1
        try:
            play(test, search, watched)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            reported = _report(test, error, search, settings, found=(schedules, chosen))
            raise reported from (error if isinstance(reported, Nondeterministic) else error.__cause__)
        digest = search.digest
        assert digest is not None
        digests.add(digest)
        if schedules == 2:  # noqa: PLR2004 (once per search)
            _check_determinism(test, search, settings)
        if settings.leaks is not None:
            settings.leaks.collect = False  # The first run has told what the garbage collector finds.
    if settings.leaks is not None:
        settings.leaks.searched()
    covered, note = search.coverage()
    if watch is not None and watch.gaps:
        covered, note = False, note or next(iter(sorted(watch.gaps)))
    return Exploration(schedules, time.monotonic() - began, covered, note, frozenset(digests))


def _both(one: OnLoop, other: OnLoop | None) -> OnLoop:
    def on_loop(loop: SimLoop) -> None:
        one(loop)
        if other is not None:
            other(loop)

    return on_loop


def _check_determinism(test: Test[Any], search: _Search, settings: Settings) -> None:
    """Runs the last schedule again: it has to take the same course, unless threads or servers had a say in it."""
    digest, schedule = search.digest, search.schedule
    assert schedule is not None
    again = _Search.replay(schedule)
    again.begin()
    loops: list[SimLoop] = []
    try:
        play(test, again, replace(settings, on_loop=_both(loops.append, settings.on_loop)))
    except Exception as error:
        if loops[0]._met_outside:
            error.add_note(f"loopwright: fails now and then: {_UNDECIDED}")
            raise
        raise _two_courses(test, schedule, settings) from error
    if again.digest != digest and not loops[0]._met_outside:
        raise _two_courses(test, schedule, settings)


def _two_courses(test: Test[Any], schedule: bytes, settings: Settings) -> Nondeterministic:
    """Where two runs of one schedule part, in words."""
    one, two = (_record(test, schedule, settings)[0] for _ in range(2))
    where = "they are equal when looked at closely: the difference comes and goes"
    for first, second in zip(one, two, strict=False):
        if (first.lane, first.file, first.line) != (second.lane, second.file, second.line):
            where = (
                f"they part at step {first.step}: {first.task} at {first.file}:{first.line} ({first.what}) in one, "
                f"{second.task} at {second.file}:{second.line} ({second.what}) in the other"
            )
            break
    else:
        if len(one) != len(two):
            where = f"one takes {len(one)} steps, the other {len(two)}"
    return Nondeterministic(
        f"the same schedule took two courses; {where}. The test depends on something that is not under control: the "
        "order of a set of objects (asyncio.as_completed keeps bare coroutines in one: give it tasks), id() or hash(), "
        "real randomness (use the fixture seeded), real time (use virtual_clock), state that one run leaves to the "
        "next, or a server outside"
    )


def _report(
    test: Test[Any], error: BaseException, search: _Search, settings: Settings, *, found: tuple[int, Strategy]
) -> BaseException:
    """Shrinks and repeats the failing schedule; the error to raise."""
    schedules, strategy = found
    schedule = _shrink(test, error, search, settings)
    rows, again, deviations, outside = _record(test, schedule, settings)
    if again is None or type(again) is not type(error):
        if not outside:
            return _two_courses(test, schedule, settings)
        error.add_note(
            f"loopwright: fails under schedule {schedules} of {strategy.name}, and did not when that was run again: "
            f"{_UNDECIDED}"
        )
        return error
    failure = Failure(
        error=again,
        replay=format_replay(settings.level, schedule),
        schedule=schedules,
        level=settings.level,
        strategy=strategy.name,
        preemptions=deviations,
        rows=rows,
    )
    again.__loopwright__ = failure  # type: ignore[attr-defined]
    again.add_note(describe(failure))
    return again


def _shrink(test: Test[Any], error: BaseException, search: _Search, settings: Settings) -> bytes:
    """The simplest schedule found under which the test fails with an error of the same type."""
    simplest = search.schedule
    assert simplest is not None
    shrink = _Shrink(search, _SHRINK_RUNS)
    ends = time.monotonic() + _SHRINK_SECONDS
    while time.monotonic() < ends and (proposed := _Search.proposed(shrink)) is not None:
        proposed.begin()
        failed = False
        try:
            play(test, proposed, settings)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as other:
            failed = type(other) is type(error)
        if shrink.answer(failed, proposed):
            assert proposed.schedule is not None
            simplest = proposed.schedule
    return simplest


def _record(test: Test[Any], schedule: bytes, settings: Settings) -> tuple[list[Row], BaseException | None, int, bool]:
    """Runs one schedule with every step written down; also tells how far it was from asyncio's own order, and whether
    threads or servers took part.
    """
    rows: list[Row] = []
    loops: list[SimLoop] = []

    def watch(loop: SimLoop) -> None:
        loops.append(loop)
        if settings.on_loop is not None:
            settings.on_loop(loop)

        def on_step(task: Any, nth: int) -> None:
            if task is not None:
                file, line, source, what = _where(task, first=nth == 1)
                rows.append(
                    Row(
                        step=loop.steps,
                        time=loop.time(),
                        lane=loop.lane(task),
                        task=task.get_name(),
                        file=file,
                        line=line,
                        source=source,
                        what=what,
                    )
                )

        loop.on_step = on_step

    search = _Search.replay(schedule)
    search.begin()
    error: BaseException | None = None
    on = settings.leaks.on if settings.leaks is not None else ()
    try:
        with _checks(on, light=False) as checks:
            play(test, search, replace(settings, on_loop=watch, leaks=checks))
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as failed:
        error = failed
    return rows, error, search.deviations[0], loops[0]._met_outside


def _where(task: asyncio.Task[Any], *, first: bool) -> tuple[str, int, str, str]:
    """File, line and source of the program's own code at which a task stands, and what it does there."""
    if not task.done():
        place = where(task)
        what = "lets others run" if place.what == "is about to run" else place.what
        return place.file or "", place.line or 0, place.source, what
    if task.cancelled():
        return "", 0, "", "ends cancelled"
    error = getattr(task, "_exception", None)  # exception() would count as somebody having retrieved it
    if error is None:
        code = getattr(coroutine_of(task), "cr_code", None) if first else None  # else the step before says where
        if code is None:
            return "", 0, "", "ends"
        return code.co_filename, code.co_firstlineno, source_line(code.co_filename, code.co_firstlineno), "ends"
    file, line = "", 0
    for frame, number in traceback.walk_tb(error.__traceback__):
        if not is_library(str(frame.f_globals.get("__name__", ""))) and "__tracebackhide__" not in frame.f_locals:
            file, line = frame.f_code.co_filename, number
    return file, line, source_line(file, line), f"raises {type(error).__name__}: {error}".splitlines()[0]


def describe(failure: Failure) -> str:
    """The failing schedule for a person: a table, and how to run it again."""
    from loopwright.testing._table import table  # noqa: PLC0415 (for failures only)

    return (
        f"loopwright: fails under schedule {failure.schedule} of {failure.strategy} at level {failure.level}, "
        f"{failure.preemptions} decision(s) away from asyncio's own order\n{table(failure.rows)}\n"
        f"replay: {failure.replay}"
    )


def replay(test: Test[T], string: str, *, leaks: bool | Collection[str] = False, **options: Any) -> T:
    """Runs a test under the schedule of a replay string, once.

    Args:
        test: as for :func:`explore`.
        string: what a failure printed, ``lw1:3.13:task:...``.
        leaks: as for :func:`explore`.
        options: ``virtual_time``, ``timeout``, ``max_steps`` and ``on_loop`` as for :func:`explore`.

    Returns:
        What the test returns, if it passes; for the point of a cancel sweep, its report.

    Raises:
        ReplayError: the string is not one, or of another version, or the test has changed so that the schedule does not
            fit it any more.
        Exception: what the test raises, with the note and the :class:`Failure` that :func:`explore` gives it.
    """
    level, schedule, point = parse_replay(string)
    if point:
        from loopwright.testing._sweep import cancel_sweep  # noqa: PLC0415 (it is built on this module)

        return cancel_sweep(test, only=string, leaks=bool(leaks))  # type: ignore[return-value]
    search = _Search.replay(schedule)
    search.begin()
    with _checks(leaks, light=True) as checks:
        settings = Settings(level=level, leaks=checks, **options)
        try:
            result = play(test, search, settings)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            found = 1, Strategy("the replayed one", lambda _: _Search.replay(schedule))
            reported = _report(test, error, search, settings, found=found)
            raise reported from (error if isinstance(reported, Nondeterministic) else error.__cause__)
    diverged = search.diverged
    if diverged is not None:
        raise ReplayError(
            f"the test has changed: at decision {diverged} of the replayed schedule the task that went next is not "
            "there. Search again, without the replay string"
        )
    return result


def format_replay(level: str, schedule: bytes, point: str = "") -> str:
    """The string that :func:`replay` understands."""
    text = base64.urlsafe_b64encode(schedule).decode().rstrip("=")
    return ":".join([_VERSION, MINOR, level, text, *([point] if point else [])])


def parse_replay(string: str) -> tuple[str, bytes, str]:
    """Level, schedule and cancel point of a replay string.

    Raises:
        ReplayError: it cannot be used here; the message says why and what to do.
    """
    parts = string.strip().split(":", 4)
    if len(parts) < 4 or not parts[0].startswith("lw"):  # noqa: PLR2004 (the parts of a replay string)
        raise ReplayError(
            f"{string!r} is not a replay string; it looks like lw1:{MINOR}:task:AAEC and is printed with a failure"
        )
    version, minor, level, text = parts[:4]
    if version != _VERSION:
        raise ReplayError(
            f"{string!r} is of another version of Loopwright ({version}; this one reads {_VERSION}): search again"
        )
    if minor != MINOR:
        raise ReplayError(
            f"{string!r} was recorded on CPython {minor}, this is {MINOR}: asyncio itself takes other steps there. "
            f"Replay it on CPython {minor}, or search again"
        )
    if level not in strategies.LEVELS:
        raise ReplayError(f"{string!r} names no level: {level!r} is none of {', '.join(strategies.LEVELS)}")
    try:
        schedule = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        _Search.replay(schedule)
    except (binascii.Error, ValueError):
        raise ReplayError(f"{string!r} is damaged: copy the whole string") from None
    return level, schedule, parts[4] if len(parts) > 4 else ""  # noqa: PLR2004
