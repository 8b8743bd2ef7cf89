"""Cancel at every await point, and at random: the proof that a primitive loses nothing.

A *scenario* is an ``async def`` that takes a :class:`Play`, starts its tasks with :meth:`Play.spawn`, waits for them
with :meth:`Play.finished` and then asserts what must hold whatever was cancelled::

    async def two_getters(play: Play) -> None:
        queue, got = Queue(), []

        async def getter() -> None:
            got.append(await queue.get())

        play.spawn(getter(), name="a")
        play.spawn(getter(), name="b")
        play.spawn(putter(queue, 1, 2), name="putter")
        await play.finished()
        assert len(got) + queue.qsize() == 2

    sweep(two_getters, victim="a")

:func:`sweep` runs it once per *scheduler step*, cancelling the victim at that step, and again with a second cancel one
to three steps later. A step is the end of every step of every spawned task (so there is a cancel point between two
tasks that are woken in one batch) and every turn of the loop. :func:`random_schedules` runs it with random cancels of
random tasks until so many were delivered.

Each run is judged by more than the scenario's own asserts: a task that was cancelled must end cancelled (unless it was
spawned with ``catches=True``), a task may not end in an unexpected exception, nothing may reach the loop's exception
handler, and the run has to end: when nothing moves any more, that is a failure which names the cancel points and the
tasks that sleep.

Only asyncio's public interface is used, so any loop will do. On the default one (:class:`VirtualLoop`) time is virtual:
when every task waits, the clock jumps to the next timer.
"""

from __future__ import annotations

import asyncio
import heapq
import io
import itertools
import os
import random
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any

from support.loops import PLAIN, Cell

__all__ = ["Failure", "Play", "Sweep", "VirtualLoop", "cancels", "count_steps", "in_cell", "random_schedules", "sweep"]

Scenario = Callable[["Play"], Awaitable[None]]
LoopFactory = Callable[[], asyncio.AbstractEventLoop]
Plan = Callable[["Play"], None]

STEP_LIMIT = 200_000
IDLE_TURNS = 12
"""Turns of the loop in a row in which no task makes a step and no timer is left: a hang."""

DEFAULT, CELL, STRESS = 100_000, 2_000, 1_000_000


def cancels(*, cell: bool = False, share: float = 1.0) -> int:
    """How many random cancels to deliver.

    One object gets 100,000 in all on the default interpreter and loop, 2,000 in each other cell (uvloop, eager tasks,
    debug mode, other interpreters) and 1,000,000 under ``LOOPWRIGHT_STRESS=1``; ``share`` is one scenario's part of it.
    """
    if os.environ.get("LOOPWRIGHT_STRESS") == "1":
        return max(1, round(STRESS * share))
    secondary = cell or os.environ.get("LOOPWRIGHT_CORE_SUITE") == "1"
    return max(1, round((CELL if secondary else DEFAULT) * share))


def in_cell(cell: Cell) -> dict[str, Any]:
    """The arguments that make a sweep run in a cell: ``sweep(scenario, victim="a", **in_cell(cell))``."""

    def setup(loop: asyncio.AbstractEventLoop) -> None:
        loop.set_debug(cell.debug)
        if cell.eager:
            loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]

    return {"loop_factory": cell.new_loop if cell.loop != PLAIN.loop else None, "setup": setup}


