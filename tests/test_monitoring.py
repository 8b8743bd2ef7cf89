"""Monitoring: every call is counted once, what is slow is told while it is slow, and nobody pays who does not ask."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import gc
import inspect
import logging
import os
import random
import re
import threading
import traceback
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from support.cancels import EVERY_STEP, cancels, in_cell
from support.loops import PLAIN, Cell, VirtualLoop, parameters, run

from loopwright import Semaphore, SlowCall, TimedStats, monitor, monitoring, operations, timed, timeout
from loopwright._loopwright import _Durations
from loopwright.testing import Play, SimLoop, cancel_sweep, random_cancels


@pytest.fixture(autouse=True)
def no_names() -> Iterator[None]:
    """Names are the process's: each test begins without any."""
    monitoring._operations.clear()
    yield
    assert monitoring._monitors == [], "a test has left a monitor"
    monitoring._operations.clear()


def run_virtual(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=SimLoop) as runner:
        runner.run(main())


def only() -> TimedStats:
    """The stats of the one name there is."""
    [stats] = operations().values()
    return stats


# ------------------------------------------------------------------------------------- each call is counted once


def test_each_call_is_counted_once_as_what_it_was(cell: Cell) -> None:
    @timed("work")
    async def work(how: str) -> str:
        await asyncio.sleep(0)
        if how == "fails":
            raise ValueError(how)
        if how == "hangs":
            await asyncio.get_running_loop().create_future()
        return how

    async def main() -> None:
        assert await work("returns") == "returns"
        with pytest.raises(ValueError, match="fails"):
            await work("fails")
        task = asyncio.get_running_loop().create_task(work("hangs"))
        for _ in range(3):
            await asyncio.sleep(0)
        assert (only().running, only().calls) == (1, 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main, cell)
    stats = only()
    assert (stats.running, stats.calls, stats.failed, stats.cancelled, stats.slow) == (0, 3, 1, 1, 0)
    assert stats.durations.count == 3


async def scenario(play: Play) -> None:
    """Timed calls within timed calls, and blocks: each that began has ended once, and was counted as what it was."""
    monitoring._operations.clear()
    permits = Semaphore(1)
    began = 0

    @timed("work")
    async def work() -> int:
        nonlocal began
        began += 1
        with timed("part"):
            return await hold(began)

    @timed("hold")
    async def hold(number: int) -> int:
        async with permits:
            await play.pause()
            return 1 // (number - 1)

    async def one() -> None:
        with contextlib.suppress(ZeroDivisionError):
            await work()

    for _ in range(3):
        play.spawn(one())
    await play.finished()
    seen = operations()
    assert sum(stats.running for stats in seen.values()) == 0
    if began:
        assert seen["work"].calls == seen["part"].calls == began
        assert seen["work"].cancelled == seen["part"].cancelled
    for stats in seen.values():
        assert stats.durations.count == stats.calls >= stats.failed + stats.cancelled


@pytest.mark.parametrize("cell", parameters([PLAIN, Cell("uvloop")]))
def test_each_call_is_counted_once_whatever_is_cancelled_when(cell: Cell) -> None:
    assert cancel_sweep(scenario, **EVERY_STEP, **in_cell(cell)).count("cancel") > 3


def test_random_cancels(cell: Cell) -> None:
    random_cancels(scenario, cancels(cell=cell, share=0.005), **in_cell(cell))


