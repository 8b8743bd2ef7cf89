"""gather: amap's promises over awaitables."""

from __future__ import annotations

import asyncio
import gc
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.cancels import EVERY_STEP
from support.loops import Cell, run

from loopwright import CallCancelled, MapError, Semaphore, gather
from loopwright.testing import Play, cancel_sweep


@pytest.fixture(autouse=True)
def no_warnings(only_new_garbage: None) -> Iterator[None]:
    """A coroutine that is never awaited is a failure."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


async def number(n: int, turns: int = 1) -> int:
    for _ in range(turns):
        await asyncio.sleep(0)
    return n


async def fails(turns: int = 1) -> int:
    for _ in range(turns):
        await asyncio.sleep(0)
    raise LookupError("fails")


def test_gives_a_list_in_order(cell: Cell) -> None:
    async def main() -> None:
        assert await gather(number(1, 3), number(2), number(3, 2)) == [1, 2, 3]
        assert await gather() == []
        assert await gather(*[number(n) for n in range(50)], limit=3) == list(range(50))

    run(main, cell)


def test_takes_any_awaitable() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(future.set_result, "future")
        task = loop.create_task(number(7))
        assert await gather(future, task, Semaphore(1).acquire(), number(1)) == ["future", 7, True, 1]

    run(main)


def test_one_that_is_given_twice_is_awaited_once() -> None:
    async def main() -> None:
        one, two = number(1), number(2)
        assert await gather(one, two, one, one) == [1, 2, 1, 1]

    run(main)


def test_a_coroutine_is_its_own_task() -> None:
    """So that every tool shows the caller's own frames."""

    async def main() -> None:
        async def me() -> bool:
            task = asyncio.current_task()
            assert task is not None
            return task.get_coro() is coroutine

        coroutine = me()
        assert await gather(coroutine) == [True]

    run(main)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_limit_holds(cell: Cell, limit: int) -> None:
    async def main() -> None:
        alive = peak = 0

        async def call(n: int) -> int:
            nonlocal alive, peak
            alive += 1
            peak = max(peak, alive)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            alive -= 1
            return n

        assert await gather(*map(call, range(20)), limit=limit) == list(range(20))
        assert peak == limit

    run(main, cell)


def test_an_error_cancels_awaits_and_closes_the_rest(cell: Cell) -> None:
    async def main() -> None:
        ended = []

        async def slow(n: int) -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                ended.append(n)

        never = [number(n) for n in range(5)]
        with pytest.raises(MapError) as caught:
            await gather(number(1), slow(0), fails(turns=4), *never, limit=3, errors="raise")
        assert ended == [0]
        assert set(caught.value.failed) == {2}
        assert caught.value.results[0] == 1
        assert {inspect.getcoroutinestate(coroutine) for coroutine in never} == {"CORO_CLOSED"}
        assert str(caught.value).startswith("gather: 1 of")

    run(main, cell)


def test_errors_return() -> None:
    async def main() -> None:
        cancelled = asyncio.get_running_loop().create_future()
        cancelled.cancel()
        one, error, other = await gather(number(1), fails(), cancelled, errors="return")
        assert one == 1
        assert isinstance(error, LookupError)
        assert isinstance(other, CallCancelled)

    run(main)


def test_futures_that_had_no_turn_are_cancelled_and_awaited() -> None:
    async def main() -> None:
        ended = []

        async def background() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await asyncio.sleep(0)
                ended.append(1)

        task = asyncio.get_running_loop().create_task(background())
        with pytest.raises(MapError):
            await gather(fails(), task, limit=1)
        assert task.cancelled()
        assert ended == [1]

    run(main)


def test_a_running_task_is_cancelled_with_the_rest() -> None:
    async def main() -> None:
        task = asyncio.get_running_loop().create_task(number(1, turns=1000))
        with pytest.raises(MapError):
            await gather(task, fails())
        assert task.cancelled()

    run(main)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: gather(3), TypeError, "got 3"),  # type: ignore[call-overload]
        (lambda: gather(limit=0), ValueError, "got 0"),
        (lambda: gather(limit=True), TypeError, "got True"),
        (lambda: gather(errors="ignore"), ValueError, "'ignore'"),  # type: ignore[call-overload]
    ],
)
def test_misuse_is_told_at_once(make: Callable[[], Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make()


def test_one_that_is_dropped_says_so(recwarn: pytest.WarningsRecorder) -> None:
    coroutine = number(1)
    with pytest.warns(RuntimeWarning, match="coroutine 'gather' was never awaited"):
        gather(coroutine)
        gc.collect()
    coroutine.close()


def play_of(limit: int | None, broken: bool, *, futures: bool) -> Any:
    async def play_gather(play: Play) -> None:
        alive, got, left = [0], [], []

        async def call(n: int) -> int:
            alive[0] += 1
            try:
                for _ in range(1 + n % 2):
                    play.step()
                    await asyncio.sleep(0)
                if broken and n == 2:
                    raise ValueError
                return n
            except asyncio.CancelledError:
                play.step()
                await asyncio.sleep(0)
                raise
            finally:
                alive[0] -= 1
                play.step()

        async def caller() -> None:
            made = [call(n) for n in range(5)]
            left.extend(asyncio.ensure_future(c) if futures and n % 2 else c for n, c in enumerate(made))
            got.extend(await gather(*left, limit=limit))

        allow: tuple[type[BaseException], ...] = (MapError,) if broken else ()
        # A failure that a cancel overtook goes to the exception handler.
        play.loop.set_exception_handler(
            lambda loop, context: (
                None if broken and "amap" not in str(context) else play.exception_handler(loop, context)
            )
        )
        task = play.spawn(caller(), name="caller", allow=allow)
        await play.finished()
        assert alive == [0]
        assert task.cancelled() or broken or got == list(range(5))
        assert all(aw.done() if isinstance(aw, asyncio.Future) else aw.cr_frame is None for aw in left)

    play_gather.__qualname__ = f"gather-{limit}{'-fails' if broken else ''}{'-futures' if futures else ''}"
    return play_gather


@pytest.mark.parametrize("futures", [False, True], ids=["coroutines", "futures"])
@pytest.mark.parametrize("broken", [False, True], ids=["succeeds", "fails"])
@pytest.mark.parametrize("limit", [None, 2])
def test_sweep(limit: int | None, broken: bool, futures: bool) -> None:
    cancel_sweep(play_of(limit, broken, futures=futures), victims="caller", **EVERY_STEP)
