"""cancel_sweep: a cancel at every await point; random_cancels: cancels anywhere.

Lives here: which runs there are, and the verdict on each. Does not live here: how a scenario is run and a cancel
delivered (:mod:`._stages`), the report's text (:mod:`._points`).
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import math
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from loopwright.testing._explore import format_replay, parse_replay
from loopwright.testing._play import NEVER, NOWHERE, Mark, Place, Play, Scenario, Track, place_of
from loopwright.testing._points import (
    WAVES,
    Frame,
    Point,
    Spot,
    SweepReport,
    format_point,
    parse_point,
    source_line,
)
from loopwright.testing._stages import (
    AnyLoop,
    Boundary,
    LoopFactory,
    Orders,
    Setup,
    Simulated,
    Stage,
    comes_of,
    is_only,
)
from loopwright.testing._swallow import CAN_TELL_LINES, CancelWatch
from loopwright.testing.errors import SweepFailure

__all__ = ["InjectedError", "cancel_sweep", "random_cancels"]

Chosen = str | Iterable[str] | Callable[[asyncio.Task[Any]], object] | None


class InjectedError(ConnectionError):
    """What an awaited call raises in the wave "error" of a :func:`cancel_sweep`."""


def cancel_sweep(  # noqa: PLR0913 (each is a setting of its own)
    scenario: Scenario,
    *,
    victims: Chosen = None,
    waves: Iterable[str] = ("cancel", "again", "timeout", "error", "early"),
    at: Literal["await", "step"] = "await",
    again_within: int = 3,
    error: BaseException | type[BaseException] = InjectedError,
    seed: int | None = None,
    level: str = "task",
    loop_factory: LoopFactory | None = None,
    setup: Setup | None = None,
    patience: float = 1.0,
    allow: tuple[type[BaseException], ...] = (),
    catches: Chosen = (),
    invariant: Callable[[], object] | None = None,
    leaks: bool = True,
    only: str | None = None,
    show: Literal["all", "failing"] = "all",
) -> SweepReport:
    """Cancels each task at each of its await points, one run each, and judges what came of it.

    The first run is recorded: who waits where, how often. Then the scenario runs once per point and wave, under the
    same schedule, and that is all: *k* points cost *k* runs. A run is held against more than the scenario's own
    asserts. A task that was cancelled has to end cancelled; nothing may hang; no task, connection or file may be left
    behind; no error may go to the loop's exception handler; no task may end in an exception that it does not end in
    otherwise.

    A scenario should outlive its tasks: one whose ``gather`` or ``await task`` passes the cancel on ends with it, and
    its last asserts are never reached. ``return_exceptions=True``, ``asyncio.wait`` or :meth:`Play.finished` avoid
    that.

    Args:
        scenario: an ``async def`` without arguments, or with one, which is given a :class:`Play`. It is run many
            times: it makes what it works with anew.
        victims: who is cancelled: names of tasks, of coroutine functions, lanes ("0.2": the third task that the
            scenario created), or a predicate on the task. None: each task of the run but the scenario itself (with a
            :class:`Play`: each that it spawned). "main" is the scenario.
        waves: what is done at each point. ``cancel``: a cancel while the task waits, and another run with a cancel when
            it was woken and has not resumed yet. ``again``: after the first cancel a second one, 1 to ``again_within``
            of the victim's steps later, inside its clean-up. ``timeout``: a timeout around the task expires there.
            ``error``: the awaited call raises, where it is one that can. ``early``: a cancel before the first step.
            ``anyio``: a cancel scope of anyio around the task is cancelled there, and cancels again at each await.
        at: ``"await"``, or ``"step"``: ``cancel`` and ``again`` come at every step of anybody while the victim lives.
        again_within: see ``again``; with ``at="step"`` these are steps of the run.
        error: what the wave ``error`` raises.
        seed: of the schedule and of :attr:`Play.rng`; None is first in, first out.
        level: what the schedule may change, see :class:`SimLoop`.
        loop_factory: makes the loop: uvloop's, say. One loop serves all runs, and time is real on it.
        setup: called with each new loop: debug mode, a task factory.
        patience: on a loop with real time, seconds for which nothing may move before that is a hang; more than the
            longest sleep.
        allow: exceptions in which a victim may end.
        catches: of whom it is right to end otherwise than cancelled; chosen like ``victims``.
        invariant: called after each run; raises, or returns False, when what must hold does not: permits, counts.
        leaks: look for tasks and files that are left behind.
        only: repeat the one run of this ``replay`` string.
        show: what the report's text has: all points, or those that failed and the counts.

    Returns:
        Every point and its verdict. When ``leaks`` see none and nothing broke, that is the proof.

    Raises:
        SweepFailure: something broke; ``.report`` has all points. Also when the scenario fails without any cancel.
        ValueError: there is no such wave, or no such victim.
    """
    waves = (waves,) if isinstance(waves, str) else tuple(waves)
    for wave in waves:
        if wave not in WAVES:
            raise ValueError(f"there is no wave {wave!r}: there are {', '.join(WAVES)}")
    if at not in ("await", "step"):
        raise ValueError(f'at is "await" or "step", not {at!r}')
    sweep = _Sweep(
        scenario,
        victims=victims,
        error=error if isinstance(error, BaseException) else error("injected by the cancel sweep"),
        seed=seed,
        allow=allow,
        catches=catches,
        invariant=invariant,
        leaks=leaks,
    )
    began = time.perf_counter()
    if only is not None and only.startswith("lw"):
        level, sweep.schedule, only = parse_replay(only)
    sweep.level = level
    with _stage(level, loop_factory, setup, patience) as sweep.stage:
        sweep.record(alone=only is not None)
        if only is not None:
            sweep.repeat(parse_point(only))
        elif at == "step":
            sweep.at_steps(waves, again_within)
            sweep.at_awaits([wave for wave in waves if wave not in ("cancel", "again", "early")], again_within)
        else:
            sweep.at_awaits(waves, again_within)
    order = {point: index for index, point in enumerate(sweep.points)}
    points = sorted(sweep.points, key=lambda point: (not point.failed, order[point]))
    report = SweepReport(sweep.name, tuple(points), sweep.runs, time.perf_counter() - began, sweep.calm.steps, show)
    if report.failures:
        raise SweepFailure(str(report), report)
    return report


def random_cancels(  # noqa: PLR0913 (each is a setting of its own)
    scenario: Scenario,
    cancels: int,
    *,
    seed: int = 0,
    rate: float = 0.15,
    level: str | None = None,
    loop_factory: LoopFactory | None = None,
    setup: Setup | None = None,
    patience: float = 1.0,
    allow: tuple[type[BaseException], ...] = (),
    catches: Chosen = (),
    invariant: Callable[[], object] | None = None,
    only: int | None = None,
) -> int:
    """Runs a scenario with random cancels of random tasks until so many were delivered.

    What a sweep cannot reach: several cancels of several tasks in one run, in a scenario that is random in itself
    (:attr:`Play.rng`, :meth:`Play.pause`). Each run is judged as in a :func:`cancel_sweep`.

    Args:
        scenario: as for :func:`cancel_sweep`. With a :class:`Play`, the tasks that it spawned are cancelled; else each
            task but the scenario itself.
        cancels: how many.
        seed: run *i* of a seed is always the same run.
        rate: the mean chance of a cancel at a step; each run draws its own around it, so that some runs are storms.
        level: the order is random too, at this level (see :class:`SimLoop`); None: first in, first out.
        loop_factory: as for :func:`cancel_sweep`, and so are ``setup``, ``patience``, ``allow``, ``catches`` and
            ``invariant``.
        only: repeat this one run.

    Returns:
        How many cancels were delivered.

    Raises:
        SweepFailure: something broke; the message names the seed and the run.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"rate is a chance: more than 0, at most 1; not {rate}")
    sweep = _Sweep(scenario, allow=allow, catches=catches, invariant=invariant, leaks=False)
    delivered = 0
    with _stage(level, loop_factory, setup, patience) as sweep.stage:
        for number in itertools.count() if only is None else [only]:
            dice = random.Random(f"{seed}:{number}:cancels")
            gap = _gap(dice.random, min(0.9, rate * dice.choice((0.3, 1.0, 1.0, 3.0))))
            plan = _anybody(gap, dice.random)
            schedule = None if level is None else dice.getrandbits(63)
            orders = Orders(seed=f"{seed}:{number}", schedule=schedule, plan=plan, due=gap(), leaks=False, places=False)
            play = sweep.run(orders)
            delivered += len(play.delivered)
            verdict, detail = sweep.judge(play, None, ())
            if verdict != "ok":
                again = f"random_cancels({sweep.name}, 1, seed={seed}, only={number})"
                raise SweepFailure(f"{sweep.name}: {verdict}: {detail}\nrepeat it with {again}")
            if delivered >= cancels:
                break
    return delivered


