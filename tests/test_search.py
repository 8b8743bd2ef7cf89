"""What ``explore`` finds and proves, by strategy: each bug in how many schedules, each correct program in how many.

The bugs pass under asyncio's own order. ``pytest -s`` prints the table.
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest

import loopwright
from loopwright.testing import Exploration, explore, replay, run, strategies
from loopwright.testing._explore import Settings, play
from loopwright.testing.strategies import Strategy

Test = Callable[[], Coroutine[Any, Any, object]]

needs_lines = pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring came with CPython 3.12")


async def noise(steps: int = 3) -> None:
    """Touches nothing that others touch."""
    for _ in range(steps):
        await asyncio.sleep(0)


def inversion(noises: int) -> Test:
    """A reader that relies on being later than the writer."""

    async def main() -> None:
        box = {"value": 0}

        async def write() -> None:
            await asyncio.sleep(0)
            box["value"] = 1

        async def read() -> None:
            for _ in range(3):
                await asyncio.sleep(0)
            assert box["value"] == 1, "read before it was written"

        await asyncio.gather(write(), read(), *(noise() for _ in range(noises)))

    return main


def starvation(noises: int) -> Test:
    """Wrong only if a task with a long way to go overtakes both that have none."""

    async def main() -> None:
        order: list[str] = []

        async def arrive(name: str, steps: int) -> None:
            for _ in range(steps):
                await asyncio.sleep(0)
            order.append(name)

        await asyncio.gather(
            arrive("a", 0), arrive("b", 0), arrive("c", 4), arrive("d", 4), *(noise() for _ in range(noises))
        )
        assert order[0] not in "cd" or order[1] not in "cd", order

    return main


def lost_update(noises: int) -> Test:
    """Reads, waits, writes: the second begins when the first has ended, if nothing is late."""

    async def main() -> None:
        total = 0

        async def add() -> None:
            nonlocal total
            read = total
            await asyncio.sleep(0)
            total = read + 1

        first = asyncio.create_task(add())
        for _ in range(4):
            await asyncio.sleep(0)
        await asyncio.gather(first, add(), *(noise() for _ in range(noises)))
        assert total == 2, total

    return main


def locked(workers: int, noises: int, lock_type: Callable[[], Any] = asyncio.Lock) -> Test:
    """The same, correct."""

    async def main() -> None:
        lock = lock_type()
        total = 0

        async def add() -> None:
            nonlocal total
            async with lock:
                read = total
                await asyncio.sleep(0)
                total = read + 1

        await asyncio.gather(*(add() for _ in range(workers)), *(noise() for _ in range(noises)))
        assert total == workers

    return main


BUGS = {
    "inversion + 1 noise": inversion(1),
    "starvation + 1 noise": starvation(1),
    "starvation + 4 noise": starvation(4),
    "lost update + 4 noise": lost_update(4),
}
PROOFS = {
    "2 workers + lock + 1 noise": (locked(2, 1), 50),
    "3 workers + lock": (locked(3, 0), 100),
    "3 workers + lock + 2 noise": (locked(3, 2), 100),
}
STRATEGIES = (strategies.random(500), strategies.pct(500), strategies.delays(1), strategies.delays(2))


def search(test: Test, strategy: Strategy) -> str:
    """What a strategy makes of a test, in a few words."""
    try:
        found = explore(test, strategy=strategy)
    except AssertionError as error:
        failure = error.__loopwright__  # type: ignore[attr-defined]
        return f"found at {failure.schedule}, shrunk to {failure.preemptions}"
    return f"{'proven' if found.covered else 'nothing'} in {found.schedules}"


@pytest.mark.default_only
def test_the_table_of_bugs_and_strategies() -> None:
    for name, test in {**BUGS, **{name: test for name, (test, _) in PROOFS.items()}}.items():
        for strategy in (*STRATEGIES, strategies.dpor(2000)):
            result = search(test, strategy)
            print(f"{name:28} {strategy.name:12} {result}")
            if test not in BUGS.values():
                assert "found" not in result


@pytest.mark.parametrize("name", BUGS)
def test_every_bug_of_the_table_passes_under_asyncios_own_order(name: str) -> None:
    run(BUGS[name])


@needs_lines
@pytest.mark.parametrize("name", BUGS)
def test_dpor_finds_each_bug_within_a_hundred_schedules(name: str) -> None:
    with pytest.raises(AssertionError) as caught:
        explore(BUGS[name], strategy=strategies.dpor(100))
    failure = caught.value.__loopwright__  # type: ignore[attr-defined]
    with pytest.raises(AssertionError):
        replay(BUGS[name], failure.replay)


OPERATIONS = [
    "read",
    "write",
    "update",
    "sleep",
    "sleep",
    "lock",
    "put",
    "get",
    "get_nowait",
    "set",
    "wait",
    "cancel",
    "append",
    "wait_for_task",
    "call_soon",
    "timer",
    "done",
]


def small_program(seed: int, outcomes: set[Any]) -> Test:  # noqa: PLR0915 (a branch for each operation)
    """Two or three tasks that do a few random things to what they share; each run adds what came out of it."""
    lot = random.Random(seed)
    kit: Any = lot.choice([asyncio, loopwright])
    programs = [lot.choices(OPERATIONS, k=lot.randint(1, 3)) for _ in range(lot.randint(2, 3))]
    victim = lot.randrange(len(programs))

    async def main() -> None:  # noqa: PLR0915 (a branch for each operation)
        seen: list[list[Any]] = [[] for _ in programs]
        shared: list[Any] = []
        box: dict[str, Any] = {"value": 0, "count": 0}
        lock, queue, event = kit.Lock(), kit.Queue(10), kit.Event()

        async def act(me: int, step: int, operation: str) -> None:  # noqa: PLR0912 (a branch for each operation)
            match operation:
                case "read":
                    seen[me].append(box["value"])
                case "write":
                    box["value"] = (me, step)
                case "update":
                    value = box["value"]
                    await asyncio.sleep(0)
                    box["value"] = (me, step, value)
                case "sleep":
                    await asyncio.sleep(0)
                case "lock":
                    async with lock:
                        count = box["count"]
                        await asyncio.sleep(0)
                        box["count"] = count + 1
                case "put":
                    queue.put_nowait((me, step))
                case "get":
                    async with asyncio.timeout(5):
                        seen[me].append(await queue.get())
                case "get_nowait":
                    seen[me].append(queue.get_nowait())
                case "set":
                    event.set()
                case "wait":
                    seen[me].append(event.is_set())
                    async with asyncio.timeout(7):
                        await event.wait()
                case "cancel" if me != victim:
                    tasks[victim].cancel()
                case "append":
                    shared.append((me, step))
                case "wait_for_task" if me != victim:
                    await asyncio.wait([tasks[victim]])
                    seen[me].append("waited")
                case "call_soon":
                    asyncio.get_running_loop().call_soon(lambda: shared.append(("callback", me, step)))
                case "timer":
                    await asyncio.sleep(1)
                    shared.append(("timer", me, step))
                case "done":
                    seen[me].append(tasks[victim].done())

        async def body(me: int) -> None:
            for step, operation in enumerate(programs[me]):
                await act(me, step, operation)

        tasks = [asyncio.create_task(body(me)) for me in range(len(programs))]
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        outcomes.add(repr((seen, shared, box, queue.qsize(), [type(end).__name__ for end in ends])))

    return main


@needs_lines
@pytest.mark.default_only
@pytest.mark.parametrize("seeds", [range(10), range(10, 20), range(20, 30)], ids=str)
def test_dpor_reaches_every_outcome_that_exhaustive_search_reaches(seeds: range) -> None:
    for seed in seeds:
        reached: set[Any] = set()
        found = explore(small_program(seed, reached), strategy=strategies.dpor(1_000), leaks=False)
        assert found.covered, (seed, found.note)
        every: set[Any] = set()
        exhaustive = strategies.delays(1_000).start(0)
        for _ in range(400):
            if not exhaustive.begin():
                break
            play(small_program(seed, every), exhaustive, Settings())
        assert every <= reached, seed


def proof(test: Test, limit: int = 10_000) -> Exploration:
    found = explore(test, strategy=strategies.dpor(limit))
    assert found.covered, found.note
    return found


@needs_lines
@pytest.mark.parametrize("name", PROOFS)
def test_dpor_proves_a_lock_in_few_schedules(name: str) -> None:
    test, limit = PROOFS[name]
    proof(test, limit)


@needs_lines
def test_dpor_proves_loopwrights_lock_too() -> None:
    proof(locked(2, 1, loopwright.Lock), 200)


@needs_lines
def test_dpor_sees_a_race_on_loopwrights_own_objects() -> None:
    async def main() -> None:
        queue: loopwright.Queue[int] = loopwright.Queue(2)

        async def put(number: int, steps: int) -> None:
            for _ in range(steps):
                await asyncio.sleep(0)
            await queue.put(number)

        await asyncio.gather(put(1, 0), put(2, 4))
        assert queue.get_nowait() == 1

    with pytest.raises(AssertionError):
        explore(main, strategy="dpor")


@needs_lines
def test_dpor_sees_what_a_line_does_after_its_await() -> None:
    async def main() -> None:
        box = {"value": 0}

        async def one() -> int:
            await asyncio.sleep(0)
            return 1

        async def store() -> None:
            box["value"] = await one()

        async def check() -> None:
            for _ in range(4):
                await asyncio.sleep(0)
            assert box["value"] == 1

        await asyncio.gather(store(), check())

    with pytest.raises(AssertionError):
        explore(main, strategy="dpor")


@needs_lines
def test_dpor_sees_a_cancel_race_with_its_task() -> None:
    async def main() -> None:
        reached = []

        async def victim() -> None:
            await asyncio.sleep(0)
            reached.append(1)

        task = asyncio.create_task(victim())
        for _ in range(4):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert reached

    with pytest.raises(AssertionError):
        explore(main, strategy="dpor")


@needs_lines
def test_dpor_sees_timers_of_one_moment_in_both_orders() -> None:
    async def main() -> None:
        order: list[int] = []
        loop = asyncio.get_running_loop()
        loop.call_later(1, order.append, 1)
        loop.call_later(1, lambda: order.append(2))
        loop.call_later(1, lambda: order.append(3))
        await asyncio.sleep(2)
        assert order.index(2) < order.index(3)

    with pytest.raises(AssertionError):
        explore(main, strategy="dpor")


@needs_lines
def test_dpor_sees_the_order_of_two_failures_in_a_gather() -> None:
    async def main() -> None:
        async def fail(error: Exception, steps: int) -> None:
            for _ in range(steps):
                await asyncio.sleep(0)
            raise error

        with pytest.raises(ValueError, match="first"):
            await asyncio.gather(fail(ValueError("first"), 0), fail(KeyError("second"), 3))

    with pytest.raises(KeyError):
        explore(main, strategy="dpor")


@needs_lines
def test_dpor_does_not_claim_to_cover_what_threads_do() -> None:
    async def main() -> None:
        await asyncio.to_thread(threading.get_ident)

    found = explore(main, strategy="dpor")
    assert not found.covered
    assert "threads" in found.note


@needs_lines
def test_dpor_does_not_claim_to_cover_an_executor_job_that_is_done_before_it_is_awaited() -> None:
    class Quick(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
            job = super().submit(*args, **kwargs)
            wait([job])
            return job

    async def main() -> None:
        with Quick(1) as executor:
            await asyncio.get_running_loop().run_in_executor(executor, threading.get_ident)

    found = explore(main, strategy="dpor")
    assert not found.covered
    assert "threads" in found.note


@needs_lines
def test_dpor_does_not_claim_to_cover_a_thread_that_never_meets_the_loop() -> None:
    async def main() -> None:
        box = {"value": 0}

        def work() -> None:
            box["value"] = 1

        thread = threading.Thread(target=work)
        thread.start()
        while thread.is_alive():  # noqa: ASYNC110 (there is no event: that is the point)
            await asyncio.sleep(0)

    found = explore(main, strategy=strategies.dpor(1))
    assert not found.covered


@needs_lines
def test_dpor_does_not_claim_to_cover_what_is_left_running() -> None:
    async def main() -> None:
        task = asyncio.create_task(noise(10))
        await asyncio.sleep(0)
        assert not task.done()

    found = explore(main, strategy="dpor")
    assert not found.covered
    assert "ended" in found.note


@needs_lines
def test_dpor_stops_at_its_maximum_and_says_so() -> None:
    found = explore(locked(3, 0), strategy=strategies.dpor(2))
    assert (found.schedules, found.covered) == (2, False)
    assert "2 schedules" in found.note


@needs_lines
def test_dpor_gives_its_tool_id_back_and_lives_with_others() -> None:
    monitoring = sys.monitoring
    mine = [tool for tool in range(6) if monitoring.get_tool(tool) is None]
    for tool in mine[:-1]:
        monitoring.use_tool_id(tool, "somebody")
    try:
        proof(locked(2, 0))
        assert monitoring.get_tool(mine[-1]) is None
        monitoring.use_tool_id(mine[-1], "somebody")
        try:
            found = explore(locked(2, 0), strategy="dpor")
            assert not found.covered
            assert "tool ids" in found.note
            assert "delays" in found.note
        finally:
            monitoring.free_tool_id(mine[-1])
    finally:
        for tool in mine[:-1]:
            monitoring.free_tool_id(tool)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="CPython 3.11 has no sys.monitoring")
def test_dpor_falls_back_to_delays_and_says_so() -> None:
    found = explore(locked(2, 0), strategy="dpor")
    assert not found.covered
    assert "3.12" in found.note
    assert "delays" in found.note


def test_a_failing_schedule_is_shrunk() -> None:
    with pytest.raises(AssertionError) as caught:
        explore(inversion(4), strategy=strategies.random(100), first_seed=3)
    assert caught.value.__loopwright__.preemptions <= 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "make",
    [
        lambda: strategies.pct(0),
        lambda: strategies.pct(5, 0),
        lambda: strategies.delays(-1),
        lambda: strategies.dpor(0),
    ],
)
def test_a_search_without_schedules_is_refused(make: Callable[[], Strategy]) -> None:
    with pytest.raises(ValueError, match=r"1 or more|0 or more|needs one"):
        make()
