"""Stages: the loops that the runs of a sweep are on, and how a run is steered there.

Lives here: running a scenario to its end, with the cancels that were ordered, noticing a hang, and cleaning up behind
it. Does not live here: which cancels are ordered and what is made of the outcome (:mod:`._sweep`).

:class:`Simulated` is on a :class:`SimLoop`, which reports steps and carries orders out by itself. :class:`AnyLoop` uses
asyncio's public interface only: each task's coroutine is wrapped so that it reports its steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
import weakref
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from loopwright._loopwright import _Search
from loopwright.testing._awaits import coroutine_of
from loopwright.testing._deadlock import explain
from loopwright.testing._loop import SimLoop
from loopwright.testing._play import (
    NEVER,
    STEP_LIMIT,
    Mark,
    Play,
    Scenario,
    Track,
    place_in,
    place_of,
)
from loopwright.testing.errors import Deadlock, Livelock

__all__ = ["AnyLoop", "Boundary", "Orders", "Simulated", "Stage", "comes_of", "is_only"]

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
Setup = Callable[[asyncio.AbstractEventLoop], object]

IDLE_TURNS = 12
"""Turns of the loop in a row in which no task makes a step: nothing moves."""
RUN_ON = 20_000
"""Steps that the rest gets to end by itself, when the scenario broke off."""


@dataclass
class Orders:
    """What is to be done in one run."""

    seed: str = "0"
    """Of the scenario's random numbers, and"""
    schedule: int | bytes | None = None
    """of the schedule; or the schedule itself."""
    marks: dict[str, dict[int, Mark]] = field(default_factory=dict)
    plan: Callable[[Play], int] | None = None
    due: int = NEVER
    """The first step that the plan is called at."""
    boundary: Boundary | None = None
    recording: bool = False
    victims: Callable[[asyncio.Task[Any]], object] | None = None
    """Asked about each task, in the run that is recorded."""
    leaks: bool = True
    places: bool = True
    """Note where a victim stood."""
    expects: tuple[type[BaseException], ...] = ()
    """What a victim may end in because of what is done to it."""
    main_is_victim: bool = False

    @property
    def inside(self) -> bool:
        """Something is to happen inside of a coroutine."""
        return self.boundary is not None or any(
            mark.moment == "throw" for marks in self.marks.values() for mark in marks.values()
        )


