"""The proof kit against its peers. ``bench_testing.py [FILE.json]``, ``bench_testing.py docs/testing-peers.md``

The row is the price of a schedule. The page has what the price buys, too: each tool searches the same three races, and
runs the same four programs that asyncio's documentation says are right. The peers are the dependency group ``peers``
of pyproject.toml, which needs CPython 3.12 or newer; what is not installed is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import logging
import platform
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from harness import Row, compare_calls, save

from loopwright.testing import explore, strategies

Program = Callable[[], Coroutine[Any, Any, None]]

SCHEDULES = 100
PAGE = Path(__file__).resolve().parent.parent / "docs" / "testing-peers.md"
SEARCHES = 5
BUDGET = 500
"""Schedules that a tool may run in search of one race."""
SEEDS = 50
"""Schedules of a program that is right."""


def peer(name: str) -> Any:
    """A library, or None where it is not installed or does not support this CPython."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


simloom, simloop, seedloop, frontrun, looptime = map(peer, ("simloom", "simloop", "seedloop", "frontrun", "looptime"))

# What is run


async def lock_test() -> None:
    """About 40 steps: four tasks, four rounds each, one lock."""
    lock, box = asyncio.Lock(), [0]

    async def worker() -> None:
        for _ in range(4):
            async with lock:
                value = box[0]
                await asyncio.sleep(0)
                box[0] = value + 1

    await asyncio.gather(*(worker() for _ in range(4)))
    assert box == [16]


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@dataclass(frozen=True)
class Race:
    """Tasks that each wait so many turns, then read, wait one turn and write; no update may be lost.

    First in, first out it passes: the tasks come one after the other, as their delays say.
    """

    delays: tuple[int, ...]
    noise: int = 0

    async def __call__(self) -> None:
        box = [0]
        async with asyncio.TaskGroup() as group:
            for part in self.parts():
                group.create_task(part(box))
        assert self.holds(box), f"{box[0]} of {len(self.delays)} updates"

    def parts(self) -> list[Callable[[list[int]], Coroutine[Any, Any, None]]]:
        """The tasks, for tools that want to start them."""

        def worker(delay: int) -> Callable[[list[int]], Coroutine[Any, Any, None]]:
            async def work(box: list[int]) -> None:
                await _turns(delay)
                value = box[0]
                await asyncio.sleep(0)
                box[0] = value + 1

            return work

        async def noise(_box: list[int]) -> None:
            await _turns(6)

        return [worker(delay) for delay in self.delays] + [noise] * self.noise

    def holds(self, box: list[int]) -> bool:
        return box == [len(self.delays)]


RACES: dict[str, Race] = {
    "two updates": Race((0, 5)),
    "two, 4 noise tasks": Race((0, 5), noise=4),
    "three, 2 noise tasks": Race((0, 4, 8), noise=2),
}


async def call_soon_order() -> None:
    """``call_soon``: "Callbacks are called in the order in which they are registered."."""
    log: list[int] = []
    loop = asyncio.get_running_loop()
    for number in range(5):
        loop.call_soon(log.append, number)
    await asyncio.sleep(0.01)
    assert log == sorted(log)


async def threadsafe_order() -> None:
    """The thread-safe variant of the same."""
    log: list[int] = []
    loop = asyncio.get_running_loop()
    for number in range(5):
        loop.call_soon_threadsafe(log.append, number)
    await asyncio.sleep(0.01)
    assert log == sorted(log)


async def done_callback_order() -> None:
    """A future's callbacks are scheduled in the order in which they were added."""
    log: list[int] = []
    future = asyncio.get_running_loop().create_future()
    for number in range(5):
        future.add_done_callback(lambda _, number=number: log.append(number))
    future.set_result(None)
    await asyncio.sleep(0.01)
    assert log == sorted(log)


async def timer_order() -> None:
    """Timers of different times go off in the order of their times."""
    log: list[int] = []
    loop = asyncio.get_running_loop()
    for number in (3, 1, 2):
        loop.call_later(number, log.append, number)
    await asyncio.sleep(5)
    assert log == [1, 2, 3]


RIGHT: dict[str, Program] = {
    "call_soon": call_soon_order,
    "call_soon_threadsafe": threadsafe_order,
    "done callbacks": done_callback_order,
    "timers": timer_order,
}

# How each tool runs it


@dataclass(frozen=True)
class Tool:
    """One way to search."""

    name: str
    run: Callable[[Program, int, int], object]
    """Runs a program under n schedules from a seed on; raises or says what it found, and stops there."""
    wants_parts: bool = False


def loopwright(strategy: str) -> Tool:
    return Tool(
        f"loopwright, {strategy}",
        lambda program, n, seed: explore(program, strategy=_strategy(strategy, n), first_seed=seed),
    )


def _strategy(name: str, n: int) -> strategies.Strategy:
    match name:
        case "random":
            return strategies.random(n)
        case "pct":
            return strategies.pct(n, 3)
        case "delays":
            return strategies.delays(2)
        case _:
            return strategies.dpor(n)


def asyncio_run(program: Program, n: int, _seed: int) -> None:
    for _ in range(n):
        asyncio.run(program())


def seedloop_check(program: Program, n: int, seed: int) -> None:
    async def scenario(_world: Any) -> None:
        await program()

    seedloop.check(scenario, seeds=list(range(seed, seed + n)))


