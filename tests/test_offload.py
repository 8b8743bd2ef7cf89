"""offload: work in threads and executors, its limit, and what a cancel means (processes: test_offload_processes)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import json
import logging
import math
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.loops import Cell, run

import loopwright
from loopwright import (
    CallCancelled,
    OffloadStats,
    OffloadTimeout,
    Semaphore,
    _trace,
    amap,
    offload,
    offloaded,
    offloading,
)
from loopwright.testing import leak_checks

ENOUGH = 20.0
"""Seconds that no wait of these tests takes."""


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    """Each test begins and ends without work, at the limits that there are by default."""
    until(lambda: busy() == 0)
    offloading._told.clear()
    yield
    offload.limits(offloading._LIMIT)
    until(lambda: busy() == 0)


def busy() -> int:
    stats = offload.stats()
    return stats.running + stats.abandoned + stats.waiting


def until(condition: Callable[[], bool]) -> None:
    bell = threading.Event()
    for _ in range(int(ENOUGH * 1000)):
        if condition():
            return
        bell.wait(0.001)
    raise AssertionError(f"{offload.stats()} after {ENOUGH} s")


async def turns_until(condition: Callable[[], bool]) -> None:
    for _ in range(int(ENOUGH * 1000)):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError(f"{offload.stats()} after {ENOUGH} s")


class Gate:
    """Work that says when it has begun, and ends when it is let."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()
        self.saw_cancel = False

    def __call__(self, result: Any = None) -> Any:
        self.begun.set()
        assert self.open.wait(ENOUGH)
        self.saw_cancel = offload.cancelled()
        if isinstance(result, BaseException):
            raise result
        return result


async def begun(gate: Gate, **options: Any) -> asyncio.Task[Any]:
    task = asyncio.create_task(offload(gate, **options))
    await turns_until(gate.begun.is_set)
    return task


def test_the_result_and_the_arguments(cell: Cell) -> None:
    async def main() -> None:
        assert await offload(divmod, 7, 2) == (3, 1)
        assert await offload(int, "ff", base=16) == 255
        assert await offload(threading.get_ident) != threading.get_ident()
        assert await asyncio.gather(*(offload(abs, -i) for i in range(200))) == list(range(200))

    run(main, cell)


def test_an_error_is_raised_as_itself_with_the_frames_of_the_thread(cell: Cell) -> None:
    def inner() -> None:
        raise LookupError("here")

    async def main() -> None:
        with pytest.raises(LookupError, match="here") as caught:
            await offload(inner)
        assert [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)][-1] == "inner"
        with pytest.raises(SystemExit):
            await offload(sys.exit, 3)

    run(main, cell)


def test_what_an_await_cannot_raise_comes_as_another_error() -> None:
    def stop() -> None:
        raise StopIteration(1)

    def cancel() -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration") as caught:
            await offload(stop)
        assert isinstance(caught.value.__cause__, StopIteration)
        with pytest.raises(CallCancelled):
            await offload(cancel)

    run(main)


def test_context_variables_are_carried_in_and_not_out(cell: Cell) -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")

    def work() -> str:
        before = user.get()
        user.set("changed")
        return before

    async def main() -> None:
        user.set("me")
        assert await offload(work) == "me"
        assert user.get() == "me"
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            assert await offload(work, on=executor) == "me"

    run(main, cell)


def test_nothing_happens_before_it_is_awaited() -> None:
    async def main() -> None:
        called = threading.Event()
        operation = offload(called.set)
        await asyncio.sleep(0)
        assert not called.is_set()
        with pytest.warns(RuntimeWarning, match="'offload' was never awaited"):
            del operation
            gc.collect()

    run(main)