class Boundary:
    """A timeout, or an anyio scope, around the whole of one task, which expires when it is told to.

    It does what ``asyncio.timeout`` does: cancel the task, and at the boundary take the cancel back and raise
    ``TimeoutError``.
    """

    def __init__(self, lane: str, *, anyio: bool = False) -> None:
        self.lane = lane
        self.expired = False
        self.passed = False
        """The body was left as if nothing had expired."""
        self._scope: Any = None
        self._anyio = anyio

    def expire(self, task: asyncio.Task[Any]) -> bool:
        """The time is up."""
        if task.done():
            return False
        self.expired = True
        if self._anyio:
            if self._scope is None:
                return False
            self._scope.cancel()
            return True
        return task.cancel()

    async def around(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs ``work`` inside."""
        if self._anyio:
            import anyio  # noqa: PLC0415 (only who asks for this wave needs it)

            witness = _Witness(work)
            with anyio.CancelScope() as self._scope:
                result = await witness
                self.passed = witness.saw_cancel  # it need not have: a scope spares who does not wait any more
                return result
            raise TimeoutError
        task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        try:
            result = await work
        except asyncio.CancelledError as cancelled:
            if self.expired and task.uncancel() <= before:
                raise TimeoutError from cancelled
            raise
        except BaseException:
            if self.expired:
                task.uncancel()
            raise
        if self.expired:
            task.uncancel()
            self.passed = True
        return result


class _Witness:
    """Awaits a coroutine and notes whether it was thrown a cancel."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self.saw_cancel = False
        self.gi_frame = None
        self.gi_yieldfrom = work
        """For whoever follows the chain of awaits."""
        self._work = work

    def __await__(self) -> _Witness:
        return self

    def __iter__(self) -> _Witness:
        return self

    def __next__(self) -> Any:
        return self._work.send(None)

    def send(self, value: Any) -> Any:
        return self._work.send(value)

    def throw(self, *error: Any) -> Any:
        self.saw_cancel = self.saw_cancel or isinstance(error[-1], asyncio.CancelledError)
        return self._work.throw(*error)

    def close(self) -> None:
        self._work.close()


class _Stepped(Coroutine[Any, Any, Any]):
    """A coroutine that reports the end of each of its steps."""

    __slots__ = ("_boundary", "_coroutine", "_play", "_throw", "track")

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], play: Play, track: Track, boundary: Boundary | None = None
    ) -> None:
        self._boundary = boundary
        self._coroutine = coroutine
        self._play = play
        self._throw: BaseException | None = None
        self.track = track

    def send(self, value: Any) -> Any:
        if self._throw is not None:
            return self.throw(self._take())
        if self._boundary is not None:  # not before it runs is its lane certain
            if self._boundary.lane == self.track.lane:
                self._coroutine = self._boundary.around(self._coroutine)
            self._boundary = None
        try:
            result = self._coroutine.send(value)
        except BaseException as error:
            self._ended(error)
            raise
        self._suspended(result)
        return result

    def throw(self, *error: Any) -> Any:
        self._throw = self._boundary = None
        try:
            result = self._coroutine.throw(*error)
        except BaseException as raised:
            self._ended(raised)
            raise
        self._suspended(result)
        return result

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise TypeError("a stepped coroutine is driven by its task")

    def __getattr__(self, name: str) -> Any:  # cr_frame and the like, for stacks
        return getattr(self._coroutine, name)

    def _suspended(self, result: Any) -> None:
        track, play = self.track, self._play
        track.steps += 1
        if track.places is not None:
            self._record(result)
        if track.marks is not None and (mark := track.marks.get(track.steps)) is not None:
            self._mark(mark, result)
        play.step()

    def _ended(self, error: BaseException) -> None:
        track = self.track
        if track.places is not None:
            self._name()
            track.died = self._play.steps
        if isinstance(error, StopIteration):
            track.outcome = "returned"
        elif isinstance(error, asyncio.CancelledError):
            track.outcome = "cancelled"
        else:
            track.outcome = type(error).__name__
            if (task := asyncio.current_task(self._play.loop)) is not None:
                self._play._failed.append((task, track))

    def _record(self, result: Any) -> None:
        track = self.track
        assert track.places is not None
        track.places.append(place_in(self._coroutine, result))
        task = self._name()
        if track.matches is None and task is not None and self._play._victims is not None:
            track.matches = bool(self._play._victims(task))

    def _name(self) -> asyncio.Task[Any] | None:
        """Notes the task's name as it is now: an eager task gets it when it has run already."""
        task = asyncio.current_task(self._play.loop)
        if task is not None and not self.track.spawned and self.track.lane != "0":
            self.track.name = task.get_name()
        return task

    def _mark(self, mark: Mark, result: Any) -> None:
        loop = self._play.loop
        task = asyncio.current_task(loop)
        assert task is not None
        if mark.moment == "waiting":
            mark.action(self._play, task)
        elif mark.moment == "throw":
            error = mark.action(self._play, task)
            self._throw = error if isinstance(error, BaseException) else None
        elif result is None:  # a bare yield: the task's next step is about to be scheduled, and this comes before it
            loop.call_soon(mark.action, self._play, task)
        else:  # likewise before the task's own wake-up
            result.add_done_callback(lambda _: mark.action(self._play, task))

    def _take(self) -> BaseException:
        error, self._throw = self._throw, None
        assert error is not None
        return error


