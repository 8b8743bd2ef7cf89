"""Background: no task and no error is lost; restarts, periodic jobs, closing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import inspect
import itertools
import logging
import threading
import warnings
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import anyio
import pytest
from support.cancels import EVERY_STEP, cancels, in_cell
from support.loops import Cell, VirtualLoop, run

from loopwright import Background, GroupFull, LoopMismatch, Restart
from loopwright.testing import Play, cancel_sweep, random_cancels


async def turns(n: int = 3) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def nothing() -> None:
    pass


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def run_virtual(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs it on a loop whose clock jumps from timer to timer."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        idle = 0

        def tick() -> None:
            nonlocal idle
            idle += 1
            if idle % 12 == 0:  # whoever can run has run by now
                loop.advance()
            loop.call_soon(tick)

        async def enter() -> None:
            loop.call_soon(tick)
            await main()

        runner.run(enter())


class Errors(list[tuple[str, BaseException]]):
    """An ``on_error`` that remembers."""

    def __call__(self, error: BaseException, task: asyncio.Task[Any]) -> None:
        self.append((task.get_name(), error))


# ------------------------------------------------------------------------------- tasks and their errors


def test_no_task_is_lost(cell: Cell) -> None:
    """The loop keeps weak references only: a task that waits for what only it refers to vanishes."""

    async def main() -> None:
        ended: list[int] = []
        wakers: list[weakref.ref[asyncio.Future[None]]] = []

        async def job(n: int) -> None:
            future = asyncio.get_running_loop().create_future()
            wakers.append(weakref.ref(future))
            await future
            ended.append(n)

        jobs = Background()
        for n in range(5):
            jobs.spawn(job, n)
        await turns()
        gc.collect()
        for waker in wakers:
            future = waker()
            assert future is not None
            future.set_result(None)
        del future
        await turns()
        assert ended == [0, 1, 2, 3, 4]
        assert jobs.stats().finished == 5
        assert jobs.stats().alive == 0

    run(main, cell)


def test_no_error_is_lost(cell: Cell) -> None:
    async def main() -> None:
        reports: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))

        async def fails(message: str) -> None:
            raise ValueError(message)

        errors = Errors()
        with_handler, without = Background(on_error=errors), Background()
        with_handler.spawn(fails, "one", name="a")
        task = without.spawn(fails("two"), name="b")
        await turns()
        assert [(name, str(error)) for name, error in errors] == [("a", "one")]
        assert [str(report["exception"]) for report in reports] == ["two"]
        assert reports[0]["task"] is task
        with pytest.raises(ValueError, match="two"):
            await task

        def broken(error: BaseException, task: asyncio.Task[Any]) -> None:
            raise RuntimeError("handler")

        reports.clear()
        Background(on_error=broken).spawn(fails, "three")
        await turns()
        assert [str(report["exception"]) for report in reports] == ["handler", "three"]

    run(main, cell)


def test_spawn_takes_functions_with_arguments_and_coroutines(cell: Cell) -> None:
    async def main() -> None:
        async def add(a: int, b: int = 1) -> int:
            return a + b

        async with Background() as jobs:
            assert await jobs.spawn(add, 1) == 2
            assert await jobs.spawn(add, 1, b=5) == 6
            assert await jobs.spawn(add(2, 2), name="sum") == 4

    run(main, cell)


def test_beyond_the_limit_it_raises_group_full(cell: Cell) -> None:
    async def main() -> None:
        jobs = Background(limit=2)
        blockers = [jobs.spawn(forever) for _ in range(2)]
        coroutine = nothing()
        with pytest.raises(GroupFull, match="2 tasks are alive, limit=2"):
            jobs.spawn(coroutine)
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
        blockers[0].cancel()
        await turns()
        await jobs.spawn(nothing)
        assert jobs.limit == 2
        await jobs.aclose(0)

    run(main, cell)


def test_misuse_is_refused_by_name() -> None:
    async def main() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            jobs = Background()
            for make, error, message in [
                (lambda: Background(limit=0), ValueError, r"limit=...\) must be 1 or more, got 0"),
                (lambda: Background(limit=True), TypeError, "True"),
                (lambda: Background(on_error=forever), TypeError, "plain function"),  # type: ignore[arg-type]
                (lambda: Restart(attempts=0), ValueError, "attempts"),
                (lambda: Restart(base=0), ValueError, "base"),
                (lambda: Restart(base=5, max_delay=1), ValueError, r"max_delay=1\) is less than base=5"),
                (lambda: Restart(base=float("nan")), ValueError, "nan"),
                (lambda: Restart(jitter="some"), ValueError, "some"),  # type: ignore[arg-type]
                (lambda: jobs.spawn(5), TypeError, "got 5"),  # type: ignore[call-overload]
                (lambda: jobs.spawn(nothing(), restart=True), TypeError, "no restart for a coroutine"),  # type: ignore[call-overload]
                (lambda: jobs.spawn(nothing(), 1), TypeError, "no arguments for a coroutine"),  # type: ignore[call-overload]
                (lambda: jobs.spawn(nothing, restart=3), TypeError, r"delays\(\)"),  # type: ignore[call-overload]
                (lambda: jobs.every(0, nothing), ValueError, "interval"),
                (lambda: jobs.every(True, nothing), TypeError, "interval"),
                (lambda: jobs.every(1, nothing, jitter=1), ValueError, "jitter"),
                (lambda: jobs.every(1, nothing()), TypeError, "without arguments"),  # type: ignore[arg-type]
            ]:
                with pytest.raises(error, match=message):
                    make()
            await jobs.aclose()
            coroutine = nothing()
            with pytest.raises(RuntimeError, match="closed"):
                jobs.spawn(coroutine)
            assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED

    run(main)
    with pytest.raises(RuntimeError, match="no running event loop"):
        Background().spawn(forever)


def test_it_belongs_to_a_loop_while_it_has_tasks() -> None:
    jobs = Background()
    started, leave = threading.Event(), threading.Event()

    async def first() -> None:
        task = jobs.spawn(forever)
        started.set()
        await asyncio.get_running_loop().run_in_executor(None, leave.wait)
        task.cancel()

    async def second() -> None:
        with pytest.raises(LoopMismatch, match="1 task"):
            jobs.spawn(nothing)

    thread = threading.Thread(target=lambda: asyncio.run(first()))
    thread.start()
    assert started.wait(10)
    asyncio.run(second())
    leave.set()
    thread.join(10)

    async def third() -> None:
        await jobs.spawn(nothing)

    asyncio.run(third())  # a module-level object outlives loops


# ------------------------------------------------------------------------------- restart


def test_a_failed_job_is_restarted_and_every_error_reported() -> None:
    async def main() -> None:
        errors = Errors()
        loop = asyncio.get_running_loop()
        times: list[float] = []

        async def flaky() -> str:
            times.append(loop.time())
            if len(times) < 5:
                raise ConnectionError(len(times))
            return "up"

        jobs = Background(on_error=errors)
        restart = Restart(base=1, max_delay=3, jitter="none")
        assert await jobs.spawn(flaky, restart=restart, name="flaky") == "up"
        assert [b - a for a, b in itertools.pairwise(times)] == [1, 2, 3, 3]
        assert [error.args[0] for _, error in errors] == [1, 2, 3, 4]
        assert {name for name, _ in errors} == {"flaky"}
        stats = jobs.stats()
        assert (stats.restarts, stats.errors, stats.finished, stats.failed) == (4, 4, 1, 0)

    run_virtual(main)


def test_restarts_come_to_an_end() -> None:
    async def main() -> None:
        errors = Errors()

        async def broken() -> None:
            raise ValueError(len(errors))

        jobs = Background(on_error=errors)
        task = jobs.spawn(broken, restart=Restart(attempts=3, base=0.01))
        with pytest.raises(ValueError, match="3"):
            await task
        await turns()
        assert [error.args[0] for _, error in errors] == [0, 1, 2, 3]
        assert jobs.stats().failed == 1

    run_virtual(main)


def test_work_that_ran_long_has_recovered() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        gaps: list[float] = []
        ended = loop.time()

        async def runs(length: list[float]) -> None:
            nonlocal ended
            gaps.append(loop.time() - ended)
            if not length:
                return
            await asyncio.sleep(length.pop(0))
            ended = loop.time()
            raise ValueError

        jobs = Background(on_error=Errors())
        await jobs.spawn(runs, [0, 0, 100, 0], restart=Restart(base=1, max_delay=10, jitter="none"))
        assert gaps == pytest.approx([0, 1, 2, 1, 2])

    run_virtual(main)


def test_any_object_with_delays_is_a_policy() -> None:
    class Twice:
        def delays(self) -> Iterator[float]:
            return iter([0.5, 0.25])

    async def main() -> None:
        loop = asyncio.get_running_loop()
        start, errors = loop.time(), Errors()

        async def broken() -> None:
            raise ValueError

        with contextlib.suppress(ValueError):
            await Background(on_error=errors).spawn(broken, restart=Twice())
        await turns()
        assert loop.time() - start == pytest.approx(0.75)
        assert len(errors) == 3

    run_virtual(main)


def test_jitter_survives_the_cap() -> None:
    delays = list(itertools.islice(Restart(base=1, max_delay=4).delays(), 200))
    assert max(delays) <= 4
    assert len({round(delay, 6) for delay in delays[10:]}) > 150
    assert list(itertools.islice(Restart(base=1, max_delay=5, jitter="none").delays(), 5)) == [1, 2, 4, 5, 5]


def test_a_cancelled_job_is_not_restarted(cell: Cell) -> None:
    async def main() -> None:
        jobs = Background(on_error=Errors())
        task = jobs.spawn(forever, restart=True)
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await turns()
        assert jobs.stats().restarts == 0
        assert jobs.stats().cancelled == 1

    run(main, cell)


# ------------------------------------------------------------------------------- every


def test_every_does_not_drift_and_never_overlaps_itself() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        times: list[float] = []
        running = 0

        async def job() -> None:
            nonlocal running
            running += 1
            assert running == 1, "it overlaps itself"
            times.append(round(loop.time() - start, 6))
            await asyncio.sleep([0.1, 2.5, 0.9, 0.0][len(times) % 4])
            running -= 1

        jobs = Background()
        jobs.every(1, job)
        await asyncio.sleep(10.5)
        # The second run of four takes 2.5 s: the times it misses are left out, the others are where they always were.
        assert times[:2] == [1.0, 4.0]
        assert all(time == int(time) for time in times), times
        assert times == sorted(set(times))
        await jobs.aclose()

    run_virtual(main)


def test_every_survives_an_error() -> None:
    async def main() -> None:
        errors = Errors()
        calls = 0

        async def job() -> None:
            nonlocal calls
            calls += 1
            raise ValueError(calls)

        def plain() -> None:
            raise KeyError

        jobs = Background(on_error=errors)
        jobs.every(1, job, name="periodic")
        jobs.every(2, plain)
        await asyncio.sleep(4.5)
        assert [error.args for name, error in errors if name == "periodic"] == [(1,), (2,), (3,), (4,)]
        assert sum(isinstance(error, KeyError) for _, error in errors) == 2
        assert jobs.stats().alive == 2
        await jobs.aclose()
        assert jobs.stats().alive == 0

    run_virtual(main)


def test_jitter_delays_each_run_and_adds_up_to_nothing() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        lags: list[float] = []

        async def job() -> None:
            lags.append(loop.time() - start - 10 * (len(lags) + 1))

        jobs = Background()
        jobs.every(10, job, jitter=3)
        await asyncio.sleep(405)
        assert len(lags) == 40
        assert all(-0.001 <= lag <= 3.001 for lag in lags)
        assert len({round(lag, 3) for lag in lags}) > 30
        await jobs.aclose()

    run_virtual(main)


# ------------------------------------------------------------------------------- closing


def test_aclose_waits_grace_then_cancels_and_waits(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        log: list[tuple[str, float]] = []
        start = loop.time()

        def note(what: str) -> None:
            log.append((what, round(loop.time() - start, 3)))

        async def quick() -> None:
            await asyncio.sleep(1)
            note("quick")

        async def slow() -> None:
            try:
                await forever()
            finally:
                await asyncio.sleep(0.5)
                note("slow")

        jobs = Background()
        jobs.spawn(quick)
        jobs.spawn(slow, name="the slow one")
        jobs.every(0.1, forever)  # idle: does not keep it waiting
        assert await jobs.aclose(2) == []
        assert log == [("quick", 1.0), ("slow", 2.5)]
        assert await jobs.aclose(2) == []

    with caplog.at_level(logging.WARNING, logger="loopwright"):
        run_virtual(main)
    assert "cancelled after grace=2.0 s: the slow one" in caplog.text


def test_aclose_reports_what_did_not_end(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        stop = False

        async def stubborn() -> None:
            while not stop:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.1)

        jobs = Background()
        task = jobs.spawn(stubborn, name="stubborn")
        await turns()
        assert await jobs.aclose(1) == [task]
        stop = True
        await task

    with caplog.at_level(logging.ERROR, logger="loopwright"):
        run_virtual(main)
    assert "stubborn" in caplog.text
    assert "has not ended" in caplog.text


def test_a_cancelled_aclose_cancels_what_is_left_and_waits_for_it(cell: Cell) -> None:
    async def main() -> None:
        cleaned: list[int] = []

        async def job(n: int) -> None:
            try:
                await forever()
            finally:
                await turns()
                cleaned.append(n)

        jobs = Background()
        for n in range(3):
            jobs.spawn(job, n)
        await turns()
        closing = asyncio.create_task(jobs.aclose(60))
        await turns()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert sorted(cleaned) == [0, 1, 2]

    run(main, cell)


def test_leaving_the_block_closes_it(cell: Cell) -> None:
    async def main() -> None:
        async with Background() as jobs:
            task = jobs.spawn(turns, 5)
        assert task.done()
        assert jobs.stats().closed

        async def cancelled() -> None:
            async with Background() as jobs:
                tasks.append(jobs.spawn(forever))
                await forever()

        tasks: list[asyncio.Task[None]] = []
        parent = asyncio.create_task(cancelled())
        await turns()
        parent.cancel()
        with pytest.raises(asyncio.CancelledError):
            await parent
        assert tasks[0].cancelled()

    run(main, cell)


def test_a_job_may_close_its_own_background() -> None:
    async def main() -> None:
        jobs = Background()

        async def last() -> None:
            other = jobs.spawn(forever)
            await turns()
            assert await jobs.aclose(0) == []
            assert other.cancelled()

        await jobs.spawn(last)

    run(main)


def test_closing_in_a_cancelled_anyio_scope() -> None:
    async def main() -> None:
        cleaned = False

        async def job() -> None:
            nonlocal cleaned
            try:
                await forever()
            finally:
                await asyncio.sleep(0.02)
                cleaned = True

        with anyio.move_on_after(0.01) as scope:
            async with Background() as jobs:
                jobs.spawn(job)
                await forever()
        assert scope.cancelled_caught
        assert cleaned

    run(main)


def test_repr_and_stats(cell: Cell) -> None:
    async def main() -> None:
        jobs = Background(limit=5, on_error=Errors())
        jobs.spawn(forever)
        assert repr(jobs) == "<Background tasks=1 limit=5 errors=0>"
        await jobs.aclose(0)
        assert repr(jobs) == "<Background tasks=0 limit=5 errors=0 closed>"
        stats = jobs.stats()
        assert dataclasses.asdict(stats) == {
            "alive": 0,
            "limit": 5,
            "spawned": 1,
            "finished": 0,
            "failed": 0,
            "cancelled": 1,
            "errors": 0,
            "restarts": 0,
            "closed": True,
        }
        with pytest.raises(dataclasses.FrozenInstanceError):
            stats.alive = 1  # type: ignore[misc]

    run(main, cell)


# ------------------------------------------------------------------------------- sweeps


async def closing(play: Play) -> None:
    """A block that spawns, fails and closes; whoever is cancelled, every job has ended when the block has."""
    alive: set[int] = set()
    errors = Errors()

    async def job(n: int) -> None:
        alive.add(n)
        try:
            for _ in range(play.rng.randint(0, 3)):
                await asyncio.sleep(0)
                play.step()
            if n % 2:
                raise ValueError
        finally:
            alive.discard(n)

    async def owner() -> None:
        jobs = Background(on_error=errors)
        try:
            async with jobs:
                for n in range(4):
                    jobs.spawn(job, n, restart=Restart(attempts=1, base=0.01))
                    await play.pause()
        finally:
            assert not alive
            stats = jobs.stats()
            assert stats.alive == 0
            assert stats.spawned == stats.finished + stats.failed + stats.cancelled

    play.spawn(owner(), name="owner")
    await play.finished()


@pytest.fixture(autouse=True)
def quiet(request: pytest.FixtureRequest) -> Iterator[None]:
    logger = logging.getLogger("loopwright")
    logger.disabled = "sweep" in request.node.name or "random" in request.node.name
    yield
    logger.disabled = False


def test_sweep(cell: Cell) -> None:
    assert cancel_sweep(closing, victims="owner", **EVERY_STEP, **in_cell(cell)).count("cancel") > 3


def test_random_cancels(cell: Cell) -> None:
    random_cancels(closing, cancels(cell=cell, share=0.2), level="task", **in_cell(cell))