def test_a_thread_that_is_cancelled_is_abandoned_and_keeps_its_permit_until_it_ends(
    cell: Cell, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        offload.limits(1)
        gate, before = Gate(), offload.stats()
        task = await begun(gate)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (offload.stats().running, offload.stats().abandoned) == (0, 1)
        following = asyncio.create_task(offload(len, "four"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert offload.stats().waiting == 1  # The permit is not free.
        gate.open.set()
        assert await following == 4
        assert gate.saw_cancel
        stats = offload.stats()
        assert (stats.abandoned, stats.abandonments - before.abandonments) == (0, 1)

    offloading._told.clear()
    with caplog.at_level(logging.WARNING, "loopwright.offload"):
        run(main, cell)
    assert "was abandoned" in caplog.text
    assert "Gate" in caplog.text


def test_work_in_line_that_is_cancelled_never_begins(cell: Cell) -> None:
    async def main() -> None:
        offload.limits(1)
        gate, called, before = Gate(), threading.Event(), offload.stats()
        task = await begun(gate)
        waiting = asyncio.create_task(offload(called.set))
        await turns_until(lambda: offload.stats().waiting == 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.open.set()
        await task
        assert await offload(abs, -1) == 1
        assert not called.is_set()
        assert offload.stats().withdrawn - before.withdrawn == 1

    run(main, cell)


def test_the_limit_holds_and_permits_go_in_order(cell: Cell) -> None:
    alive, most, order, lock = 0, 0, list[int](), threading.Lock()

    def work(i: int) -> None:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
            order.append(i)
        os.sched_yield()
        with lock:
            alive -= 1

    async def main() -> None:
        offload.limits(1)
        await asyncio.gather(*(offload(work, i) for i in range(50)))
        assert order == list(range(50))
        offload.limits(3)
        await asyncio.gather(*(offload(work, i) for i in range(200)))

    run(main, cell)
    assert most <= 3


def test_a_raised_limit_lets_the_next_begin_at_once() -> None:
    async def main() -> None:
        offload.limits(1)
        first, second = Gate(), Gate()
        tasks = [await begun(first), asyncio.create_task(offload(second))]
        await turns_until(lambda: offload.stats().waiting == 1)
        offload.limits(2)
        await turns_until(second.begun.is_set)
        first.open.set()
        second.open.set()
        await asyncio.gather(*tasks)

    run(main)


@pytest.mark.parametrize("value", [0, -1, True, 1.5])
def test_a_limit_is_a_number_of_calls(value: Any) -> None:
    with pytest.raises(ValueError, match=r"offload.limits\(total=...\) must be 1 or more"):
        offload.limits(value)


def test_a_cancel_that_meets_the_result_is_not_swallowed(cell: Cell) -> None:
    async def main() -> None:
        for _ in range(20):
            gate = Gate()
            task = await begun(gate)
            gate.open.set()
            until(lambda: busy() == 0)  # The loop stands still: the result is there, the task has not run.
            assert task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main, cell)


def test_random_cancels_lose_no_permit(cell: Cell) -> None:
    """Cancels before the line, in it, just after the grant, in the queue, in the work and after it."""

    async def main() -> None:
        offload.limits(2)
        for round_ in range(60):
            tasks = [asyncio.create_task(offload(os.sched_yield)) for _ in range(12)]
            for i, task in enumerate(tasks):
                if (i + round_) % 3 == 0:
                    task.cancel()
                if (i + round_) % 4 == 0:
                    await asyncio.sleep(0)
            await asyncio.gather(*tasks, return_exceptions=True)
        await turns_until(lambda: busy() == 0)
        assert await asyncio.gather(*(offload(abs, -i) for i in range(10))) == list(range(10))

    run(main, cell)


def test_a_timeout_tells_the_caller_at_once_and_abandons_the_work(cell: Cell) -> None:
    async def main() -> None:
        gate, before = Gate(), offload.stats()
        with pytest.raises(OffloadTimeout, match=r"offload\(.*Gate.*\) had not ended within timeout=0.05 s"):
            await offload(gate, timeout=0.05)
        assert offload.stats().timeouts - before.timeouts == 1
        gate.open.set()
        await turns_until(lambda: busy() == 0)
        with pytest.raises(TimeoutError, match="its own"):
            await offload(Gate.__call__, opened(), TimeoutError("its own"), timeout=ENOUGH)

    run(main, cell)


def opened() -> Gate:
    gate = Gate()
    gate.open.set()
    return gate


def test_an_error_of_abandoned_work_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        gate = Gate()
        task = asyncio.create_task(offload(gate, ValueError("late")))
        await turns_until(gate.begun.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open.set()
        await turns_until(lambda: busy() == 0)

    run(main)
    assert "failed after its caller had gone" in caplog.text
    assert "late" in caplog.text


def test_a_limiter_is_held_until_the_work_ends_not_until_the_caller_goes(cell: Cell) -> None:
    async def main() -> None:
        fragile, gate = Semaphore(1), Gate()
        task = await begun(gate, limit=fragile)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(20):
            await asyncio.sleep(0)
        assert fragile.locked()
        gate.open.set()
        assert await offload(abs, -3, limit=fragile) == 3
        await turns_until(lambda: fragile.value == 1)

    run(main, cell)


def test_a_number_is_no_limiter() -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="make it once, outside"):
            await offload(abs, -1, limit=3)  # type: ignore[arg-type]

    run(main)


def test_offloaded_functions_are_awaited_and_keep_their_name(cell: Cell) -> None:
    @offloaded
    def plain(a: int, *, b: int) -> int:
        """Its words."""
        return a + b

    alive, most, lock = 0, 0, threading.Lock()

    @offloaded(limit=2, timeout=ENOUGH)
    def bounded() -> None:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        os.sched_yield()
        with lock:
            alive -= 1

    async def main() -> None:
        assert await plain(1, b=2) == 3
        assert (plain.__name__, plain.__doc__) == ("plain", "Its words.")
        assert plain.__wrapped__(1, b=1) == 2  # type: ignore[attr-defined]
        await asyncio.gather(*(bounded() for _ in range(50)))
        assert most <= 2

    run(main, cell)


def test_an_async_function_is_refused() -> None:
    async def coroutine() -> None: ...

    async def main() -> None:
        with pytest.raises(TypeError, match="await it instead"):
            await offload(coroutine)

    run(main)
    with pytest.raises(TypeError, match="plain function"):
        offloaded(coroutine)


@pytest.mark.parametrize("on", ["Thread", None, 3])
def test_a_place_that_there_is_not(on: Any) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="must be 'thread', 'process', 'interpreter' or"):
            await offload(abs, -1, on=on)

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="subinterpreters came with CPython 3.14")
def test_interpreters_give_results_errors_and_keep_their_permit_when_abandoned() -> None:
    async def until(done: Callable[[OffloadStats], bool]) -> None:
        while not done(offload.stats()):  # noqa: ASYNC110 (another thread does it)
            await asyncio.sleep(0.01)

    async def main() -> None:
        answers = await asyncio.gather(*[offload(math.factorial, n, on="interpreter") for n in range(6)])
        assert answers == [1, 1, 2, 6, 24, 120]
        with pytest.raises(json.JSONDecodeError) as caught:
            await offload(json.loads, "{", on="interpreter")
        assert "raw_decode" in str(caught.value.__cause__)
        with pytest.raises(ValueError, match="put it into a module of its own"):
            await offload(_of_the_main_module, on="interpreter")
        sleeper = asyncio.create_task(offload(time.sleep, 0.5, on="interpreter"))
        await until(lambda stats: stats.running == 1)
        sleeper.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeper
        assert offload.stats().abandoned == 1
        await until(lambda stats: stats.abandoned == 0)

    asyncio.run(main())


def _of_the_main_module() -> None:
    raise AssertionError("it is never called")


_of_the_main_module.__module__ = "__main__"


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="has interpreters")
def test_interpreters_are_refused_in_words_where_there_are_none() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"needs CPython 3\.14 or later"):
            await offload(abs, -1, on="interpreter")

    run(main)