class Stage:
    """Loops for runs."""

    def play(self, scenario: Scenario, takes_play: bool, orders: Orders) -> Play:
        """Runs a scenario once, as ordered, to its end or until it hangs, and leaves nothing running."""
        play = self._new_play(orders)
        play._plan, play._places = orders.plan, orders.places
        play._wake_at(min(orders.due, STEP_LIMIT))
        play._recording, play._marks, play._victims = orders.recording, orders.marks, orders.victims
        files = open_files() if orders.leaks else set()
        track = Track("0", scenario)
        track.name = "main"
        try:
            self._begin(play, takes_play, orders)
            work = scenario(play) if takes_play else scenario()  # type: ignore[call-arg]
            main = self._start(play, work, track, takes_play=takes_play)
            play.main = main
            track.ref = weakref.ref(main)
            self._until(play, [main])
            play._ended = main.done()
            if not play._hung:
                self._afterwards(play, main, orders)
            if orders.places:
                self._count(play)
            if orders.leaks and not play._hung and len(open_files()) > len(files):
                self._settle(play, turns=3)  # a transport closes its socket one turn after its close()
            self._look_at_failures(play, orders.expects)
        finally:
            self._clean_up(play)
        if orders.leaks and not play._hung:
            play._files = _new_files(files)
        return play

    def close(self) -> None:
        """After the last run."""

    def _new_play(self, orders: Orders) -> Play:
        raise NotImplementedError

    def _begin(self, play: Play, takes_play: bool, orders: Orders) -> None:
        raise NotImplementedError

    def _start(self, play: Play, work: Any, track: Track, *, takes_play: bool) -> asyncio.Task[Any]:
        raise NotImplementedError

    def _count(self, play: Play) -> None:
        """How often each victim has suspended."""

    def _run_forever(self, play: Play) -> None:
        """Runs until the loop is stopped or nothing moves: then ``play._hung`` says so."""
        raise NotImplementedError

    def _tasks(self, play: Play) -> list[asyncio.Task[Any]]:
        """The tasks that have not ended."""
        return [task for task in asyncio.all_tasks(play.loop) if not task.done()]

    def _track(self, play: Play, task: asyncio.Task[Any]) -> Track:
        """What is known of a task."""
        coroutine = coroutine_of(task)
        if isinstance(coroutine, _Stepped):
            return coroutine.track
        track = Track("-", coroutine)
        track.name, track.ref = task.get_name(), weakref.ref(task)
        return track

    def _wrapped(self, play: Play, make: Callable[..., Any], work: Any, options: dict[str, Any]) -> Any:
        """Makes a task that reports its steps."""
        assert play._adopt is not None
        creator = asyncio.current_task(play.loop)
        parent = self._track(play, creator) if creator is not None else play._tracks["0"]
        track = Track(f"{parent.lane}.{parent.children}", work)
        parent.children += 1
        if play._lane_of is None:
            play._enter(track)
        task = make(play._adopt(work, track), **options)
        if play._lane_of is not None:
            track.lane = play._lane_of(task)
            play._enter(track)
        track.ref = weakref.ref(task)
        if track.marks is not None and (mark := track.marks.get(0)) is not None and mark.moment == "start":
            mark.action(play, task)
        return task

    def _adopting(self, play: Play, orders: Orders) -> Callable[[Any, Track], Any]:
        """Wraps coroutines so that they report their steps."""

        def adopt(work: Any, track: Track) -> Any:
            return _Stepped(work, play, track, orders.boundary) if asyncio.iscoroutine(work) else work

        return adopt

    def _others(self, play: Play) -> list[Track]:
        """Those that live, but for the scenario."""
        return [track for task in self._tasks(play) if (track := self._track(play, task)).lane != "0"]

    def _until(self, play: Play, tasks: list[asyncio.Task[Any]]) -> None:
        """Runs until these have ended."""
        left = [task for task in tasks if not task.done()]
        if not left:
            return
        count = len(left)

        def ended(_: object) -> None:
            nonlocal count
            count -= 1
            if count == 0:
                play.loop.stop()

        for task in left:
            task.add_done_callback(ended)
        self._run_forever(play)
        for task in left:
            task.remove_done_callback(ended)

    def _afterwards(self, play: Play, main: asyncio.Task[Any], orders: Orders) -> None:
        """The scenario has ended: what is left behind?

        When the cancel came out of the scenario itself, the others were not waited for. They are given the time to
        end, as if they had been: that nobody waits for them is the scenario's doing and no finding. When the scenario
        is the victim, nothing that it started may outlive it.
        """
        play._plan, play._due = None, NEVER
        broke_off = main.cancelled() or main.exception() is not None
        play._broke_off = broke_off and not orders.main_is_victim
        if not (left := self._tasks(play)):
            return
        if play._broke_off:
            enough = play.steps + RUN_ON
            play._plan = _stop
            play._wake_at(enough)
            while left and not play._hung and play.steps < enough:
                self._until(play, left)
                left = self._tasks(play)
        else:
            self._settle(play)
        play._left = [self._track(play, task) for task in self._tasks(play)]

    def _settle(self, play: Play, *, turns: int = IDLE_TURNS) -> None:
        """Lets what is ready run."""
        for turn in range(1, turns + 1):
            play.loop.call_soon(play.loop.stop)
            play.loop.run_forever()
            if turn > 1 and not self._tasks(play):
                break

    def _look_at_failures(self, play: Play, expected: tuple[type[BaseException], ...]) -> None:
        """Notes each error that nobody asked for; Python would tell it when the task is collected, if it ever is.

        One that the sweep made, or that may be, is not among them: that nobody asks is the scenario's doing.
        """
        for task, track in play._failed:
            if not task.done() or task.cancelled() or track.spawned or track.lane == "0":
                continue
            asked = not getattr(task, "_log_traceback", False)
            error = task.exception()  # it is told here, and not once more
            if not asked and error is not None and not comes_of(error, expected):
                play._trouble.append(f"nobody asked {track.label} for its exception ({error!r})")

    def _clean_up(self, play: Play) -> None:
        """Ends what is left, whatever it does against that."""
        play._plan, play._due, play._marks = None, NEVER, {}
        loop = play.loop
        left = self._tasks(play)
        if left:
            loop.set_exception_handler(lambda _loop, _context: None)
        for _ in range(100 if left else 0):
            for task in left:
                task.cancel()
            loop.call_soon(loop.stop)
            with contextlib.suppress(RuntimeError):  # a deadlock is no news here
                loop.run_forever()
            left = self._tasks(play)
            if not left:
                break
        for ended in (*play.tasks.values(), *play._held, play.main):
            if ended is not None and ended.done() and not ended.cancelled():
                ended.exception()
        self._end(play, unended=bool(left))
        play._let_go()

    def _end(self, play: Play, *, unended: bool) -> None:
        raise NotImplementedError


