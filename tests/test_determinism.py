"""The same seed is the same course: in other processes, under other hash seeds, on other versions.

And what the kit cannot make the same is noticed and explained, and never taken for a verdict.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from corpus import digests

from loopwright.testing import Nondeterministic, explore


def courses_of_another_process(hash_seed: str) -> dict[str, list[list[str]]]:
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "corpus.digests"],
        env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    courses: dict[str, list[list[str]]] = json.loads(done.stdout)
    return courses


def test_the_same_seed_takes_the_same_course_in_three_processes() -> None:
    """With three different PYTHONHASHSEEDs: 10 seeds of each program of tasks alone."""
    with ThreadPoolExecutor() as pool:
        one, two, three = pool.map(courses_of_another_process, ("0", "1", "4711"))
    assert len(one) >= 40
    assert one == two == three


def test_programs_of_tasks_alone_take_the_same_course_on_every_version() -> None:
    """Each version's suite compares with one committed table; ``python -m corpus.digests --write`` makes it anew."""
    table = json.loads(digests.TABLE.read_text())
    assert len(table) >= 40
    courses = {name: [course.order for course in runs] for name, runs in digests.courses().items()}
    differ = {name: (table[name], courses[name]) for name in table if table[name] != courses[name]}
    assert not differ, f"another course than in {digests.TABLE.name} on CPython {sys.version.split()[0]}: {differ}"


def test_different_seeds_take_different_courses() -> None:
    """Else all of this would be easy."""
    table = json.loads(digests.TABLE.read_text())
    assert sum(len(set(courses)) > digests.SEEDS / 2 for courses in table.values()) > len(table) / 2


async def take_turns(numbers: Iterable[int]) -> None:
    """A course that tells the order of the numbers."""

    async def steps(number: int) -> None:
        for _ in range(number):
            await asyncio.sleep(0)

    await asyncio.gather(*[steps(number) for number in numbers])


class Numbered:
    """Hashed by its address, as objects are."""

    def __init__(self, number: int) -> None:
        self.number = number


kept: list[object] = []
runs = itertools.count()


async def a_set_of_objects() -> None:
    objects = [Numbered(number) for number in range(8)]
    kept.extend([objects, bytearray(random.SystemRandom().randrange(1, 5000))])  # so that addresses do not repeat
    await take_turns(item.number for item in set(objects))


async def ids() -> None:
    objects = [Numbered(number) for number in range(8)]
    kept.extend([objects, bytearray(random.SystemRandom().randrange(1, 5000))])
    await take_turns(id(item) // 16 % 7 for item in objects)


async def real_randomness() -> None:
    await take_turns(random.SystemRandom().choices(range(8), k=8))


async def real_time() -> None:
    await take_turns([time.perf_counter_ns() // 100 % 7 for _ in range(8)])


async def what_the_last_run_left() -> None:
    await take_turns([next(runs)])


@pytest.mark.parametrize("test", [a_set_of_objects, ids, real_randomness, real_time, what_the_last_run_left])
def test_what_is_nondeterministic_in_itself_is_noticed(test: Callable[[], Awaitable[None]]) -> None:
    """The message says where the two courses part, and what such tests mostly depend on."""
    with pytest.raises(Nondeterministic, match="two courses") as caught:
        explore(test, seeds=50)
    for culprit in ("set of objects", "id()", "randomness", "real time"):
        assert culprit in str(caught.value)


def test_a_failure_that_does_not_repeat_is_no_verdict() -> None:
    """It fails by the toss of a coin, not by the schedule: reported as such, with what it raised as the cause."""
    failed = []

    async def test() -> None:
        await take_turns([1, 2, 3])
        if len(failed) < 1:
            failed.append(True)
            raise AssertionError("by chance")

    with pytest.raises(Nondeterministic) as caught:
        explore(test, seeds=50)
    assert isinstance(caught.value.__cause__, AssertionError)


def test_a_thread_that_takes_its_time_is_no_reason_for_suspicion() -> None:
    """Its answer comes in another turn each time: no schedule decides that, and the test is right all the same."""

    async def test() -> None:
        def work() -> None:
            time.sleep(random.SystemRandom().choice((0.0, 0.002)))

        job = asyncio.get_running_loop().run_in_executor(None, work)
        turns = 0
        while not job.done():
            turns += 1
            await asyncio.sleep(0.0005)
        await job

    assert explore(test, seeds=20).schedules == 20


def test_randomness_of_its_own_seed_is_no_trouble() -> None:
    """What is made anew from a constant in each run is the same in each run."""

    async def test() -> None:
        dice = random.Random(7)
        await take_turns(dice.choices(range(8), k=8))

    assert explore(test, seeds=50).schedules == 50


def test_sets_of_tasks_are_in_the_order_of_creation_in_every_run() -> None:
    """Tasks hash by creation order on this loop, so what asyncio and users keep in sets iterates alike."""

    async def test() -> None:
        async def steps(number: int) -> None:
            for _ in range(number):
                await asyncio.sleep(0)

        tasks = {asyncio.create_task(steps(number)) for number in range(8)}
        await take_turns([int(task.get_name().partition("-")[2]) % 5 for task in tasks])
        await asyncio.wait(tasks)

    assert explore(test, seeds=50).schedules == 50


def test_a_failure_that_depends_on_a_thread_is_told_as_itself() -> None:
    """Not as nondeterminism of the test: no schedule decides when the thread answers."""
    runs = itertools.count(1)

    async def fails_once() -> None:
        await asyncio.to_thread(time.sleep, 0.001)
        assert next(runs) != 3

    with pytest.raises(AssertionError) as caught:
        explore(fails_once, seeds=10)
    assert "threads or servers take part in this test" in "".join(caught.value.__notes__)