# Executors


def test_an_executor_runs_the_call_and_its_future_is_cancelled(cell: Cell) -> None:
    async def main() -> None:
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            assert await offload(divmod, 7, 2, on=executor) == (3, 1)
            with pytest.raises(ZeroDivisionError):
                await offload(divmod, 7, 0, on=executor)
            gate, called, before = Gate(), threading.Event(), offload.stats()
            first = await begun(gate, on=executor)
            queued = asyncio.create_task(offload(called.set, on=executor))
            await turns_until(lambda: offload.stats().running == 2)
            queued.cancel()
            first.cancel()
            assert [type(e) for e in await asyncio.gather(first, queued, return_exceptions=True)] == [
                asyncio.CancelledError
            ] * 2
            # The future that had not begun is cancelled, and its permit free; the one that runs keeps its own.
            assert offload.stats().abandoned == 1
            gate.open.set()
            await turns_until(lambda: busy() == 0)
            assert gate.saw_cancel
            assert not called.is_set()
            assert offload.stats().abandonments - before.abandonments == 2

    run(main, cell)


def test_an_executor_that_is_shut_down_says_so_and_keeps_no_permit() -> None:
    async def main() -> None:
        executor = concurrent.futures.ThreadPoolExecutor(1)
        executor.shutdown()
        with pytest.raises(RuntimeError, match="shutdown"):
            await offload(abs, -1, on=executor)
        assert busy() == 0

    run(main)


