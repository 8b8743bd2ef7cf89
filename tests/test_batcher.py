"""Batcher, and ``amap(batch=n)``: who is in which batch, what a cancel does to the others, what each caller gets."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.cancels import EVERY_STEP, cancels, in_cell
from support.loops import Cell, run

from loopwright import Batcher, CallCancelled, LoopMismatch, MapError, amap, testing
from loopwright.testing import Play, cancel_sweep, random_cancels


class Doubles:
    """The function of a batch: remembers its batches."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[list[int]] = []
        self.ended = 0
        self.cancelled = 0

    async def __call__(self, items: list[int]) -> list[int | BaseException]:
        self.batches.append(items)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.ended += 1
        return [ValueError(item) if item < 0 else item * 2 for item in items]


async def until(condition: Callable[[], object], pause: float = 0) -> None:
    while not condition():  # noqa: ASYNC110 (nothing tells)
        await asyncio.sleep(pause)


def test_requests_of_one_turn_are_one_batch(cell: Cell) -> None:
    async def main() -> None:
        double = Doubles()
        batcher = Batcher(double, max_delay=0)
        assert await asyncio.gather(*[batcher(item) for item in range(5)]) == [0, 2, 4, 6, 8]
        assert double.batches == [[0, 1, 2, 3, 4]]
        assert batcher.is_quiescent()

    run(main, cell)


def test_a_batch_runs_when_it_is_full_or_its_oldest_has_waited_long_enough() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        double = Doubles()
        batcher = Batcher(double, max_size=3, max_delay=1.0)
        began = loop.time()
        await asyncio.gather(*[batcher(item) for item in range(3)])
        assert loop.time() == began  # full: nobody waits
        first = asyncio.ensure_future(batcher(3))
        await asyncio.sleep(0.6)
        second = asyncio.ensure_future(batcher(4))
        assert (await first, await second) == (6, 8)
        assert loop.time() - began == pytest.approx(1.0)
        assert double.batches == [[0, 1, 2], [3, 4]]

    testing.run(main)


def test_flush_waits_for_no_others() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        batcher = Batcher(Doubles(), max_delay=60)
        began, request = loop.time(), asyncio.ensure_future(batcher(1))
        await asyncio.sleep(0)
        batcher.flush()
        assert await request == 2
        assert loop.time() == began

    testing.run(main)


def test_no_more_than_limit_batches_run_and_requests_gather_meanwhile() -> None:
    async def main() -> None:
        double = Doubles(seconds=1.0)
        batcher = Batcher(double, max_size=2, max_delay=0.0, limit=1)
        results = asyncio.gather(*[batcher(item) for item in range(5)])
        await asyncio.sleep(0.5)
        assert (batcher.stats().running, batcher.stats().waiting) == (1, 3)
        assert await results == [0, 2, 4, 6, 8]
        assert double.batches == [[0, 1], [2, 3], [4]]

    testing.run(main)


def test_a_cancelled_caller_harms_no_other(cell: Cell) -> None:
    async def main() -> None:
        double = Doubles(seconds=0.01)
        batcher = Batcher(double, max_delay=3600)
        requests = [asyncio.ensure_future(batcher(item)) for item in range(3)]
        await asyncio.sleep(0)
        requests[0].cancel()  # waits yet: withdrawn
        await until(lambda: batcher.stats().waiting == 2)
        batcher.flush()
        await until(lambda: double.batches)
        requests[1].cancel()  # its batch runs: left to it
        assert await requests[2] == 4
        assert [request.cancelled() for request in requests] == [True, True, False]
        assert double.batches == [[1, 2]]
        assert (batcher.stats().withdrawn, double.cancelled, double.ended) == (1, 0, 1)

    run(main, cell)


def test_a_batch_that_nobody_waits_for_is_cancelled() -> None:
    async def main() -> None:
        double = Doubles(seconds=60.0)
        batcher = Batcher(double, max_delay=0)
        requests = [asyncio.ensure_future(batcher(item)) for item in range(3)]
        await asyncio.sleep(1)
        for request in requests:
            request.cancel()
        await asyncio.wait(requests)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (double.cancelled, batcher.is_quiescent(), batcher.stats().failed) == (1, True, 0)

    testing.run(main)


def test_each_caller_gets_its_own_result_or_exception() -> None:
    async def main() -> None:
        batcher = Batcher(Doubles())
        one, two = await asyncio.gather(batcher(1), batcher(-2), return_exceptions=True)
        assert one == 2 and isinstance(two, ValueError) and two.args == (-2,)

    testing.run(main)


def _raises() -> Any:
    raise OSError("down")


@pytest.mark.parametrize(
    ("fn", "error", "message"),
    [
        (lambda items: _raises(), OSError, "down"),
        (lambda items: asyncio.sleep(0, [1]), ValueError, "gave 1 results for 2 items"),
        (lambda items: asyncio.sleep(0, 7), TypeError, "not iterable"),
        (lambda items: _cancelled(), CallCancelled, "although nobody was"),
    ],
)
def test_a_batch_that_fails_fails_for_all_of_its_callers(
    fn: Callable[[list[int]], Any], error: type[Exception], message: str
) -> None:
    async def main() -> None:
        batcher: Batcher[int, int] = Batcher(fn)
        results = await asyncio.gather(batcher(1), batcher(2), return_exceptions=True)
        assert [type(result) for result in results] == [error, error]
        assert message in str(results[0])
        assert batcher.stats().failed == 1 and batcher.is_quiescent()

    testing.run(main)


