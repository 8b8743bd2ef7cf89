"""race: the first success wins, losers are cancelled and awaited, no cancel is swallowed (promise 8)."""

from __future__ import annotations

import asyncio
import gc
import inspect
import warnings
import weakref
from typing import Any

import anyio
import pytest
from support.cancels import EVERY_STEP, cancels, in_cell
from support.loops import PLAIN, Cell, run

from loopwright import CallCancelled, TaskGroup, race
from loopwright.testing import Play, cancel_sweep, random_cancels


async def after(turns: int, result: Any = None) -> Any:
    for _ in range(turns):
        await asyncio.sleep(0)
    if isinstance(result, BaseException):
        raise result
    return result


async def forever() -> Any:
    await asyncio.get_running_loop().create_future()


def test_the_first_success_wins_and_losers_are_cancelled_and_awaited(cell: Cell) -> None:
    async def main() -> None:
        ended: list[str] = []

        async def loser() -> None:
            try:
                await forever()
            finally:
                await after(5)
                ended.append("loser")

        async def winner() -> str:
            await after(3)
            ended.append("winner")
            return "won"

        assert await race(loser(), winner(), loser()) == "won"
        assert ended == ["winner", "loser", "loser"]
        assert len(asyncio.all_tasks()) == 1

    run(main, cell)


def test_an_error_does_not_end_the_race(cell: Cell) -> None:
    async def main() -> None:
        assert await race(after(1, ValueError()), after(5, "slow but sure")) == "slow but sure"
        assert await race(after(0, None), forever()) is None

    run(main, cell)


def test_all_failed_gives_every_error_in_the_order_in_which_they_came(cell: Cell) -> None:
    async def main() -> None:
        with pytest.raises(ExceptionGroup, match=r"every coroutine of race\(\) failed") as caught:
            await race(after(5, ValueError("late")), after(1, KeyError("early")))
        assert [type(error) for error in caught.value.exceptions] == [KeyError, ValueError]
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run(main, cell)


def test_a_racer_cancelled_by_somebody_else_has_failed(cell: Cell) -> None:
    async def main() -> None:
        async def cancels_itself() -> None:
            raise asyncio.CancelledError

        assert await race(cancels_itself(), after(3, 1)) == 1
        with pytest.raises(ExceptionGroup) as caught:
            await race(cancels_itself(), after(3, ValueError()))
        assert [type(error) for error in caught.value.exceptions] == [CallCancelled, ValueError]

    run(main, cell)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_keyboard_interrupt_ends_the_race(error: type[BaseException]) -> None:
    async def main() -> None:
        await race(after(1, error()), forever())

    with pytest.raises(error):
        run(main)


def test_misuse_is_refused_and_nothing_is_left_unstarted() -> None:
    async def main() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ValueError, match="at least one coroutine"):
                race()
            first, last = after(1), after(1)
            with pytest.raises(TypeError, match=r"race\(\) takes coroutines, got <function after.*call it"):
                race(first, after, last)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="wrap it"):
                race(asyncio.get_running_loop().create_future())  # type: ignore[arg-type]
            gc.collect()
            assert inspect.getcoroutinestate(first) == inspect.getcoroutinestate(last) == inspect.CORO_CLOSED

    run(main)


def test_a_race_cancelled_before_it_began_closes_its_coroutines() -> None:
    async def main() -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            coroutines = [after(1), after(1)]
            task = asyncio.create_task(race(*coroutines))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task
            await after(1)  # the handle that woke us holds the task
            gc.collect()
            states = [inspect.getcoroutinestate(coroutine) for coroutine in coroutines]
        assert states == [inspect.CORO_CLOSED] * 2
        assert not caught

    run(main)


def test_promise_8_a_cancel_in_the_turn_of_the_result_is_not_swallowed(cell: Cell) -> None:
    async def main() -> None:
        blocker = asyncio.get_running_loop().create_future()

        async def wins() -> str:
            await blocker
            task.cancel()
            return "won"

        async def caller() -> None:
            await race(wins(), forever())

        task = asyncio.create_task(caller())
        await after(3)
        blocker.set_result(None)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    run(main, cell)


def test_promise_8_a_cancel_during_the_losers_clean_up_is_not_swallowed(cell: Cell) -> None:
    async def main() -> None:
        cleaned = False

        async def loser() -> None:
            nonlocal cleaned
            try:
                await forever()
            finally:
                await after(8)
                cleaned = True

        task = asyncio.create_task(race(loser(), after(2, "won")))
        await after(7)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cleaned

    run(main, cell)


def test_a_loser_that_fails_because_it_was_cancelled_is_reported(cell: Cell) -> None:
    async def main() -> None:
        reports: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))

        async def fails_to_clean_up() -> None:
            try:
                await forever()
            finally:
                raise ValueError("clean-up")

        assert await race(fails_to_clean_up(), after(1, KeyError()), after(2, 1)) == 1
        assert [type(report["exception"]) for report in reports] == [ValueError]
        assert "lost a race()" in reports[0]["message"]

    run(main, cell)


def test_a_race_inside_an_anyio_scope() -> None:
    async def main() -> None:
        with anyio.move_on_after(0.01) as scope:
            await race(forever(), forever())
        assert scope.cancelled_caught
        assert len(asyncio.all_tasks()) == 1

    run(main)


def test_a_race_leaves_no_cycles() -> None:
    async def main() -> None:
        class Result:
            pass

        result = weakref.ref(await race(after(1, Result()), forever()))
        await after(3)
        assert result() is None

    gc.collect()
    gc.disable()
    try:
        run(main)
    finally:
        gc.enable()


async def a_race(play: Play) -> None:
    alive: set[int] = set()

    async def racer(n: int) -> int:
        alive.add(n)
        try:
            for _ in range(play.rng.randint(0, 4)):
                await asyncio.sleep(0)
                play.step()
            if play.rng.random() < 0.4:
                raise ValueError
            return n
        finally:
            try:
                await asyncio.sleep(0)
                play.step()
            finally:
                alive.discard(n)

    async def caller() -> None:
        try:
            assert await race(*(racer(n) for n in range(3))) in range(3)
        except* ValueError:
            pass
        finally:
            assert not alive

    play.spawn(caller(), name="caller")
    await play.finished()
    assert not alive


def test_sweep(cell: Cell) -> None:
    for seed in range(5 if cell == PLAIN else 1):
        assert cancel_sweep(a_race, victims="caller", seed=seed, **EVERY_STEP, **in_cell(cell)).count("cancel") > 3


def test_random_cancels(cell: Cell) -> None:
    random_cancels(a_race, cancels(cell=cell), level="task", **in_cell(cell))


def test_a_race_in_a_failing_group(cell: Cell) -> None:
    async def main() -> None:
        with pytest.raises(ExceptionGroup):
            async with TaskGroup() as group:
                group.create_task(race(forever(), forever()))
                group.create_task(after(2, ValueError()))
        assert len(asyncio.all_tasks()) == 1

    run(main, cell)