# Loops, threads, memory, the end


def test_every_thread_can_have_a_loop_that_offloads() -> None:
    answers: list[Any] = []

    def other() -> None:
        answers.append(asyncio.run(gathered()))

    async def gathered() -> list[int]:
        return await asyncio.gather(*(offload(abs, -i) for i in range(100)))

    offload.limits(2)
    threads = [threading.Thread(target=other) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(ENOUGH)
    assert answers == [list(range(100))] * 3


def test_a_loop_that_is_closed_meanwhile_costs_no_permit() -> None:
    gate = Gate()

    async def main() -> None:
        await begun(gate)  # asyncio.run cancels it.

    asyncio.run(main())
    assert offload.stats().abandoned == 1
    gate.open.set()
    until(lambda: busy() == 0)


def test_many_calls_leave_no_memory_behind() -> None:
    async def main() -> None:
        async def one(i: int) -> int:
            return await offload(abs, -i)

        await amap(one, range(1000), limit=50)
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(4):
            await amap(one, range(1000), limit=50)
        gc.collect()
        assert sys.getallocatedblocks() - before < 3000
        assert offload.stats().threads <= 40

    run(main)


def test_arguments_and_results_do_not_outlive_their_call() -> None:
    class Thing:
        alive = 0

        def __init__(self) -> None:
            Thing.alive += 1

        def __del__(self) -> None:
            Thing.alive -= 1

    def fail(_: Thing) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        await offload(lambda _: Thing(), Thing())
        with pytest.raises(ZeroDivisionError):
            await offload(fail, Thing())

    run(main)
    until(lambda: gc.collect() >= 0 and Thing.alive == 0)


def test_the_leak_checks_know_its_threads() -> None:
    async def main() -> None:
        with leak_checks():
            offload.limits(30)
            await asyncio.gather(*(offload(os.sched_yield) for _ in range(30)))

    run(main)


@pytest.mark.loopwright
async def test_virtual_time_does_not_pass_while_a_thread_works() -> None:
    loop = asyncio.get_running_loop()
    before = loop.time()
    async with asyncio.timeout(3600):
        assert await offload(sum, range(1000)) == 499500
    assert loop.time() - before < 3600
    await asyncio.sleep(3600)  # Idle threads do not hold it.


def test_it_is_a_span_where_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    spans: list[Any] = []

    class Span:
        def __init__(self, name: str, attributes: dict[str, object]) -> None:
            spans.append((name, attributes))

        def __enter__(self) -> None: ...

        def __exit__(self, *error: object) -> None: ...

    monkeypatch.setattr(_trace, "hook", Span)

    async def main() -> None:
        assert await offload(abs, -1) == 1

    run(main)
    assert spans == [("loopwright.offload", {"loopwright.name": "abs", "loopwright.offload.on": "thread"})]


def test_state_is_told() -> None:
    assert repr(offload).startswith("<loopwright.offload: 0 running, 0 abandoned, 0 waiting, limit ")
    assert isinstance(offload.stats(), loopwright.OffloadStats)
    assert offload.cancelled() is False


def in_a_program(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=ENOUGH, check=False
    )  # fmt: skip


@pytest.mark.default_only
def test_the_end_of_the_program_does_not_wait_for_abandoned_work() -> None:
    program = """
import asyncio, threading
from loopwright import offload
begun = threading.Event()
def forever():
    begun.set()
    threading.Event().wait()
async def main():
    await offload(abs, -1)
    task = asyncio.create_task(offload(forever))
    while not begun.is_set(): await asyncio.sleep(0.001)
asyncio.run(main())
"""
    ended = in_a_program(program)
    assert ended.returncode == 0, ended.stderr
    assert "the process ends while 1 call(s) still run: forever" in ended.stderr


@pytest.mark.default_only
def test_a_forked_child_has_threads_of_its_own() -> None:
    program = """
import asyncio, os, warnings
from loopwright import offload
warnings.simplefilter("ignore")
async def main(): return await asyncio.gather(*(offload(abs, -i) for i in range(20)))
assert asyncio.run(main()) == list(range(20))
pid = os.fork()
if pid == 0:
    assert offload.stats().threads == 0
    assert asyncio.run(main()) == list(range(20))
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    ended = in_a_program(program)
    assert ended.stdout.strip() == "7", ended.stderr
