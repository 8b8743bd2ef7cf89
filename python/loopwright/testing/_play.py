"""Play: one run of a scenario, and who takes part in it.

Lives here: the tasks of a run, their steps and waits, how they took their cancels. Does not live here: the loop that a
run is on (:mod:`._stages`), what is cancelled when and what came of it (:mod:`._sweep`).
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

from loopwright.testing._awaits import coroutine_of, follow, is_user
from loopwright.testing._loop import SimLoop
from loopwright.testing._points import Frame

__all__ = ["NEVER", "NOWHERE", "Mark", "Place", "Play", "Scenario", "Track", "place_in", "place_of"]

Scenario = Callable[[], Awaitable[object]] | Callable[["Play"], Awaitable[object]]
Cancel = Callable[[], object]

NEVER = 1 << 62
STEP_LIMIT = 200_000
"""Steps of one run after which its tasks are held to keep each other awake for ever."""

_TESTING = os.path.dirname(__file__)
_OURS = os.path.dirname(_TESTING)
_ASYNCIO = os.path.dirname(asyncio.__file__)
_HIDDEN = (__file__, os.path.join(_TESTING, "_stages.py"))
_UNNAMED = re.compile(r"Task-\d+|None|")
"""Names that nobody gave; CPython 3.13.0 calls what a task factory made "None"."""


class Mark(NamedTuple):
    """What is to happen at a wait of a task."""

    moment: str
    """``waiting`` | ``woken`` | ``start``, or ``throw``: its awaited call fails."""
    action: Callable[[Play, asyncio.Task[Any]], object]


class Place(NamedTuple):
    """Where a task waited."""

    chain: tuple[Frame, ...]
    """What it awaited, outermost first."""
    frame: Frame
    """The innermost of the tested code: not asyncio's, not ours."""
    can_fail: bool
    """Whether what it awaited is of a kind that fails in real life."""


def _nothing() -> None:
    pass


NOWHERE = Place((), ("", "", 0), False)


class Track:
    """One task of a run. There are many and few of them are more than started: hence the defaults at the class."""

    name = ""
    ref: Callable[[], asyncio.Task[Any] | None] = staticmethod(_nothing)
    """The task. Weak: nothing that the garbage collector would take is to live on because it is watched."""
    cancel: Cancel | None = None
    """How to cancel it, when that is not ``task.cancel()``."""
    catches = False
    allow: tuple[type[BaseException], ...] = ()
    spawned = False
    children = 0
    steps = 0
    """How often it has suspended."""
    places: list[Place] | None = None
    """Where, each time; in the run that is recorded."""
    marks: dict[int, Mark] | None = None
    """What is to happen at which of its waits."""
    matches: bool | None = None
    """What the predicate ``victims`` said of it."""
    cancelled = 0
    """Cancels that it accepted."""
    place: Place | None = None
    """Where it stood at the first of them."""
    born = 0
    """The step of the run before which it was created, and"""
    died = NEVER
    """the one in which it ended."""
    outcome = ""
    """How it ended: ``returned``, ``cancelled``, the name of its exception; empty: it did not."""

    def __init__(self, lane: str, work: Any) -> None:
        self.lane = lane
        self.qualname: str = getattr(work, "__qualname__", None) or type(work).__qualname__

    @property
    def function(self) -> str:
        """The name of its coroutine function."""
        return self.qualname.rpartition("<locals>.")[2]

    @property
    def label(self) -> str:
        """Its name for people: tasks that nobody named are told by their function and lane."""
        return self.name if self.spawned or not _UNNAMED.fullmatch(self.name) else f"{self.function} ({self.lane})"


