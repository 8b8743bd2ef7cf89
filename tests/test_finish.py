"""finish: the coroutine runs to its end whatever cancels arrive (promise 10)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import logging
import pickle
import selectors
import warnings
import weakref
from typing import Any

import anyio
import pytest
from support.cancels import EVERY_STEP, cancels, in_cell
from support.loops import PLAIN, Cell, run

import loopwright
from loopwright import FinishTimeout, TaskGroup, finish
from loopwright.testing import Play, cancel_sweep, random_cancels


async def turns(n: int = 3) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


class Commit:
    """Work that must not stop half-way."""

    def __init__(self, steps: int = 8, result: Any = "done") -> None:
        self.steps = steps
        self.result = result
        self.made = 0

    async def __call__(self) -> Any:
        while self.made < self.steps:
            await asyncio.sleep(0)
            self.made += 1
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    @property
    def whole(self) -> bool:
        return self.made == self.steps


def test_without_a_cancel_it_is_an_await(cell: Cell) -> None:
    async def main() -> None:
        assert await finish(Commit(0, 1)()) == 1
        assert await finish(Commit(3, None)()) is None
        with pytest.raises(ValueError, match="broken"):
            await finish(Commit(2, ValueError("broken"))())

    run(main, cell)


@pytest.mark.parametrize("times", [1, 2, 7])
def test_promise_10_any_number_of_cancels_and_the_first_comes_out_afterwards(cell: Cell, times: int) -> None:
    async def main() -> None:
        commit = Commit(20)
        arrived: list[BaseException] = []

        async def caller() -> None:
            try:
                await finish(commit())
            except asyncio.CancelledError as error:
                arrived.append(error)
                assert commit.whole
                raise

        task = asyncio.create_task(caller())
        await turns(2)
        for n in range(times):
            task.cancel(f"cancel {n}")
            await turns(1)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [error.args for error in arrived] == [("cancel 0",)]
        assert task.cancelling() == times

    run(main, cell)


@pytest.mark.parametrize("timeout", [asyncio.timeout, loopwright.timeout])
def test_promise_10_under_a_timeout(cell: Cell, timeout: Any) -> None:
    async def main() -> None:
        ended = False

        async def commit() -> None:
            nonlocal ended
            await asyncio.sleep(0.05)
            ended = True

        with pytest.raises(TimeoutError):
            async with timeout(0.005):
                await finish(commit())
        assert ended
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run(main, cell)


@pytest.mark.parametrize("group_type", [asyncio.TaskGroup, TaskGroup])
def test_promise_10_in_a_group_that_fails(cell: Cell, group_type: Any) -> None:
    async def main() -> None:
        commit, body = Commit(), Commit()

        async def fails() -> None:
            await turns(2)
            raise ValueError

        with pytest.raises(ExceptionGroup):
            async with group_type() as group:
                group.create_task(finish(commit()))
                group.create_task(fails())
                await finish(body())
        assert commit.whole
        assert body.whole

    run(main, cell)


def test_promise_10_in_an_anyio_scope_without_a_busy_loop() -> None:
    """In a cancelled scope anyio cancels whoever waits again in every turn of the loop, 100,000 times a second."""

    class Counting(selectors.DefaultSelector):
        turns = 0

        def select(self, timeout: float | None = None) -> Any:
            Counting.turns += 1
            return super().select(timeout)

    async def main() -> None:
        ended = False

        async def commit() -> None:
            nonlocal ended
            await asyncio.sleep(0.3)
            ended = True

        with anyio.move_on_after(0.02) as scope:
            await finish(commit())
        assert ended
        assert scope.cancelled_caught
        assert Counting.turns < 200, f"{Counting.turns} turns of the loop to wait for one timer"
        await turns()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(Counting())) as runner:
        runner.run(main())


def test_promise_10_in_an_anyio_scope_that_is_cancelled_already() -> None:
    async def main() -> None:
        commit = Commit(20)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await finish(commit())
        assert scope.cancelled_caught
        assert commit.whole

    run(main)


def test_promise_10_native_and_scope_cancels_mixed() -> None:
    async def main() -> None:
        commit = Commit(50)

        async def caller() -> None:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                await finish(commit())

        scopes: list[anyio.CancelScope] = []
        task = asyncio.create_task(caller())
        await turns(2)
        task.cancel()
        await turns(2)
        scopes[0].cancel()
        await turns(2)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert commit.whole

    run(main)


def test_a_failure_after_a_cancel_is_noted_chained_and_logged(cell: Cell, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        broken = ValueError("broken")
        task = asyncio.create_task(finish(Commit(5, broken)()))
        await turns(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.__notes__ == ["finish(Commit.__call__) failed meanwhile: ValueError: broken"]
        assert caught.value.__cause__ is broken

    caplog.clear()
    with caplog.at_level(logging.ERROR, logger="loopwright"):
        run(main, cell)
    (record,) = [record for record in caplog.records if record.name == "loopwright"]
    assert record.message == "finish(Commit.__call__) failed after its caller was cancelled"
    assert record.exc_info


def test_its_own_timeout_cancels_the_coroutine_and_waits_for_it(cell: Cell) -> None:
    async def main() -> None:
        started = cleaned = 0

        async def hangs() -> None:
            nonlocal started, cleaned
            started += 1
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await turns()
                cleaned += 1

        with pytest.raises(FinishTimeout, match=r"hangs\) did not end within timeout=0.01 s") as caught:
            await finish(hangs(), timeout=0.01)
        assert cleaned == started
        assert isinstance(caught.value, TimeoutError)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        task = asyncio.create_task(finish(hangs(), timeout=0.01))
        await turns(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await task
        assert "did not end within timeout=0.01 s" in cancelled.value.__notes__[0]
        assert await finish(Commit(2, 1)(), timeout=60) == 1

    run(main, cell)


def test_a_coroutine_cut_short_from_outside_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def commit() -> None:
            await asyncio.get_running_loop().create_future()

        asyncio.create_task(finish(commit()))  # noqa: RUF006 (asyncio.run's teardown is the test)
        await turns()

    with caplog.at_level(logging.ERROR, logger="loopwright"):
        run(main)
    assert "commit) was cut short: its task was cancelled from outside" in caplog.text


def test_an_error_of_the_coroutine_that_is_a_cancel_is_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def awaits_something_cancelled() -> None:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

        with pytest.raises(asyncio.CancelledError):
            await finish(awaits_something_cancelled())

    run(main)
    assert "cut short" not in caplog.text


def test_a_caller_that_is_thrown_away_does_not_take_the_work_with_it() -> None:
    async def main() -> None:
        commit = Commit(10)
        caller = finish(commit())
        caller.send(None)
        caller.close()
        del caller
        for _ in range(20):
            gc.collect()
            await asyncio.sleep(0)
        assert commit.whole

    run(main)


def test_misuse_is_refused() -> None:
    async def main() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(TypeError, match=r"finish\(\) takes coroutines, got .*call it"):
                finish(turns)  # type: ignore[arg-type]
            for timeout, error in [(-1, ValueError), (float("nan"), ValueError), (True, TypeError), ("1", TypeError)]:
                coroutine = turns()
                with pytest.raises(error, match=r"finish\(timeout=...\)"):
                    finish(coroutine, timeout=timeout)  # type: ignore[arg-type]
                coroutine.close()
            coroutine = turns()
            task = asyncio.create_task(finish(coroutine))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task
            await turns(1)
            gc.collect()
            assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED

    run(main)


def test_an_error_leaves_no_cycle() -> None:
    async def main() -> None:
        class Gone(Exception):
            pass

        gone: weakref.ref[Gone] | None = None
        try:
            await finish(Commit(2, Gone())())
        except Gone as error:
            gone = weakref.ref(error)
        assert gone is not None
        await turns()
        gc.collect(0)
        assert gone() is None

    run(main)


async def commits(play: Play) -> None:
    """Callers that are cancelled at every step; every commit that began ends."""
    begun: list[int] = []
    ended: list[int] = []

    async def commit(n: int) -> None:
        begun.append(n)
        for _ in range(play.rng.randint(0, 4)):
            await asyncio.sleep(0)
            play.step()
        ended.append(n)
        if play.rng.random() < 0.2:
            raise ValueError

    async def caller(n: int) -> None:
        with contextlib.suppress(ValueError):
            await finish(commit(n))
        await play.pause()
        await finish(commit(n + 10))

    for n in range(3):
        play.spawn(caller(n), name=f"caller-{n}", allow=(ValueError,))
    await play.finished()
    assert sorted(begun) == sorted(ended)


@pytest.fixture(autouse=True)
def quiet(request: pytest.FixtureRequest) -> Any:
    """The sweeps provoke the log lines by the thousand."""
    logger = logging.getLogger("loopwright")
    logger.disabled = "sweep" in request.node.name or "random" in request.node.name
    yield
    logger.disabled = False


def test_sweep(cell: Cell) -> None:
    for seed in range(3 if cell == PLAIN else 1):
        assert cancel_sweep(commits, victims="caller-1", seed=seed, **EVERY_STEP, **in_cell(cell)).count("cancel") > 3


def test_random_cancels(cell: Cell) -> None:
    random_cancels(commits, cancels(cell=cell), level="task", **in_cell(cell))