class AnyLoop(Stage):
    """One loop of any kind, shared by all runs. What time it is and in what order it runs is its own affair.

    A scenario without argument gets a task factory that wraps every coroutine; with a :class:`Play`, only what it
    spawns is wrapped, so that the program under test meets the loop as it is.
    """

    def __init__(self, loop_factory: LoopFactory | None, setup: Setup | None, patience: float) -> None:
        self._factory = loop_factory or asyncio.new_event_loop
        self._setup = setup
        self._patience = patience
        self._loop = self._open()
        self._seen = self._idle = 0
        self._idle_since = 0.0
        self._playing: Play | None = None

    def _open(self) -> asyncio.AbstractEventLoop:
        loop = self._factory()
        if self._setup is not None:
            self._setup(loop)
        asyncio.set_event_loop(loop)
        self._inner = loop.get_task_factory()
        return loop

    def close(self) -> None:
        """Closes the loop."""
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        self._loop.close()

    def _new_play(self, orders: Orders) -> Play:
        return Play(self._loop, orders.seed)

    def _begin(self, play: Play, takes_play: bool, orders: Orders) -> None:
        play._adopt, play._track_of = self._adopting(play, orders), partial(self._track, play)
        self._loop.set_exception_handler(play.exception_handler)
        if not takes_play:
            self._loop.set_task_factory(self._make)
            play._everybody = partial(self._others, play)
        self._playing = play

    def _make(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
        """The task factory."""
        play = self._playing
        if play is None or play._adopt is None:
            return self._task(loop, work, options)
        return self._wrapped(play, partial(self._make_task, loop), work, options)

    def _make_task(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
        return self._task(loop, work, options)

    def _task(self, loop: asyncio.AbstractEventLoop, work: Any, options: dict[str, Any]) -> Any:
        return asyncio.Task(work, loop=loop, **options) if self._inner is None else self._inner(loop, work, **options)

    def _start(self, play: Play, work: Any, track: Track, *, takes_play: bool) -> asyncio.Task[Any]:
        play._enter(track)
        assert play._adopt is not None
        return self._task(self._loop, play._adopt(work, track), {"name": "main"})  # type: ignore[no-any-return]

    def _run_forever(self, play: Play) -> None:
        self._seen = self._idle = 0
        self._turning = self._loop.call_soon(self._turn, play)
        self._loop.run_forever()
        self._turning.cancel()

    def _turn(self, play: Play) -> None:
        """Once per turn of the loop."""
        if play.steps != self._seen:
            self._idle = 0
        else:
            self._idle += 1
        if self._idle <= IDLE_TURNS:
            play.step()
        elif self._is_stuck():
            play._hung = explain(self._tasks(play), main=play.main, loop=self._loop)
            self._loop.stop()
            return
        self._seen = play.steps
        self._turning = self._loop.call_soon(self._turn, play)

    def _is_stuck(self) -> bool:
        """Nothing moves. For how long now?"""
        if self._idle == IDLE_TURNS + 1:
            self._idle_since = time.monotonic()
        if time.monotonic() - self._idle_since < self._patience:
            time.sleep(0.0002)
            return False
        return True

    def _end(self, play: Play, *, unended: bool) -> None:
        self._playing = None
        self._loop.set_task_factory(self._inner)
        if unended:
            self._loop.close()
            self._loop = self._open()


def _stop(play: Play) -> int:
    play.loop.stop()
    return NEVER


class _SweptLoop(SimLoop):
    """A SimLoop whose tasks can be wrapped as they are made, whatever makes them."""

    wrap: Callable[[Callable[..., Any], Any, dict[str, Any]], Any] | None = None

    def create_task(self, coro: Any, **options: Any) -> Any:
        """As ``SimLoop.create_task``."""
        make = super().create_task
        return make(coro, **options) if self.wrap is None else self.wrap(make, coro, options)


class Simulated(Stage):
    """A :class:`SimLoop` for each run: virtual time, a chosen schedule, hangs found at once.

    The loop reports steps and carries out orders by itself. Coroutines are wrapped only where something has to happen
    inside of them (an awaited call fails, a timeout expires), and where a task factory makes the first step eager, of
    which the loop sees nothing.
    """

    def __init__(self, level: str, setup: Setup | None, patience: float) -> None:
        self._level = level
        self._setup = setup

    def _new_play(self, orders: Orders) -> Play:
        kind = _SweptLoop if orders.inside else SimLoop
        if isinstance(orders.schedule, bytes):
            search = _Search.replay(orders.schedule)
            search.begin()
            loop = kind(level=self._level, search=search, max_steps=STEP_LIMIT)
        else:
            loop = kind(level=self._level, seed=orders.schedule, max_steps=STEP_LIMIT)
        if self._setup is not None:
            self._setup(loop)
        play = Play(loop, orders.seed)
        play._sim = loop
        return play

    def _begin(self, play: Play, takes_play: bool, orders: Orders) -> None:
        loop = play.loop
        assert isinstance(loop, SimLoop)
        eager = loop.get_task_factory() is not None
        loop.set_exception_handler(play.exception_handler)
        if not eager:
            play._lane_of = loop.lane
        if eager or orders.inside:
            play._adopt, play._track_of = self._adopting(play, orders), partial(self._track, play)
            if eager and not takes_play:
                inner = loop.get_task_factory()
                loop.set_task_factory(partial(self._make, play, inner))
        else:
            play._track_of = partial(self._lane_track, play)
            play._marks = {}
            for lane, marks in orders.marks.items():
                for nth, mark in marks.items():
                    before = mark.moment != "waiting"
                    loop.inject(lane, nth + before, partial(self._act, play, mark), before=before)
            if orders.recording:
                loop.on_step = partial(self._record, play)
            elif not takes_play:
                loop.on_step = partial(self._watch, play)
        if not takes_play:
            play._everybody = partial(self._others, play)

    def _start(self, play: Play, work: Any, track: Track, *, takes_play: bool) -> asyncio.Task[Any]:
        loop = play.loop
        play._enter(track)
        if play._adopt is None:
            return loop.create_task(work, name="main")
        factory = loop.get_task_factory()
        loop.set_task_factory(None)
        main = loop.create_task(play._adopt(work, track), name="main")
        loop.set_task_factory(factory)
        if isinstance(loop, _SweptLoop) and not takes_play and factory is None:
            loop.wrap = partial(self._wrapped, play)
        return main

    def _make(self, play: Play, inner: Any, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
        """A task factory around another, whose tasks may be eager."""
        return self._wrapped(play, partial(inner, loop), work, options)

    def _act(self, play: Play, mark: Mark, task: asyncio.Task[Any] | None) -> None:
        if task is not None:
            mark.action(play, task)

    def _lane_track(self, play: Play, task: asyncio.Task[Any]) -> Track:
        """What is known of a task that is not wrapped."""
        lane = play.loop.lane(task)  # type: ignore[attr-defined]
        track = play._tracks.get(lane)
        if track is None:
            track = Track(lane, coroutine_of(task))
            track.name = task.get_name()
            play._enter(track)
        if track.ref() is None:
            track.ref = weakref.ref(task)
        return track

    def _track(self, play: Play, task: asyncio.Task[Any]) -> Track:
        return self._lane_track(play, task) if play._adopt is None else super()._track(play, task)

    def _watch(self, play: Play, task: asyncio.Task[Any] | None, _nth: int) -> None:
        """After each step of a run."""
        if task is not None and task.done() and not task.cancelled() and task._exception is not None:
            play._failed.append((task, self._lane_track(play, task)))

    def _record(self, play: Play, task: asyncio.Task[Any] | None, _nth: int) -> None:
        """After each step of the run that is recorded."""
        if task is not None:
            track = self._lane_track(play, task)
            if not task.done():
                track.steps += 1
                if track.places is None:
                    track.places = []
                track.places.append(place_of(task))
                if track.matches is None and play._victims is not None:
                    track.matches = bool(play._victims(task))
            else:
                track.died = play.steps
                track.outcome = "cancelled" if task.cancelled() else _outcome(task)
        self._watch(play, task, _nth)

    def _count(self, play: Play) -> None:
        play._schedule = play.loop.trace()  # type: ignore[attr-defined]
        if play._adopt is None:
            for task in play._held:
                steps = play.loop.resumptions(task)  # type: ignore[attr-defined]
                self._lane_track(play, task).steps = steps - task.done()

    def _tasks(self, play: Play) -> list[asyncio.Task[Any]]:
        return play.loop.tasks()  # type: ignore[attr-defined,no-any-return]

    def _run_forever(self, play: Play) -> None:
        try:
            play.loop.run_forever()
        except (Deadlock, Livelock) as stuck:
            play._hung = str(stuck)

    def _end(self, play: Play, *, unended: bool) -> None:
        loop = play.loop
        assert isinstance(loop, SimLoop)
        loop.on_step = None
        if isinstance(loop, _SweptLoop):
            loop.wrap = None
        if not unended:
            if loop._asyncgens:
                loop.run_until_complete(loop.shutdown_asyncgens())
            if loop._default_executor is not None:
                loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        loop.set_exception_handler(None)


def _outcome(task: asyncio.Task[Any]) -> str:
    error = task._exception  # asking by exception() would count as having been told
    return "returned" if error is None else type(error).__name__


def is_only(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    """It is of these kinds, or a group of nothing else."""
    if isinstance(error, kinds):
        return True
    return isinstance(error, BaseExceptionGroup) and all(is_only(inner, kinds) for inner in error.exceptions)


def comes_of(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    """The same, or raised from one of these, as libraries do that have errors of their own."""
    return is_only(error, kinds) or (error.__cause__ is not None and comes_of(error.__cause__, kinds))


def _new_files(before: set[str]) -> list[str]:
    """The files that were opened and are open still."""
    after = open_files()
    if len(after) > len(before):
        gc.collect()
        after = open_files()
    if len(after) <= len(before):
        return []
    return [os.readlink(f"/proc/self/fd/{number}") for number in sorted(after - before)]


def open_files() -> set[str]:
    """The numbers of this process's open files; empty where the system does not tell."""
    try:
        numbers = set(os.listdir("/proc/self/fd"))
        probe = os.open(os.devnull, os.O_RDONLY)  # it gets the number that the list itself had
    except OSError:
        return set()
    os.close(probe)
    numbers.discard(str(probe))
    return numbers