class Failure(AssertionError):
    """A run that broke a promise; the message says how to repeat it."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's loop with a clock that stands still until :meth:`advance`."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual_now = 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self._virtual_now

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:  # type: ignore[override]
        handle = super().call_at(when, callback, *args, context=context)
        heapq.heappush(self._timers, (when, next(self._order), handle))
        return handle

    def advance(self) -> bool:
        """Jumps to the next live timer; tells whether there was one."""
        while self._timers:
            when, _, handle = heapq.heappop(self._timers)
            if not handle.cancelled():
                self._virtual_now = max(self._virtual_now, when)
                return True
        return False


class _Stepped(Coroutine[Any, Any, Any]):
    """A coroutine that reports the end of each of its steps."""

    __slots__ = ("_coroutine", "_play")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], play: Play) -> None:
        self._coroutine = coroutine
        self._play = play

    def send(self, value: Any) -> Any:
        result = self._coroutine.send(value)
        self._play.step()
        return result

    def throw(self, *error: Any) -> Any:
        result = self._coroutine.throw(*error)
        self._play.step()
        return result

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise TypeError("a stepped coroutine is driven by its task")

    def __getattr__(self, name: str) -> Any:  # cr_frame and the like, for stacks
        return getattr(self._coroutine, name)


@dataclass
class Actor:
    """One spawned task."""

    name: str
    task: asyncio.Task[Any]
    cancel: Callable[[], object]
    native: bool
    catches: bool
    allow: tuple[type[BaseException], ...]
    cancelled: int = 0
    """Cancels that it accepted."""


@dataclass
class Play:
    """One run of a scenario."""

    loop: asyncio.AbstractEventLoop
    rng: random.Random
    plan: Plan
    actors: dict[str, Actor] = field(default_factory=dict)
    steps: int = 0
    delivered: list[tuple[int, str]] = field(default_factory=list)
    """(step, actor) of each cancel that was accepted."""
    hung: bool = False
    patience: float = 0.0
    """Seconds of real time for which nothing may move (threads are at work) before that counts as a hang."""
    _alive: list[Actor] = field(default_factory=list)
    _task_steps: int = 0
    _seen: int = 0
    _idle: int = 0
    _idle_since: float = 0.0
    _trouble: list[str] = field(default_factory=list)
    _main: asyncio.Task[None] | None = None

    def spawn(  # noqa: PLR0913 (each is a setting of its own)
        self,
        work: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        cancel: Callable[[], object] | None = None,
        catches: bool = False,
        allow: tuple[type[BaseException], ...] = (),
        context: Any = None,
    ) -> asyncio.Task[Any]:
        """Starts a task that can be cancelled.

        Args:
            work: its coroutine.
            name: what the sweep's ``victim`` and messages call it.
            cancel: how to cancel it, when that is not ``task.cancel()`` (a timeout's reschedule, a scope's cancel).
            catches: it is right for this task to end otherwise than cancelled after a cancel.
            allow: exceptions in which it may end.
            context: as for ``loop.create_task``.
        """
        name = name if name is not None else f"task-{len(self.actors)}"
        assert name not in self.actors, f"two actors are called {name}"
        stepped = _Stepped(work, self) if asyncio.iscoroutine(work) else work
        extra = {} if context is None else {"context": context}
        task = self.loop.create_task(stepped, name=name, **extra)
        actor = Actor(name, task, cancel or task.cancel, cancel is None, catches, allow)
        self.actors[name] = actor
        self._alive.append(actor)
        return task

    async def finished(self) -> None:
        """Waits until every spawned task has ended, those spawned meanwhile included."""
        while pending := [actor.task for actor in self._alive if not actor.task.done()]:
            await asyncio.wait(pending)

    async def pause(self, most: int = 3) -> None:
        """Lets a random number of turns of the loop pass."""
        for _ in range(self.rng.randint(0, most)):
            await asyncio.sleep(0)

    def step(self) -> None:
        """The end of a task's step."""
        self._task_steps += 1
        self._next()

    def cancel(self, name: str) -> bool:
        """Cancels an actor now; tells whether there was anything to cancel."""
        actor = self.actors.get(name)
        if actor is None or actor.task.done():
            return False
        if actor.cancel() is False:
            return False
        actor.cancelled += 1
        self._idle = 0
        self.delivered.append((self.steps, name))
        return True

    def alive(self) -> list[Actor]:
        """The actors that have not ended."""
        self._alive = [actor for actor in self._alive if not actor.task.done()]
        return self._alive

    def _next(self) -> None:
        self.steps += 1
        if self.steps > STEP_LIMIT:
            self.hung = True
            self.loop.stop()
        else:
            self.plan(self)

    def _turn(self) -> None:
        """Once per turn of the loop."""
        if self._main is None or self._main.done():
            return
        if self._task_steps != self._seen:
            self._seen, self._idle = self._task_steps, 0
        else:
            self._idle += 1
        if self._idle > IDLE_TURNS and self._is_stuck():
            self.hung = True
            self.loop.stop()
            return
        if self._idle <= IDLE_TURNS:
            self._next()
        self.loop.call_soon(self._turn)

    def _is_stuck(self) -> bool:
        import time  # noqa: PLC0415 (the real clock is for this one question)

        if self._idle == IDLE_TURNS + 1:
            self._idle_since = time.monotonic()
        virtual = isinstance(self.loop, VirtualLoop)
        if isinstance(self.loop, VirtualLoop) and self.loop.advance():
            self._idle = 0
            return False
        waited = time.monotonic() - self._idle_since
        if waited < max(self.patience, 0.0 if virtual else 1.0):
            time.sleep(0.0002)
            return False
        return True

    def _handle(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._trouble.append(f"the loop's exception handler got: {context.get('message')} {context.get('exception')!r}")

    def run(self, scenario: Scenario) -> None:
        """Runs it and judges it."""
        self.loop.set_exception_handler(self._handle)
        main = self.loop.create_task(self._drive(scenario), name="scenario")
        self._main = main
        if not main.done():  # an eager task may be
            main.add_done_callback(lambda _: self.loop.stop())
            self.loop.call_soon(self._turn)
            self.loop.run_forever()
        stuck = self._sleepers() if self.hung else ""
        self._clean_up(main)
        if stuck:
            raise Failure(f"hangs after {self.steps} steps; asleep:\n{stuck}")
        if not main.cancelled() and (error := main.exception()) is not None:
            raise Failure(f"{type(error).__name__}: {error}") from error
        if self._trouble:
            raise Failure("\n".join(self._trouble))

    async def _drive(self, scenario: Scenario) -> None:
        await scenario(self)
        for actor in self.actors.values():
            task = actor.task
            if not task.done():
                raise Failure(f"{actor.name} never ended")
            if not task.cancelled() and (error := task.exception()) is not None:
                if not isinstance(error, actor.allow):
                    raise Failure(f"{actor.name} raised {error!r}") from error
            elif actor.cancelled and actor.native and not actor.catches and not task.cancelled():
                raise Failure(f"{actor.name} was cancelled and ended as if it had not been: the cancel was swallowed")

    def _sleepers(self) -> str:
        text = io.StringIO()
        for actor in self._alive:
            if not actor.task.done():
                text.write(f"  {actor.name} (cancelled {actor.cancelled} times)\n")
                actor.task.print_stack(limit=3, file=text)
        if text.tell() == 0 and self._main is not None:
            self._main.print_stack(limit=3, file=text)
        return text.getvalue() or "  (nobody)\n"

    def _clean_up(self, main: asyncio.Task[None]) -> None:
        left = [task for task in [main, *(actor.task for actor in self.actors.values())] if not task.done()]
        self.plan = _no_plan
        for _ in range(100):
            left = [task for task in left if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        for actor in self.actors.values():
            if actor.task.done() and not actor.task.cancelled():
                actor.task.exception()  # retrieved: it is told above


def _no_plan(_play: Play) -> None:
    pass


class _Stage:
    """A loop that many runs share."""

    def __init__(
        self, loop_factory: LoopFactory | None, setup: Callable[[asyncio.AbstractEventLoop], None] | None
    ) -> None:
        self.loop = VirtualLoop() if loop_factory is None else loop_factory()
        if setup is not None:
            setup(self.loop)

    def __enter__(self) -> _Stage:
        asyncio.set_event_loop(self.loop)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        self.loop.close()

    def play(self, scenario: Scenario, plan: Plan, seed: str, patience: float) -> Play:
        play = Play(self.loop, random.Random(seed), plan, patience=patience)
        play.run(scenario)
        return play


@dataclass(frozen=True)
class Sweep:
    """What a sweep did."""

    scenario: str
    victim: str
    points: int
    """Steps at which the victim could be cancelled, and was."""
    doubles: int
    """Runs in which a second cancel arrived too."""


def count_steps(
    scenario: Scenario,
    *,
    seed: int = 0,
    loop_factory: LoopFactory | None = None,
    setup: Callable[[asyncio.AbstractEventLoop], None] | None = None,
    patience: float = 0.0,
) -> int:
    """How many scheduler steps a scenario takes when nobody is cancelled."""
    with _Stage(loop_factory, setup) as stage:
        return stage.play(scenario, _no_plan, f"{seed}", patience).steps


def sweep(  # noqa: PLR0913 (each is a setting of its own)
    scenario: Scenario,
    *,
    victim: str,
    second: bool = True,
    seed: int = 0,
    loop_factory: LoopFactory | None = None,
    setup: Callable[[asyncio.AbstractEventLoop], None] | None = None,
    patience: float = 0.0,
) -> Sweep:
    """Runs a scenario once per scheduler step, cancelling ``victim`` at that step; see the module's documentation.

    Args:
        scenario: an ``async def`` that takes a :class:`Play`.
        victim: the name with which it spawns the task to cancel.
        second: also run it with a second cancel 1, 2 and 3 steps after the first.
        seed: of ``play.rng``; the same in every run.
        loop_factory: makes the loop; :class:`VirtualLoop` when not given.
        setup: called with the loop before the first run (task factory, debug mode).
        patience: see :attr:`Play.patience`.

    Returns:
        How many cancel points there were (also printed).

    Raises:
        Failure: names the cancel points of the run that broke.
    """
    name = getattr(scenario, "__qualname__", repr(scenario))
    points = doubles = 0
    with _Stage(loop_factory, setup) as stage:

        def run(at: tuple[int, ...]) -> Play:
            def plan(play: Play) -> None:
                if play.steps in at:
                    play.cancel(victim)

            try:
                return stage.play(scenario, plan, f"{seed}", patience)
            except Failure as failure:
                when = f"cancelled at step {' and '.join(map(str, at))}" if at else "never cancelled"
                raise Failure(f"{name}: {victim} {when}: {failure}") from failure

        calm = run(())
        assert victim in calm.actors, f"{name} spawns no {victim!r}: it spawns {', '.join(calm.actors)}"
        for step in range(1, calm.steps + 1):
            if not run((step,)).delivered:
                continue
            points += 1
            if second:
                doubles += sum(len(run((step, step + later)).delivered) == 2 for later in (1, 2, 3))
    print(f"sweep {name}[{victim}]: {points} cancel points, {doubles} with a second cancel")
    assert points > 0, f"{name}: {victim} was never there to be cancelled"
    return Sweep(name, victim, points, doubles)


def random_schedules(  # noqa: PLR0913 (each is a setting of its own)
    scenario: Scenario,
    cancels: int,
    seed: int = 0,
    *,
    rate: float = 0.15,
    loop_factory: LoopFactory | None = None,
    setup: Callable[[asyncio.AbstractEventLoop], None] | None = None,
    patience: float = 0.0,
    only: int | None = None,
) -> int:
    """Runs a scenario, random in itself (``play.rng``, ``play.pause``), until so many random cancels were delivered.

    Args:
        scenario: an ``async def`` that takes a :class:`Play`.
        cancels: how many, see :func:`cancels`.
        seed: run *i* of a seed is always the same run.
        rate: the mean chance of a cancel at a step; each run draws its own around it, so that some runs are storms.
        loop_factory: makes the loop; :class:`VirtualLoop` when not given.
        setup: called with the loop before the first run (task factory, debug mode).
        patience: see :attr:`Play.patience`.
        only: repeat this one run.

    Returns:
        How many cancels were delivered (also printed).

    Raises:
        Failure: names the seed and the run.
    """
    name = getattr(scenario, "__qualname__", repr(scenario))
    delivered = 0
    with _Stage(loop_factory, setup) as stage:
        for number in itertools.count() if only is None else [only]:
            dice = random.Random(f"{seed}:{number}:cancels")
            chance = min(0.9, rate * dice.choice((0.3, 1.0, 1.0, 3.0)))
            roll = dice.random

            def plan(play: Play, chance: float = chance, roll: Callable[[], float] = roll) -> None:
                if roll() < chance and (alive := play.alive()):
                    play.cancel(alive[int(roll() * len(alive))].name)

            try:
                delivered += len(stage.play(scenario, plan, f"{seed}:{number}", patience).delivered)
            except Failure as failure:
                again = f"random_schedules({name}, 1, seed={seed}, only={number})"
                raise Failure(f"{name}, repeat it with {again}: {failure}") from failure
            if delivered >= cancels:
                runs = number + 1
                break
        else:
            runs = 1
    print(f"random schedules of {name}: {delivered} cancels in {runs} runs, seed {seed}")
    return delivered
