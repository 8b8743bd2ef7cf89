"""AdaptiveLimit: it finds the knee of a server, gives way, comes back; and is a semaphore all the while.

The numbers of the algorithm are ``crates/core/tests/adaptive.rs``'s. Here is what it does on a loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.cancels import EVERY_STEP, cancels, in_cell
from support.loops import Cell, run

from loopwright import AdaptiveLimit, Keyed, LoopMismatch, MapError, amap, gather, testing
from loopwright.testing import Play, cancel_sweep, random_cancels


class Server:
    """Answers ``capacity`` calls at a time; the others stand in its queue."""

    def __init__(self, capacity: int, seconds: float = 0.01, seed: int | None = None) -> None:
        self.capacity = capacity
        self.seconds = seconds
        self.rng = None if seed is None else random.Random(seed)
        self.working = 0
        self.queue: list[asyncio.Future[None]] = []
        self.served = 0

    async def call(self, _item: object = None) -> None:
        while self.working >= self.capacity:
            turn = asyncio.get_running_loop().create_future()
            self.queue.append(turn)
            await turn
        self.working += 1
        try:
            await asyncio.sleep(self.seconds * (0.5 + self.rng.random() if self.rng else 1))
            self.served += 1
        finally:
            self.working -= 1
            while self.queue and self.working < self.capacity:
                turn = self.queue.pop(0)
                if not turn.done():
                    turn.set_result(None)
                    break


async def load(limit: AdaptiveLimit, server: Server, calls: int, workers: int = 100) -> list[int]:
    """So many calls by so many workers; the limit after each of the last third of them."""
    limits: list[int] = []
    todo = iter(range(calls))

    async def worker() -> None:
        for _ in todo:
            async with limit:
                await server.call()
            limits.append(limit.limit)

    await asyncio.gather(*[worker() for _ in range(workers)])
    return limits[calls * 2 // 3 :]


def median(values: list[int]) -> int:
    return sorted(values)[len(values) // 2]


@pytest.mark.parametrize("seed", [None, 1])
def test_it_settles_within_a_fifth_of_the_knee_gives_way_when_the_capacity_halves_and_recovers(
    seed: int | None,
) -> None:
    async def main() -> list[int]:
        server, limit = Server(20, seed=seed), AdaptiveLimit()
        found = []
        for server.capacity in (20, 10, 20):
            found.append(median(await load(limit, server, 4_000)))
        return found

    before, half, again = testing.run(main)
    assert 16 <= before <= 24
    assert 8 <= half <= 12
    assert 16 <= again <= 24


def test_amap_tells_it_how_long_each_call_took() -> None:
    async def main() -> AdaptiveLimit:
        server, limit = Server(4), AdaptiveLimit()
        await amap(server.call, range(5_000), limit=limit)
        return limit

    limit = testing.run(main)
    assert 4 <= limit.limit <= 5  # above 4 for a window now and then
    stats = limit.stats()
    assert (stats.in_flight, stats.value, stats.waiting) == (0, limit.limit, 0)
    assert stats.base == pytest.approx(0.01)


def test_the_time_that_amap_waits_for_an_item_is_not_the_calls() -> None:
    async def items() -> Any:
        for item in range(200):
            await asyncio.sleep(1)
            yield item

    async def main() -> AdaptiveLimit:
        server, limit = Server(4), AdaptiveLimit()
        await amap(server.call, items(), limit=limit)
        return limit

    limit = testing.run(main)
    assert limit.stats().delay == pytest.approx(0.01)
    assert limit.limit == 10  # never reached, so it says nothing about a higher one


@pytest.mark.parametrize("isolate", [True, False])
def test_amap_gives_every_permit_back_and_reports_what_calls_raise(isolate: bool) -> None:
    async def main() -> None:
        limit = AdaptiveLimit(4, overload=OSError)

        async def call(item: int) -> int:
            await asyncio.sleep(0)
            if item % 10 == 9:
                raise (OSError if item % 20 == 19 else ValueError)(item)
            return item

        results = await amap(call, range(40), limit=limit, errors="return", isolate=isolate)
        assert sum(isinstance(result, Exception) for result in results) == 4
        stats = limit.stats()
        assert (stats.overloads, stats.in_flight, stats.value) == (2, 0, limit.limit)
        with pytest.raises(MapError):
            await amap(call, range(40), limit=limit, isolate=isolate)
        assert limit.is_quiescent()
        assert await gather(call(1), call(2), limit=limit) == [1, 2]
        assert limit.is_quiescent()

    testing.run(main)


def test_an_overload_makes_it_smaller_once_for_all_that_were_admitted_together() -> None:
    async def main() -> None:
        limit = AdaptiveLimit(10)

        async def refused() -> None:
            async with limit:
                await asyncio.sleep(0.01)
                raise TimeoutError

        await asyncio.gather(*[refused() for _ in range(10)], return_exceptions=True)
        assert (limit.limit, limit.stats().overloads) == (9, 10)

    testing.run(main)


def test_a_cancelled_or_failed_call_teaches_nothing() -> None:
    async def main() -> None:
        limit = AdaptiveLimit()

        async def fails() -> None:
            async with limit:
                await asyncio.sleep(0.01)
                raise ValueError

        for _ in range(100):
            with pytest.raises(ValueError):
                await fails()
        assert (limit.limit, limit.stats().windows, limit.stats().delay) == (10, 0, None)

    testing.run(main)


@pytest.mark.parametrize("call", [lambda limit: limit.acquire(), lambda limit: limit.__aenter__()])
def test_it_is_a_semaphore_that_counts_and_minds(cell: Cell, call: Callable[[AdaptiveLimit], Awaitable[Any]]) -> None:
    async def main() -> None:
        limit = AdaptiveLimit(2, name="api")
        assert limit.name == "api" and limit.limit == 2
        await call(limit)
        assert limit.try_acquire() and not limit.try_acquire() and limit.locked()
        waiter = asyncio.create_task(limit.acquire())
        await asyncio.sleep(0)
        assert limit.waiting == 1 and not limit.is_quiescent()
        limit.release()
        assert await waiter is True
        limit.release()
        limit.release()
        assert limit.is_quiescent() and "limit:2" in repr(limit)
        with pytest.raises(ValueError, match="AdaptiveLimit released too many times"):
            limit.release()

    run(main, cell)


def test_it_serves_one_loop_at_a_time_and_outlives_them() -> None:
    limit = AdaptiveLimit(1, maximum=1)

    async def main() -> None:
        for _ in range(500):
            async with limit:
                pass

    run(main)
    testing.run(main)  # whose clock is another
    run(main)
    assert limit.limit == 1 and limit.stats().windows > 0

    async def stuck() -> None:
        await limit.acquire()
        waiter = asyncio.create_task(limit.acquire())
        await asyncio.sleep(0)

        def elsewhere() -> None:
            with pytest.raises(LoopMismatch):
                asyncio.run(_acquire(limit))

        await asyncio.to_thread(elsewhere)
        limit.release()
        await waiter
        limit.release()

    run(stuck)


async def _acquire(limit: AdaptiveLimit) -> None:
    await limit.acquire()


def test_keyed_makes_one_for_each_host() -> None:
    hosts: Keyed[str, AdaptiveLimit] = Keyed(lambda host: AdaptiveLimit(name=host))
    assert hosts["a"] is hosts["a"] is not hosts["b"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"initial": 0}, ValueError),
        ({"initial": 5, "maximum": 4}, ValueError),
        ({"minimum": 20, "initial": 10}, ValueError),
        ({"initial": 1.5}, TypeError),
        ({"strategy": "best"}, ValueError),
        ({"target": 1.0}, ValueError),
        ({"strategy": "aimd", "target": 0}, ValueError),
        ({"backoff": 1.0}, ValueError),
        ({"overload": 3}, TypeError),
    ],
)
def test_arguments_that_are_no_good_are_refused_at_once(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="AdaptiveLimit"):
        AdaptiveLimit(**arguments)


def test_stats_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        AdaptiveLimit().stats().limit = 3  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------- under cancels


async def three_callers(play: Play) -> None:
    limit = AdaptiveLimit(1, minimum=1)
    held = 0

    async def caller() -> None:
        nonlocal held
        async with limit:
            held += 1
            assert held <= 1
            try:
                await play.pause()
            finally:
                held -= 1

    play.spawn(caller(), name="victim")
    for number in range(2):
        play.spawn(caller(), name=f"caller {number}")
    await play.finished()
    assert (held, limit.value, limit.waiting, limit.stats().in_flight) == (0, 1, 0, 0)


def test_a_cancel_at_every_step_loses_no_permit(cell: Cell) -> None:
    cancel_sweep(three_callers, victims="victim", **EVERY_STEP, **in_cell(cell))


async def storm(play: Play) -> None:
    limit = AdaptiveLimit(3, minimum=2, maximum=5)
    held = 0

    async def caller() -> None:
        nonlocal held
        for _ in range(5):
            async with limit:
                held += 1
                assert held <= 5
                try:
                    await play.pause()
                    if play.rng.random() < 0.1:
                        raise TimeoutError
                except TimeoutError:
                    pass
                finally:
                    held -= 1

    for number in range(10):
        play.spawn(caller(), name=f"caller {number}")
    await play.finished()
    assert (held, limit.value, limit.waiting, limit.stats().in_flight) == (0, limit.limit, 0, 0)


def test_random_cancels_lose_no_permit() -> None:
    random_cancels(storm, cancels(share=0.1), level="task")