def _gap(roll: Callable[[], float], chance: float) -> Callable[[], int]:
    """Steps until the next cancel, when each step has one with this chance."""
    scale = 1 / math.log(1 - chance)
    return lambda: 1 + int(math.log(1 - roll()) * scale)


def _anybody(gap: Callable[[], int], roll: Callable[[], float]) -> Callable[[Play], int]:
    def plan(play: Play) -> int:
        if (track := play._anybody(roll)) is not None:
            play._deliver(track)
        return play.steps + gap()

    return plan


@contextmanager
def _stage(
    level: str | None, loop_factory: LoopFactory | None, setup: Setup | None, patience: float
) -> Iterator[Stage]:
    stage: Stage
    if loop_factory is None:
        stage = Simulated(level or "task", setup, patience)
    else:
        stage = AnyLoop(loop_factory, setup, patience)
    try:
        yield stage
    finally:
        stage.close()


class _Shot:
    """One cancel that was ordered: when it is due it looks whether the run is still on its course, and cancels."""

    def __init__(
        self, spot: Spot, place: Place | None, act: Callable[[Play, Track, asyncio.Task[Any]], object]
    ) -> None:
        self.spot = spot
        self.place = place
        self.act = act
        self.track: Track | None = None
        """Who was hit."""
        self.watch: CancelWatch | None = None
        """Told of the cancel, to see who keeps it."""

    def __call__(self, play: Play, task: asyncio.Task[Any]) -> object:
        if task.done():
            return None
        track = play._track_of(task)
        if self.place is not None and place_of(task).frame != self.place.frame:
            return None
        if self.watch is not None:
            self.watch.arm(task)
        done = self.act(play, track, task)
        if done is not False:
            self.track = track
        return done