def test_time_is_the_virtual_time_of_a_simulated_loop() -> None:
    @timed("nap")
    async def nap(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def main() -> None:
        for seconds in (1.0, 2.0, 3600.0):
            await nap(seconds)

    run_virtual(main)
    durations = only().durations
    assert durations.total == pytest.approx(3603.0)
    assert durations.p50 == pytest.approx(2.0, rel=0.01)
    assert durations.max == pytest.approx(3600.0, rel=0.01)


def test_a_call_is_never_timed_by_two_clocks() -> None:
    """Begun on a simulated loop and closed after it: there is no telling how long that was."""

    @timed("nap")
    async def nap() -> None:
        await asyncio.sleep(10)

    coroutine = nap()

    async def main() -> None:
        coroutine.send(None)

    run_virtual(main)
    coroutine.close()
    stats = only()
    assert (stats.running, stats.calls, stats.cancelled, stats.durations.count) == (0, 1, 1, 0)


def test_quantiles_are_within_one_percent() -> None:
    rng = random.Random(6)
    times = sorted(10 ** rng.uniform(-5.5, 3) for _ in range(3_000))
    durations = _Durations()
    for time in rng.sample(times, len(times)):
        durations.record(time)
    for share in (0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0):
        exact = times[max(0, -(-round(share * len(times) * 1000) // 1000) - 1)]
        assert durations.quantile(share) == pytest.approx(exact, rel=0.02)
    assert durations.total == pytest.approx(sum(times))
    bounds = [0.001, 0.1, 10.0, 2_000.0]
    assert durations.within(bounds) == pytest.approx([sum(t <= bound for t in times) for bound in bounds], abs=30)


def test_a_period_is_what_came_since() -> None:
    durations = _Durations()
    for _ in range(100):
        durations.record(10.0)
    then = durations.copy()
    for _ in range(50):
        durations.record(0.1)
    new = durations.since(then)
    assert (new.count, new.total) == (50, pytest.approx(5.0))
    assert new.quantile(0.99) == pytest.approx(0.1, rel=0.01)
    assert new.max == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize("time", [-1.0, 0.0, 1e-12, 1e9, float("inf")])
def test_any_time_can_be_recorded(time: float) -> None:
    durations = _Durations()
    durations.record(time)
    assert durations.count == 1
    assert 0 <= durations.max <= 86_400 * 1.01


# ---------------------------------------------------------------------------------------------- what can be timed


def test_a_timed_function_is_what_it_was() -> None:
    @timed
    async def fetch(url: str, *, retries: int = 3) -> str:
        """Fetches."""
        return url * retries

    @timed("parse")
    def parse(text: str) -> int:
        return len(text)

    assert inspect.iscoroutinefunction(fetch)
    assert not inspect.iscoroutinefunction(parse)
    assert (fetch.__name__, fetch.__doc__, list(inspect.signature(fetch).parameters)) == (
        "fetch",
        "Fetches.",
        ["url", "retries"],
    )
    assert asyncio.run(fetch("a", retries=2)) == "aa"
    assert parse("abc") == 3
    assert set(operations()) == {f"{__name__}.test_a_timed_function_is_what_it_was.<locals>.fetch", "parse"}


def test_methods_and_blocks_are_timed() -> None:
    class Service:
        @timed("call")
        async def call(self, n: int) -> int:
            return n

        @staticmethod
        @timed("static")
        def static(n: int) -> int:
            return n

    async def main() -> None:
        assert await Service().call(1) == 1
        assert Service.static(2) == 2
        with timed("block"):
            await asyncio.sleep(0)
        with pytest.raises(ZeroDivisionError), timed("block"):
            1 / 0  # noqa: B018

    asyncio.run(main())
    assert {name: stats.calls for name, stats in operations().items()} == {"block": 2, "call": 1, "static": 1}
    assert operations()["block"].failed == 1


def test_frames_of_the_user_are_in_the_traceback() -> None:
    @timed
    async def outer() -> None:
        await inner()

    @timed
    async def inner() -> None:
        raise ValueError("here")

    try:
        asyncio.run(outer())
    except ValueError as error:
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert names[-4:] == ["timed_call", "outer", "timed_call", "inner"]


def test_what_cannot_be_timed_is_refused_with_the_cure() -> None:
    async def generator() -> Any:
        yield 1

    with pytest.raises(TypeError, match="put `with timed"):
        timed(generator)
    for wrong in (5, int, asyncio.Queue):
        with pytest.raises(TypeError, match="a function or the name"):
            timed(wrong)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="only under a name"), timed():
        pass
    with pytest.raises(ValueError, match="threshold"):
        timed("x", threshold=-1)
    block = timed("x")
    with block, pytest.raises(RuntimeError, match="make one for each block"), block:
        pass
    with block:
        pass
    assert operations()["x"].calls == 2


def test_names_cannot_fill_the_memory(caplog: pytest.LogCaptureFixture) -> None:
    for n in range(1_100):
        with timed(f"user {n}"):
            pass
    names = operations()
    assert len(names) == 1_001
    assert names["(other)"].calls == 100
    [record] = caplog.records
    assert "name operations, not their arguments" in record.message


def test_equal_names_share_one_histogram_and_threads_may_share_it_too() -> None:
    def work() -> None:
        for _ in range(500):
            with timed("work"):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = only()
    assert (stats.calls, stats.running, stats.durations.count) == (2_000, 0, 2_000)


def test_nothing_is_kept_alive() -> None:
    """Not by the books of those that run: a task that is lost is collected, and counted as cancelled."""

    class Thing:
        pass

    @timed("lost")
    async def wait(thing: Thing) -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: None)
        with monitor(threshold=60):  # a line about it, because the collection was slow, would keep it alive
            thing = Thing()
            alive = weakref.ref(thing)
            task = asyncio.ensure_future(wait(thing))
            await asyncio.sleep(0)
            del thing, task
            gc.collect()
            assert alive() is None

    asyncio.run(main())
    assert (only().running, only().cancelled) == (0, 1)


# ----------------------------------------------------------------------------- what is slow is told while it is slow


def test_a_slow_call_is_told_while_it_runs_and_once_more_when_it_has_ended() -> None:
    told: list[tuple[float, SlowCall]] = []

    @timed("fetch")
    async def fetch(seconds: float) -> None:
        await connect(seconds)

    async def connect(seconds: float) -> None:
        await asyncio.sleep(seconds)  # here

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with monitor(0.5, lambda call: told.append((loop.time(), call)), summary=None) as watching:
            await fetch(0.3)
            start = loop.time()
            await fetch(10.0)
            [(at, running), (then, ended)] = told
            assert 0.5 <= at - start <= 0.551
            assert then - start == pytest.approx(10.0)
            assert (running.operation, running.running, running.threshold) == ("fetch", True, 0.5)
            assert running.seconds == pytest.approx(at - start)
            assert [where.partition(" ")[0].rpartition(".")[2] for where in running.waiting_at] == ["fetch", "connect"]
            assert "test_monitoring.py:" in running.waiting_at[-1]
            assert (ended.running, ended.error, ended.seconds) == (False, None, pytest.approx(10.0))
            assert watching.stats().slow == 1
            assert operations()["fetch"].slow == 1

    run_virtual(main)


def test_a_call_that_hangs_is_told() -> None:
    told: list[SlowCall] = []

    @timed("hang")
    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        with monitor(1.0, told.append, summary=None):
            task = asyncio.ensure_future(hang())
            await asyncio.sleep(60)
            assert [call.running for call in told] == [True]
            assert str(told[0]).startswith("hang runs for 1")
            task.cancel()
            await asyncio.wait([task])
            assert isinstance(told[1].error, asyncio.CancelledError)
            assert str(told[1]) == "hang took 60 s and ended with CancelledError"
        assert (only().running, only().slow, only().cancelled) == (0, 1, 1)

    run_virtual(main)


def test_who_ends_in_the_middle_hides_nobody() -> None:
    told: list[str] = []

    @timed("fetch")
    async def fetch(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def main() -> None:
        with monitor(1.0, lambda call: told.append("runs" if call.running else "ended"), summary=None):
            await asyncio.gather(*(fetch(seconds) for seconds in (5.0, 0.5, 5.0, 0.6, 0.7, 5.0)))

    run_virtual(main)
    assert told == ["runs"] * 3 + ["ended"] * 3
    assert (only().calls, only().slow) == (6, 3)


def test_the_threshold_of_an_operation_counts_more_than_the_monitors() -> None:
    told: list[str] = []

    @timed("patient", threshold=5.0)
    async def patient(seconds: float) -> None:
        await asyncio.sleep(seconds)

    @timed("strict", threshold=0.01)
    async def strict(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def main() -> None:
        with monitor(1.0, lambda call: told.append(f"{call.operation} {call.threshold}"), summary=None):
            await patient(4.0)
            await strict(0.02)
        await strict(0.02)  # nobody is told; it is counted
        assert told == ["strict 0.01"]
        assert operations()["strict"].slow == 2
        assert operations()["patient"].slow == 0

    run_virtual(main)


def test_who_is_told_has_the_context_of_the_call() -> None:
    request = contextvars.ContextVar("request", default="none")
    told: list[str] = []

    @timed("fetch")
    async def fetch() -> None:
        await asyncio.sleep(1)

    async def handler(name: str) -> None:
        request.set(name)
        await fetch()

    async def main() -> None:
        with monitor(0.99, lambda call: None if call.running else told.append(request.get()), summary=None):
            await asyncio.gather(handler("a"), handler("b"))
        assert sorted(told) == ["a", "b"]

    run_virtual(main)


def test_an_error_of_on_slow_never_reaches_the_call() -> None:
    reports: list[dict[str, Any]] = []

    def fail(call: SlowCall) -> None:
        raise RuntimeError("on_slow")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        with monitor(1.0, fail, summary=None):
            async with timeout(100):
                with timed("slow"):
                    await asyncio.sleep(2)
            done = threading.Thread(target=in_thread)
            done.start()
            done.join()
            await asyncio.sleep(0.1)
        assert [str(report["exception"]) for report in reports] == ["on_slow"] * 3

    @timed("thread", threshold=0)
    def in_thread() -> None:
        pass

    run_virtual(main)


def test_the_log_is_not_flooded_and_nothing_left_out_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    @timed("slow", threshold=0.0)
    async def slow() -> None:
        await asyncio.sleep(0.01)

    async def main() -> None:
        with monitor(summary=None):
            for _ in range(250):
                await slow()

    run_virtual(main)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert 3 <= len(lines) <= 4
    left_out = sum(int(found[1]) for line in lines if (found := re.search(r"\((\d+) more", line)))
    assert {record.name for record in caplog.records} == {"loopwright.monitor"}
    assert len(lines) + left_out > 200
    record = caplog.records[0]
    assert (record.__dict__["operation"], record.__dict__["threshold"]) == ("slow", 0.0)


def test_lag_is_how_late_the_loop_was() -> None:
    """On a clock that stands still but for a callback that blocks for a second."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)

        def block() -> None:
            loop._virtual_now += 1.0

        with monitor(summary=None) as watching:
            for n in range(20):
                for _ in range(5):
                    await asyncio.sleep(0)
                if n == 10:
                    block()
                else:
                    loop.advance()
            lag = watching.stats().lag
        assert lag.max == pytest.approx(0.95, rel=0.1)
        assert lag.p50 == pytest.approx(0.0, abs=1e-6)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def test_the_summary_is_one_line_about_its_period(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "loopwright.monitor")

    @timed("fetch")
    async def fetch(seconds: float) -> None:
        await asyncio.sleep(seconds)
        if seconds == 3.0:
            raise ValueError

    async def main() -> None:
        await fetch(30.0)  # before its time
        with monitor(100.0, summary=10.0) as watching:
            await fetch(2.0)
            await fetch(2.0)
            with contextlib.suppress(ValueError):
                await fetch(3.0)
            await asyncio.sleep(4)
            task = asyncio.ensure_future(fetch(5.0))
            await asyncio.sleep(9.5)
            assert watching.stats().summaries == 2
            await task

    run_virtual(main)
    first, second = (record.getMessage() for record in caplog.records)
    pattern = r"last 10 s: lag p50 0 us p99 0 us max 0 us, rss [\d.]+ MiB, fds \d+, threads \d+; "
    assert re.fullmatch(pattern + r"fetch: 3 calls, 1 failed p50 2(\.0\d)? s p99 3(\.0\d)? s max 3(\.0\d)? s", first)
    assert re.fullmatch(pattern + r"fetch: 1 calls p50 5(\.0\d)? s p99 5(\.0\d)? s max 5(\.0\d)? s", second)


def test_the_process_is_seen_as_it_is() -> None:
    async def main() -> None:
        with monitor(summary=None) as watching, contextlib.ExitStack() as files:
            before = watching.stats()
            for _ in range(200):
                files.callback(os.close, os.open(os.devnull, os.O_RDONLY))
            release = threading.Event()
            threads = [threading.Thread(target=release.wait) for _ in range(20)]
            for thread in threads:
                thread.start()
            after = watching.stats()
            release.set()
            for thread in threads:
                thread.join()
            # Others of the process may come and go meanwhile.
            assert before.open_files is not None
            assert after.open_files is not None
            assert 100 <= after.open_files - before.open_files <= 300
            assert 10 <= after.threads - before.threads <= 30
            assert after.resident_memory is not None
            assert after.resident_memory > 1_000_000

    asyncio.run(main())


def test_a_monitor_ends_with_its_block_or_its_loop() -> None:
    async def left_open() -> None:
        monitor(summary=None)
        with pytest.raises(RuntimeError, match="close it first"):
            monitor()
        await asyncio.sleep(0.2)

    run_virtual(left_open)

    async def main() -> None:
        with monitor(summary=None) as watching:  # and the one whose loop is closed is gone
            assert monitoring._monitors == [watching]
        watching.close()
        assert "closed" in repr(watching)

    run_virtual(main)
    with pytest.raises(RuntimeError, match="call it in your main coroutine"):
        monitor()


def test_arguments_of_monitor_are_checked() -> None:
    async def main() -> None:
        async def asynchronous(call: SlowCall) -> None: ...

        for arguments in ({"threshold": 0}, {"threshold": -1}, {"summary": 0}):
            with pytest.raises(ValueError, match="more than 0"):
                monitor(**arguments)  # type: ignore[arg-type]
        for wrong in ({"threshold": "1"}, {"on_slow": asynchronous}, {"on_slow": 5}):
            with pytest.raises(TypeError):
                monitor(**wrong)  # type: ignore[arg-type]

    run_virtual(main)


def test_stats_are_frozen() -> None:
    with timed("x"):
        pass
    stats = only()
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.calls = 5  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.durations.count = 5  # type: ignore[misc]