class Play:
    """One run of a scenario: what a scenario with an argument is given.

    Such a scenario starts its tasks with :meth:`spawn`, waits for them with :meth:`finished`, and then asserts what
    must hold whatever was cancelled. Its victims are the tasks that it spawned, unless ``victims`` names others.

    Attributes:
        loop: the event loop.
        tasks: the spawned tasks by name.
        main: the task of the scenario itself.
        delivered: (step, name) of each cancel that a task accepted.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seed: str) -> None:
        self.loop = loop
        self.tasks: dict[str, asyncio.Task[Any]] = {}
        self.main: asyncio.Task[Any] | None = None
        self.delivered: list[tuple[int, str]] = []
        self._sim: SimLoop | None = None
        """The loop, when it is one that counts steps."""
        self._steps = 0
        """Those that the loop does not count."""
        self._seed = seed
        self._rng: random.Random | None = None
        self._plan: Callable[[Play], int] | None = None
        self._due = STEP_LIMIT
        self._tracks: dict[str, Track] = {}
        self._alive: list[tuple[Track, asyncio.Task[Any]]] = []
        self._trouble: list[str] = []
        self._failed: list[tuple[asyncio.Task[Any], Track]] = []
        self._held: list[asyncio.Task[Any]] = []
        self._hung = ""
        self._ended = False
        """The scenario came to its end."""
        self._everybody: Callable[[], list[Track]] | None = None
        """All tasks but the scenario, when it is not about those that it spawned."""
        self._recording = False
        self._marks: dict[str, dict[int, Mark]] = {}
        self._adopt: Callable[[Any, Track], Any] | None = None
        self._lane_of: Callable[[asyncio.Task[Any]], str] | None = None
        self._track_of: Callable[[asyncio.Task[Any]], Track]
        self._victims: Callable[[asyncio.Task[Any]], object] | None = None
        self._left: list[Track] = []
        self._files: list[str] = []
        self._schedule: bytes | None = None
        """What a loop that can be replayed decided."""
        self._broke_off = False
        self._places = True
        """Look where a victim stands when it is cancelled."""

    @property
    def steps(self) -> int:
        """Steps of the run so far."""
        return self._steps if self._sim is None else self._steps + self._sim.steps

    @property
    def rng(self) -> random.Random:
        """Random numbers, the same ones each time this run is repeated."""
        if self._rng is None:
            self._rng = random.Random(self._seed)
        return self._rng

    def spawn(  # noqa: PLR0913 (each is a setting of its own)
        self,
        work: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        cancel: Cancel | None = None,
        catches: bool = False,
        allow: tuple[type[BaseException], ...] = (),
        context: Any = None,
    ) -> asyncio.Task[Any]:
        """Starts a task that can be cancelled.

        Args:
            work: its coroutine.
            name: what ``victims`` and messages call it.
            cancel: how to cancel it, when that is not ``task.cancel()``: a timeout's ``reschedule``, a scope's
                ``cancel``. It answers False when there was nothing to cancel.
            catches: it is right for this task to end otherwise than cancelled after a cancel.
            allow: exceptions in which it may end.
            context: as for ``loop.create_task``.

        Raises:
            ValueError: the play has a task of that name already.
        """
        name = name if name is not None else f"task-{len(self.tasks)}"
        if name in self.tasks:
            raise ValueError(f"two tasks of one play are called {name!r}")
        track = Track(f"0.{len(self.tasks)}", work)
        track.name, track.spawned = name, True
        track.cancel, track.catches, track.allow = cancel, catches, allow
        if self._lane_of is None:
            self._enter(track)
        if self._adopt is not None:
            work = self._adopt(work, track)
        options = {} if context is None else {"context": context}
        task = self.loop.create_task(work, name=name, **options)
        if self._lane_of is not None:
            track.lane = self._lane_of(task)
            self._enter(track)
        track.ref = weakref.ref(task)
        self.tasks[name] = task
        self._alive.append((track, task))
        if track.marks is not None and (mark := track.marks.get(0)) is not None and mark.moment == "start":
            mark.action(self, task)
        return task

    async def finished(self) -> None:
        """Waits until every spawned task has ended, those spawned meanwhile included."""
        while pending := [task for _, task in self._alive if not task.done()]:
            await asyncio.wait(pending)

    async def pause(self, most: int = 3) -> None:
        """Lets a random number of turns of the loop pass."""
        for _ in range(self.rng.randint(0, most)):
            await asyncio.sleep(0)

    def step(self) -> None:
        """A point in the middle of a task's step at which somebody may be cancelled, as a call from here would."""
        self._steps += 1
        if self._sim is None:
            if self._steps >= self._due:
                self._reached()
        elif self.steps >= self._due:
            self._reached()
        else:
            self._arm()

    def exception_handler(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's exception handler during the run: what comes here was reported to nobody, and is a finding."""
        error = context.get("exception")
        self._trouble.append(f"{context.get('message')}{f' ({error!r})' if error is not None else ''}")

    # For stages and sweeps

    def _enter(self, track: Track) -> None:
        """A task takes part from now on."""
        self._tracks[track.lane] = track
        if self._recording:
            track.born = self.steps
            track.places = [] if track.places is None else track.places
        if self._marks:
            track.marks = self._marks.get(track.lane)

    def _reached(self) -> None:
        """The step that the plan waits for."""
        if self.steps < STEP_LIMIT:
            self._wake_at(NEVER if self._plan is None else min(self._plan(self), STEP_LIMIT))
        else:
            self._hung = self._hung or f"after {self.steps} steps the tasks still keep each other awake: a livelock"
            self._due = NEVER
            self.loop.stop()

    def _wake_at(self, step: int) -> None:
        """The plan waits for this step."""
        self._due = step
        if self._sim is not None:
            self._arm()

    def _arm(self) -> None:
        """A loop that counts steps calls when it is time; it does not count what :meth:`step` adds meanwhile."""
        if self._sim is not None and self._due < STEP_LIMIT:
            self._sim.inject("", self._due - self._steps, self._rung)

    def _rung(self, _task: object) -> None:
        sim = self._sim
        assert sim is not None
        steps = self._steps + sim.steps
        if steps < self._due:
            return
        if self._plan is None or steps >= STEP_LIMIT:
            self._reached()
            return
        due = self._due = self._plan(self)
        if due < STEP_LIMIT:
            sim.inject("", due - self._steps, self._rung)

    def _deliver(self, track: Track) -> bool:
        """Cancels a task now; tells whether it accepted that."""
        task = track.ref()
        if task is None or task.done():
            return False
        place = place_of(task) if self._places and track.place is None else None
        if (track.cancel or task.cancel)() is False:
            return False
        self._took(track, task, place)
        return True

    def _took(self, track: Track, task: asyncio.Task[Any], place: Place | None) -> None:
        """A task accepted a cancel, or what stands for one."""
        if not track.cancelled:
            track.place = place
            self._held.append(task)  # to see how it ends; a task that is to run is held by the loop anyhow
        track.cancelled += 1
        self.delivered.append((self.steps, track.label))

    def _let_go(self) -> None:
        """The run is over: no cycle is left for the garbage collector."""
        self._adopt = self._lane_of = self._everybody = self._plan = self._victims = None
        del self._track_of

    def _anybody(self, roll: Callable[[], float]) -> Track | None:
        """Somebody who lives, at random, for a random cancel."""
        if self._everybody is not None:
            everybody = self._everybody()
            return everybody[int(roll() * len(everybody))] if everybody else None
        alive = self._alive
        while alive:
            index = int(roll() * len(alive))
            track, task = alive[index]
            if not task.done():
                return track
            alive[index] = alive[-1]  # it is not asked again
            alive.pop()
        return None


# Where a task stands

_IO = ("streams.py", "sslproto.py", "subprocess.py", "selector_events.py", "base_events.py", "proactor_events.py")


def place_of(task: asyncio.Task[Any]) -> Place:
    """Where a suspended task stands."""
    coroutine = coroutine_of(task)
    return place_in(getattr(coroutine, "_coroutine", coroutine), getattr(task, "_fut_waiter", None))


def place_in(coroutine: Any, waits_for: Any) -> Place:
    """Where a suspended coroutine stands; ``waits_for`` is what it yielded to its task.

    A lock, a queue, a group wait for nothing that can raise: an exception thrown there would be a lie, and what it
    broke no finding. I/O can fail, so can a bare future, and a sleep, which in tests stands for I/O.
    """
    chain: list[Frame] = []
    users: Frame | None = None
    for step in follow(coroutine, None)[0]:
        if step.frame is None or step.frame.f_code.co_filename in _HIDDEN:
            continue
        code = step.frame.f_code
        chain.append((code.co_qualname, code.co_filename, step.frame.f_lineno))
        if is_user(step):
            users = chain[-1]
    if not chain:
        return NOWHERE
    function, file, _ = chain[-1]
    if isinstance(waits_for, asyncio.Task) or type(waits_for).__name__ in ("_GatheringFuture", "_Fut"):
        can_fail = False
    elif file.startswith(_ASYNCIO):
        can_fail = os.path.basename(file) in _IO or function in ("sleep", "__sleep0")
    else:
        can_fail = not file.startswith(_OURS) or file.startswith(_TESTING)
    return Place(tuple(chain), users or chain[-1], can_fail)