async def _cancelled() -> list[int]:
    raise asyncio.CancelledError


def test_it_serves_one_loop_at_a_time() -> None:
    batcher = Batcher(Doubles(), max_delay=0)

    async def once() -> int:
        return await batcher(1)

    assert run(once) == run(once) == 2

    async def main() -> None:
        slow = Batcher(Doubles(seconds=60), max_delay=0)
        request = asyncio.ensure_future(slow(1))
        await asyncio.sleep(0)

        async def elsewhere() -> None:
            await slow(2)

        def thread() -> None:
            with pytest.raises(LoopMismatch, match="one loop at a time"):
                asyncio.run(elsewhere())

        await asyncio.to_thread(thread)
        request.cancel()

    run(main)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((3,), TypeError),
        ((Doubles(), 0), ValueError),
        ((Doubles(), True), TypeError),
        ((Doubles(), 1, -1), ValueError),
    ],
)
def test_arguments_that_are_no_good_are_refused_at_once(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="Batcher"):
        Batcher(*arguments)
    with pytest.raises(ValueError, match="limit"):
        Batcher(Doubles(), limit=0)


def test_stats_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Batcher(Doubles(), name="users").stats().waiting = 3  # type: ignore[misc]


# --------------------------------------------------------------------------------------------------- under cancels


async def four_callers(play: Play) -> None:
    double = Doubles()
    batcher = Batcher(double, max_size=2, max_delay=0, limit=1)

    async def caller(item: int) -> None:
        assert await batcher(item) == item * 2

    play.spawn(caller(0), name="victim")
    for item in range(1, 4):
        play.spawn(caller(item), name=f"caller {item}")
    await play.finished()
    await until(batcher.is_quiescent)  # a batch that everybody left
    assert len(double.batches) == double.ended + double.cancelled
    assert all(len(batch) <= 2 for batch in double.batches)


def test_a_cancel_at_every_step_harms_no_other_caller(cell: Cell) -> None:
    cancel_sweep(four_callers, victims="victim", **EVERY_STEP, **in_cell(cell))


async def storm(play: Play) -> None:
    double = Doubles()
    batcher = Batcher(double, max_size=3, max_delay=0, limit=2)

    async def caller(item: int) -> None:
        for _ in range(4):
            assert await batcher(item) == item * 2
            await play.pause()

    for item in range(8):
        play.spawn(caller(item), name=f"caller {item}")
    await play.finished()
    await until(batcher.is_quiescent)


def test_random_cancels_harm_no_other_caller() -> None:
    random_cancels(storm, cancels(share=0.1), level="task")


# ------------------------------------------------------------------------------------------------- amap(batch=n)


async def doubled(items: list[int]) -> list[int]:
    await asyncio.sleep(0)
    if 13 in items:
        raise ValueError("thirteen")
    return [item * 2 for item in items]


async def slowly(items: Iterator[int]) -> Any:
    for item in items:
        await asyncio.sleep(0)
        yield item


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("isolate", [True, False])
def test_amap_of_batches_gives_the_results_of_the_items(kind: str, isolate: bool) -> None:
    async def main() -> None:
        def source() -> Any:
            return iter(range(10)) if kind == "plain" else slowly(iter(range(10)))

        wanted = [item * 2 for item in range(10)]
        assert await amap(doubled, source(), limit=2, batch=4, isolate=isolate) == wanted
        async with amap(doubled, source(), limit=2, batch=4, isolate=isolate) as results:
            assert [result async for result in results] == wanted

    testing.run(main)


def test_amap_of_batches_counts_in_items() -> None:
    async def main() -> None:
        seen: list[tuple[int, int | None]] = []
        progress = lambda done, total: seen.append((done, total))  # noqa: E731
        sizes: list[int] = []

        async def fn(items: list[int]) -> list[int]:
            sizes.append(len(items))
            return await doubled(items)

        await amap(fn, range(10), limit=1, batch=4, progress=progress)
        assert sizes == [4, 4, 2]
        assert seen == [(4, 10), (8, 10), (10, 10)]

    testing.run(main)


def test_amap_of_batches_says_which_items_failed_and_which_did_not() -> None:
    async def main() -> None:
        with pytest.raises(MapError) as caught:
            await amap(doubled, range(14), limit=1, batch=4)
        assert caught.value.results == {item: item * 2 for item in range(12)}
        assert list(caught.value.failed) == [12, 13]
        results = await amap(doubled, range(18), limit=1, batch=4, errors="return")
        assert [index for index, result in enumerate(results) if isinstance(result, ValueError)] == [12, 13, 14, 15]
        assert results[16:] == [32, 34]

    testing.run(main)


def test_amap_of_batches_minds_the_number_of_results_and_closes_its_source() -> None:
    closed = []

    def source() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            closed.append(True)

    async def short(items: list[int]) -> list[int]:
        return items[1:]

    async def main() -> None:
        with pytest.raises(MapError) as caught:
            await amap(short, source(), limit=1, batch=4)
        assert "3 results for a batch of 4" in str(caught.value.exceptions[0])
        assert closed == [True]
        with pytest.raises(ValueError, match="batch"):
            amap(short, source(), limit=1, batch=0)
        with pytest.raises(TypeError, match="batch"):
            amap(short, source(), limit=1, batch="4")  # type: ignore[call-overload]

    testing.run(main)