def _cancel(play: Play, track: Track, _task: asyncio.Task[Any]) -> bool:
    return play._deliver(track)


@dataclass
class _Calm:
    """The run in which nobody is cancelled."""

    steps: int = 0
    tracks: dict[str, Track] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)
    files: int = 0


class _Sweep:
    """The runs of one scenario, and the verdicts."""

    stage: Stage

    def __init__(  # noqa: PLR0913 (each is a setting of its own)
        self,
        scenario: Scenario,
        *,
        victims: Chosen = None,
        error: BaseException | None = None,
        seed: int | None = None,
        allow: tuple[type[BaseException], ...],
        catches: Chosen,
        invariant: Callable[[], object] | None,
        leaks: bool,
    ) -> None:
        self.scenario = scenario
        self.name: str = getattr(scenario, "__qualname__", None) or repr(scenario)
        self.takes_play = _takes_play(scenario, self.name)
        self.victims = (victims,) if isinstance(victims, str) else victims
        self.catches: Any = (catches,) if isinstance(catches, str) else catches
        self.error = error
        self.seed = seed
        self.schedule: int | bytes | None = seed
        self.level = "task"
        self.allow = allow
        self.invariant = invariant
        self.leaks = leaks
        self.calm = _Calm()
        self.points: list[Point] = []
        self.runs = 0
        self._guilt: dict[tuple[str, Frame], str] = {}

    def run(self, orders: Orders) -> Play:
        self.runs += 1
        return self.stage.play(self.scenario, self.takes_play, orders)

    def orders(self, **options: Any) -> Orders:
        """Orders for a run under the schedule that was recorded."""
        return Orders(seed=str(self.seed or 0), schedule=self.schedule, leaks=self.leaks, **options)

    # The recorded run

    def record(self, *, alone: bool = False) -> None:
        """Runs it with nobody cancelled: it has to pass. The victim of one point ``alone`` is named there."""
        asked = self.victims if callable(self.victims) else None
        play = self.run(self.orders(recording=True, victims=asked))
        left = {track.label for track in play._left if not track.spawned}
        self.calm = _Calm(play.steps, {}, left, len(play._files))
        verdict, detail = self.judge(play, None, ())
        if verdict != "ok":
            raise SweepFailure(f"{self.name} fails without any cancel: {verdict}: {detail}")
        self.calm.tracks = play._tracks
        self.chosen = [track for track in self.calm.tracks.values() if self._is_victim(track)]
        if not self.chosen and not alone:
            there = sorted({track.label for track in self.calm.tracks.values() if track.lane != "0"})
            raise ValueError(
                f"{self.name} has no task {'' if self.victims is None else f'like {self.victims!r} '}to cancel; it has "
                f"{', '.join(there) or 'none but itself'}"
                + ('; victims="main" cancels the scenario itself' if not there else "")
            )

    def _is_victim(self, track: Track) -> bool:
        if self.victims is None:
            return track.spawned if self.takes_play else track.lane != "0"
        if callable(self.victims):
            return bool(track.matches) and track.lane != "0"
        return _named(track, self.victims)

    # Points

    def at_awaits(self, waves: Iterable[str], again_within: int) -> None:
        """A run per wait of each victim."""
        for track in self.chosen:
            places = track.places or []
            if "early" in waves and track.lane != "0":
                self._early(track)
            for nth, place in enumerate(places, 1):
                for moment in ("waiting", "woken"):
                    if "cancel" in waves or "again" in waves:
                        hit = self._cancel_at(track, place, Spot(track.lane, nth, moment))
                        for later in range(1, self._later(hit, nth, again_within if "again" in waves else 0)):
                            self._cancel_at(track, place, Spot(track.lane, nth, moment, "again", later))
                    for wave in ("timeout", "anyio"):
                        if wave in waves:
                            self._expire_at(track, place, Spot(track.lane, nth, moment, wave))
                if "error" in waves and place.can_fail:
                    self._fail_at(track, place, Spot(track.lane, nth, "woken", "error"))

    def at_steps(self, waves: Iterable[str], again_within: int) -> None:
        """A run per step of the scenario, while the victim is alive."""
        for track in self.chosen:
            for step in range(max(1, track.born), min(track.died, self.calm.steps) + 1):
                if not self._step_at(track, Spot(track.lane, step, "step")) or "again" not in waves:
                    continue
                for later in range(1, again_within + 1):
                    self._step_at(track, Spot(track.lane, step, "step", "again", later))

    def repeat(self, spot: Spot) -> None:
        """The one run of a replay string."""
        track = self.calm.tracks.get(spot.lane)
        if track is None:
            raise ValueError(f"{self.name} has no task {spot.lane}: it has {', '.join(self.calm.tracks)}")
        if spot.moment == "step":
            self._step_at(track, spot)
        elif spot.moment == "start":
            self._early(track)
        elif not track.places or not 1 <= spot.nth <= len(track.places):
            raise ValueError(f"{track.label} waits {len(track.places or ())} times, not {spot.nth}")
        elif spot.wave == "error":
            self._fail_at(track, track.places[spot.nth - 1], spot)
        elif spot.wave in ("timeout", "anyio"):
            self._expire_at(track, track.places[spot.nth - 1], spot)
        else:
            self._cancel_at(track, track.places[spot.nth - 1], spot)

    def _early(self, track: Track) -> None:
        shot = _Shot(Spot(track.lane, 0, "start", "early"), None, _cancel)
        self._shoot(track, shot, self.orders(marks={track.lane: {0: Mark("start", shot)}}))

    def _later(self, hit: Track | None, nth: int, most: int) -> int:
        """The first number of steps after a cancel at which the victim's clean-up does not wait any more."""
        return 0 if hit is None else min(hit.steps - nth, most) + 1

    def _cancel_at(self, track: Track, place: Place, spot: Spot) -> Track | None:
        """A cancel, or two; tells who was hit by the last one."""
        shot = _Shot(spot, place, _cancel)
        marks = {spot.nth: Mark(spot.moment, shot)}
        if spot.again:
            shot = _Shot(spot, None, _cancel)
            marks[spot.nth + spot.again] = Mark("waiting", shot)
        return self._shoot(track, shot, self.orders(marks={track.lane: marks}), place)

    def _expire_at(self, track: Track, place: Place, spot: Spot) -> None:
        boundary = Boundary(track.lane, anyio=spot.wave == "anyio")

        def expire(play: Play, victim: Track, task: asyncio.Task[Any]) -> bool:
            stood = place_of(task)
            if not boundary.expire(task):
                return False
            play._took(victim, task, stood)
            return True

        shot = _Shot(spot, place, expire)
        orders = self.orders(marks={track.lane: {spot.nth: Mark(spot.moment, shot)}}, boundary=boundary)
        self._shoot(track, shot, orders, place)

    def _fail_at(self, track: Track, place: Place, spot: Spot) -> None:
        error = self.error
        assert error is not None

        def fail(play: Play, victim: Track, task: asyncio.Task[Any]) -> BaseException:
            play._took(victim, task, place_of(task))
            return type(error)(*error.args)

        shot = _Shot(spot, place, fail)
        orders = self.orders(marks={track.lane: {spot.nth: Mark("throw", shot)}})
        self._shoot(track, shot, orders, place)

    def _step_at(self, track: Track, spot: Spot) -> bool:
        """A cancel at a step of the run; tells whether the victim was there."""
        shot = _Shot(spot, None, _cancel)

        def plan(play: Play) -> int:
            victim = play._tracks.get(track.lane)
            task = victim.ref() if victim is not None else None
            if task is not None:
                shot.track = None
                shot(play, task)
            return spot.nth + spot.again if play.steps < spot.nth + spot.again else NEVER

        return self._shoot(track, shot, self.orders(plan=plan, due=spot.nth)) is not None

    def _shoot(self, track: Track, shot: _Shot, orders: Orders, place: Place | None = None) -> Track | None:
        """Runs with one order, judges, notes the point; gives the victim when it was hit."""
        spot = shot.spot
        orders.main_is_victim = track.lane == "0"
        orders.expects = (*self._expected(spot.wave), *self.allow)
        play = self.run(orders)
        hit = shot.track
        if hit is None:
            if spot.moment != "step" and spot.wave != "again":
                self._note(track, spot, place or NOWHERE, "missed", "", play)
            return None
        verdict, detail = self.judge(play, hit, self._expected(spot.wave), orders.boundary)
        place = place or hit.place or NOWHERE
        if verdict == "swallowed":
            detail += self._culprit(track, shot, orders, place)
        self._note(track, spot, place, verdict, detail, play)
        return hit

    def _note(  # noqa: PLR0913, PLR0917 (what a point is made of)
        self, track: Track, spot: Spot, place: Place, verdict: str, detail: str, play: Play
    ) -> None:
        _, file, line = place.frame
        replay = format_point(spot)
        if play._schedule is not None:
            replay = format_replay(self.level, play._schedule, replay)
        self.points.append(
            Point(
                victim=track.label,
                nth=spot.nth,
                moment=spot.moment,
                wave=spot.wave,
                file=_shown(file),
                line=line,
                source=source_line(file, line),
                chain=tuple((function, _shown(path), at) for function, path, at in place.chain),
                verdict=verdict,
                detail=detail,
                replay=replay,
            )
        )

    def _culprit(self, track: Track, shot: _Shot, orders: Orders, place: Place) -> str:
        """Who handled the cancel: the run again, with an eye on every handler (CPython 3.12 and newer)."""
        key = (track.lane, place.frame)
        if not CAN_TELL_LINES or key in self._guilt:
            return self._guilt.get(key, "")
        if orders.boundary is not None:
            orders.boundary.expired = orders.boundary.passed = False
        with CancelWatch() as shot.watch:
            play = self.run(orders)  # it holds the task
            task = shot.track.ref() if shot.track is not None else None
            swallowed = shot.watch.verdict(task) if task is not None else None
            del play
        self._guilt[key] = ""
        if swallowed is not None and swallowed.where is not None:
            self._guilt[key] = (
                f"; {_shown(swallowed.file or '')}:{swallowed.line} in {swallowed.function} kept the cancel"
            )
            if swallowed.source:
                self._guilt[key] += f": {swallowed.source}"
        return self._guilt[key]

    # Verdicts

    def _expected(self, wave: str) -> tuple[type[BaseException], ...]:
        """In what a victim may end because of what was done to it."""
        if wave in ("timeout", "anyio"):
            return (TimeoutError,)
        return (type(self.error),) if wave == "error" and self.error is not None else ()

    def judge(  # noqa: PLR0911 (each verdict is one)
        self,
        play: Play,
        victim: Track | None,
        expected: tuple[type[BaseException], ...],
        boundary: Boundary | None = None,
    ) -> tuple[str, str]:
        """What came of a run: a verdict and, in words, what happened."""
        main = play.main
        assert main is not None
        if play._hung and (not play._ended or self._stuck(play)):
            return "hang", play._hung
        for track in self._cancelled(play):
            if found := self._judge_victim(play, track, expected, boundary if track is victim else None):
                return found
        if found := self._judge_main(play, main, victim, expected):
            return found
        for track, error in _ended_badly(play):
            if not self._may_end_in(track, error, expected):
                return "error", f"{track.label} ended in {error!r}"
        if self.invariant is not None:
            try:
                if self.invariant() is False:
                    return "invariant", "the invariant is False"
            except Exception as error:
                return "invariant", f"{type(error).__name__}: {error}"
        if play._trouble:
            return "unreported", "; ".join(play._trouble)
        return self._judge_leaks(play)

    def _cancelled(self, play: Play) -> list[Track]:
        return [track for track in play._tracks.values() if track.cancelled]

    def _judge_victim(  # noqa: PLR0911 (each way to end is one)
        self, play: Play, track: Track, expected: tuple[type[BaseException], ...], boundary: Boundary | None
    ) -> tuple[str, str] | None:
        task = track.ref()
        if task is None or (
            track.lane == "0" and task.done() and not task.cancelled() and task.exception() is not None
        ):
            return None  # the scenario's own error is judged as such
        waived = track.catches or track.cancel is not None or self._is_caught(track)
        if not task.done() or track in play._left:
            if waived or track.label in self.calm.left or play._broke_off:
                return None
            return "swallowed", f"{track.label} lives on after the scenario's end, as if it had not been cancelled"
        if task.cancelled():
            return None
        error = task.exception()
        if error is not None:
            if self._may_end_in(track, error, expected):
                return None
            return "error", f"{track.label} ended in {error!r}"
        if waived:
            return None
        if boundary is not None:
            return ("swallowed", f"{track.label} went on after its deadline") if boundary.passed else None
        if expected:
            return None  # an awaited call failed, and that was dealt with
        return "swallowed", f"{track.label} was cancelled and ended as if it had not been"

    def _judge_main(
        self, play: Play, main: asyncio.Task[Any], victim: Track | None, expected: tuple[type[BaseException], ...]
    ) -> tuple[str, str] | None:
        if main.cancelled():
            if play.delivered:
                return None
            return "error", "the scenario ended cancelled, and nobody had cancelled anything"
        error = main.exception()
        if error is None or comes_of(error, expected) or is_only(error, self.allow):
            return None
        if isinstance(error, AssertionError):
            return "invariant", f"AssertionError: {error}" if str(error) else "an assert of the scenario failed"
        return "error", f"the scenario ended in {error!r}"

    def _may_end_in(self, track: Track, error: BaseException, expected: tuple[type[BaseException], ...]) -> bool:
        if comes_of(error, expected) or is_only(error, (*track.allow, *self.allow)):
            return True
        calm = self.calm.tracks.get(track.lane)
        return calm is not None and calm.outcome == type(error).__name__

    def _is_caught(self, track: Track) -> bool:
        if callable(self.catches):
            task = track.ref()
            return task is not None and bool(self.catches(task))
        return self.catches is None or _named(track, self.catches)

    def _stuck(self, play: Play) -> list[Track]:
        """Those who sleep for ever and would have ended by themselves, had nobody been cancelled."""
        ends = {lane for lane, track in self.calm.tracks.items() if track.outcome not in ("", "cancelled")}
        return [track for track in play._left if track.lane in ends]

    def _judge_leaks(self, play: Play) -> tuple[str, str]:
        left = [] if play._broke_off else [track.label for track in play._left if track.label not in self.calm.left]
        if left and self.leaks:
            return "leaked", f"still running after the scenario's end: {', '.join(left)}"
        if not self.leaks and (names := [track.label for track in play._left if track.spawned]) and not play._broke_off:
            return "leaked", f"never ended: {', '.join(names)}"
        if len(play._files) > self.calm.files:
            return "leaked", f"still open after the scenario's end: {', '.join(play._files)}"
        return (
            "ok",
            "the cancel came out of the scenario, whose last asserts were not reached" if play._broke_off else "",
        )


def _ended_badly(play: Play) -> Iterator[tuple[Track, BaseException]]:
    for track in play._tracks.values():
        task = track.ref() if track.spawned else None
        if task is not None and task.done() and not task.cancelled() and (error := task.exception()) is not None:
            yield track, error


def _named(track: Track, names: Iterable[str]) -> bool:
    return any(
        name in (track.name, track.lane, track.function, track.function.rpartition(".")[2])
        or (name == "main" and track.lane == "0")
        for name in names
    )


def _takes_play(scenario: Scenario, name: str) -> bool:
    if not callable(scenario):
        raise TypeError(f"a scenario is an async function, called anew for each run; not {scenario!r}")
    needed = [
        parameter
        for parameter in inspect.signature(scenario).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(needed) > 1:
        raise TypeError(f"a scenario takes nothing, or a Play; {name} takes {', '.join(p.name for p in needed)}")
    return bool(needed)


def _shown(file: str) -> str:
    """A path as people want to read it: relative where that is shorter."""
    try:
        relative = os.path.relpath(file) if file else file
    except ValueError:  # another drive
        return file
    return file if relative.startswith("..") else relative