def frontrun_random(program: Program, n: int, seed: int) -> None:
    async def whole(_state: list[int]) -> None:
        await program()

    tasks, invariant = [whole], lambda _state: True
    if isinstance(program, Race):
        tasks, invariant = program.parts(), program.holds
    asyncio.run(
        frontrun.explore_async_random(setup=lambda: [0], tasks=tasks, invariant=invariant, max_attempts=n, seed=seed)
    ).assert_holds()


def simloom_explore(program: Program, n: int, seed: int) -> None:
    found = simloom.explore(program, runs=n, start_seed=seed)
    assert not found.failures


def simloop_explore(program: Program, n: int, seed: int) -> None:
    assert simloop.explore(program, range(seed, seed + n)) is None


def looptime_run(program: Program, n: int, _seed: int) -> None:
    for _ in range(n):
        with asyncio.Runner(loop_factory=looptime.new_event_loop) as runner:
            runner.run(program())


PEERS = {
    "simloom": (simloom, simloom_explore),
    "simloop": (simloop, simloop_explore),
    "seedloop": (seedloop, seedloop_check),
    "frontrun": (frontrun, frontrun_random),
    "looptime": (looptime, looptime_run),
}

TOOLS = [
    *(loopwright(strategy) for strategy in ("random", "pct", "delays", "dpor")),
    Tool("asyncio.run", asyncio_run),
    *(Tool(name, run) for name, (module, run) in PEERS.items() if module is not None),
]

# What is measured


class Counted:
    """A program that counts its runs and notes the first that failed: what shrinking takes is not counted."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.runs = 0
        self.failed: int | None = None

    async def __call__(self) -> None:
        self.runs += 1
        number = self.runs
        try:
            await self.program()
        except (AssertionError, ExceptionGroup):
            self.failed = self.failed or number
            raise


class CountedRace(Counted, Race):
    """The same for a tool that takes the parts: its failures are told by the invariant."""

    def __init__(self, race: Race) -> None:
        Counted.__init__(self, race)

    def parts(self) -> list[Callable[[list[int]], Coroutine[Any, Any, None]]]:
        first, *rest = self.program.parts()

        async def counted(box: list[int]) -> None:
            self.runs += 1
            await first(box)

        return [counted, *rest]

    def holds(self, box: list[int]) -> bool:
        holds = self.program.holds(box)
        if not holds:
            self.failed = self.failed or self.runs
        return holds


def runs_until_found(tool: Tool, race: Race, seed: int) -> int | None:
    """How many schedules the first failure took; None where the budget ended, or the space of schedules, before one."""
    counted = CountedRace(race) if tool.run is frontrun_random else Counted(race)
    with contextlib.suppress(AssertionError, ExceptionGroup):
        tool.run(counted, BUDGET, seed)
    return counted.failed


def false_alarms(tool: Tool, program: Program) -> str:
    """How many of the seeds report a program that is right."""
    alarms = 0
    for seed in range(SEEDS):
        try:
            tool.run(program, 1, seed)
        except (AssertionError, ExceptionGroup):
            alarms += 1
        except Exception as error:
            return f"refuses ({type(error).__name__})"
    return f"{alarms}"


def median_of_searches(tool: Tool, race: Race) -> str:
    found = [runs_until_found(tool, race, seed) for seed in range(0, SEARCHES * BUDGET, BUDGET)]
    hits = sorted(runs for runs in found if runs is not None)
    if len(hits) * 2 <= len(found):
        return f"not in {BUDGET:,}" if not hits else f"{len(hits)} of {len(found)} searches"
    return f"{median(hits):g}"


def table(rows: list[Row]) -> str:
    """Every tool in one table."""
    seconds = {result.case: result.ns / 1e9 for row in rows for result in row.results}
    head = ["tool", "schedules/s", *(f"race: {name}" for name in RACES), *(f"false alarms: {name}" for name in RIGHT)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for tool in TOOLS:
        print(f"    {tool.name} ...", flush=True)
        speed = f"{1 / seconds[tool.name]:,.0f}" if tool.name in seconds else ""
        cells = [tool.name, speed, *(median_of_searches(tool, race) for race in RACES.values())]
        cells += [false_alarms(tool, program) for program in RIGHT.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    logging.disable()
    speed: dict[str, Callable[[int], object]] = {
        tool.name: lambda n, tool=tool: tool.run(lock_test, n, 0)
        for tool in TOOLS
        if tool.name in ("loopwright, random", "loopwright, pct", "asyncio.run", *PEERS)
    }
    rows = [
        compare_calls(
            "One schedule of a test of 40 steps",
            speed,
            n=SCHEDULES,
            rounds=7,
            baseline="asyncio.run",
            ours="loopwright, random",
            target=1.0,
        )
    ]
    save(rows)
    if PAGE.name in sys.argv[-1]:
        write_page(rows)


def write_page(rows: list[Row]) -> None:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name, (module, _) in PEERS.items() if module)
    PAGE.write_text(
        "# The proof kit and its peers\n\nWritten by `python benches/bench_testing.py docs/testing-peers.md`; "
        "do not edit. Schedules a second: one core, the script's lock test of 40 steps, CPU time. Races: the median of "
        f"{SEARCHES} searches with up to {BUDGET} schedules each; first in, first out, all three pass. False alarms: "
        f"failures in {SEEDS} seeds of programs that asyncio's documentation says are right. frontrun is given the "
        "tasks of a race one by one, the others the program as it is. Our target of 10,000 schedules a second on a "
        "quiet machine is **missed** where the first row says less.\n\n"
        f"{date.today().isoformat()}, CPython {platform.python_version()}, {versions}.\n\n{table(rows)}\n"
    )


if __name__ == "__main__":
    main()
