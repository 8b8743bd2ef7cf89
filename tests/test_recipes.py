"""DESIGN section 6: recipes of the guides, as printed, failing; and beside each the same with our objects, passing.

The guides' code is shortened to what matters and otherwise theirs, mistakes included.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
from support.loops import CELLS, Cell, parameters, run

from loopwright import CancelToken, Queue, QueueShutDown, Semaphore, TaskGroup, amap, finish, run_process, timeout

A_WHILE = 0.1
"""Seconds after which what has not ended hangs."""


async def turns(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def hangs(work: Coroutine[Any, Any, Any]) -> bool:
    """Whether it does; whatever it started is cleaned up."""
    before = asyncio.all_tasks()
    task = asyncio.ensure_future(work)
    _, pending = await asyncio.wait([task], timeout=A_WHILE)
    left = asyncio.all_tasks() - before
    for other in left:
        other.cancel()
    if left:
        await asyncio.wait(left)
    return bool(pending)


# ------------------------------------------------------------------------------------------- sleeps that can be ended


class CancellableSleeps:
    """Guide A, section 3."""

    def __init__(self) -> None:
        self._sleeps: set[asyncio.Task[Any]] = set()

    async def sleep(self, delay: float, result: Any = None) -> Any:
        task = asyncio.ensure_future(asyncio.sleep(delay, result=result))
        self._sleeps.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            return result
        finally:
            self._sleeps.remove(task)

    def cancel_all(self) -> None:
        for task in self._sleeps:
            task.cancel()


Sleep = Callable[[float], Awaitable[Any]]


async def sleeper_is_cancelled(sleep: Sleep) -> bool:
    async def body() -> None:
        await sleep(60)

    task = asyncio.create_task(body())
    await turns()
    task.cancel()
    await asyncio.wait([task])
    return task.cancelled()


async def sleeper_times_out_at_the_sleep(sleep: Sleep) -> bool:
    went_on = False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.001):
            await sleep(60)
            went_on = True
    return not went_on


@pytest.mark.parametrize("scenario", [sleeper_is_cancelled, sleeper_times_out_at_the_sleep])
def test_cancellable_sleeps(cell: Cell, scenario: Callable[[Sleep], Awaitable[bool]]) -> None:
    async def main() -> None:
        assert not await scenario(CancellableSleeps().sleep), "the guide's works after all"
        assert await scenario(CancelToken().sleep)
        token = CancelToken()
        sleeping = asyncio.create_task(token.sleep(60))
        await turns()
        token.cancel("shutdown")
        assert await sleeping is True

    run(main, cell)


# ------------------------------------------------------------------------------------------------- bounded concurrency


class ConcurrentTasks:
    """Guide A, section 3."""

    def __init__(self, max_concurrency: int = 5) -> None:
        self.max_concurrency = max_concurrency
        self.tasks: list[asyncio.Task[Any]] = []
        self._task_over = asyncio.Event()

    async def put(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        if len(self.tasks) >= self.max_concurrency:
            await self._task_over.wait()
            self._task_over.clear()
        task = asyncio.create_task(coroutine)
        self.tasks.append(task)
        task.add_done_callback(lambda _: self._task_over.set())
        return task

    async def join(self) -> None:
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Gauge:
    """Jobs that run: now, at most, and at the start of each."""

    def __init__(self) -> None:
        self.running = self.peak = 0
        self.samples: list[int] = []

    async def job(self) -> None:
        self.running += 1
        self.peak = max(self.peak, self.running)
        self.samples.append(self.running)
        await turns(10)
        self.running -= 1


@pytest.mark.parametrize("cell", parameters([cell for cell in CELLS if not cell.debug]))
def test_concurrent_tasks_with_many_producers(cell: Cell) -> None:
    async def main() -> None:
        theirs, tasks = Gauge(), ConcurrentTasks(5)

        async def producer() -> None:
            for _ in range(50):
                await tasks.put(theirs.job())

        await asyncio.gather(*[producer() for _ in range(20)])
        await tasks.join()
        assert theirs.peak == 20
        assert len(tasks.tasks) == 1000, "and every finished one is kept"

        ours = Gauge()
        async with TaskGroup(limit=5) as group:

            async def produce() -> None:
                for _ in range(50):
                    await group.spawn(ours.job)
                    assert group.alive <= 5

            await asyncio.gather(*[produce() for _ in range(20)])
        assert ours.peak == 5

    run(main, cell)


def test_concurrent_tasks_keep_their_concurrency(cell: Cell) -> None:
    async def main() -> None:
        theirs, tasks = Gauge(), ConcurrentTasks(10)
        for _ in range(200):
            await tasks.put(theirs.job())
        await tasks.join()
        assert max(theirs.samples[100:]) <= 2, "about one at a time"

        ours = Gauge()
        async with TaskGroup(limit=10) as group:
            for _ in range(200):
                await group.spawn(ours.job)
        assert max(ours.samples[100:]) == 10

    run(main, cell)


def test_a_permit_per_host_is_held_until_the_end_of_the_use(cell: Cell) -> None:
    """Guide A, section 8: the permit was freed at return, not at the end of the use."""

    async def peak(connection: Callable[[str], Any]) -> int:
        opened: Counter[str] = Counter()
        most = 0

        async def user() -> None:
            nonlocal most
            async with connection("host"):
                opened["host"] += 1
                most = max(most, opened["host"])
                await turns()
                opened["host"] -= 1

        await asyncio.gather(*[user() for _ in range(30)])
        return most

    async def main() -> None:
        limits: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(2))
        permits: defaultdict[str, Semaphore] = defaultdict(lambda: Semaphore(2))

        async def get_connection(host: str) -> object:
            async with limits[host]:
                return object()

        @contextlib.asynccontextmanager
        async def theirs(host: str) -> AsyncIterator[object]:
            yield await get_connection(host)

        @contextlib.asynccontextmanager
        async def ours(host: str) -> AsyncIterator[object]:
            async with permits[host]:
                yield object()

        assert await peak(theirs) == 30
        assert await peak(ours) == 2

    run(main, cell)


# ---------------------------------------------------------------------------------------------- producers and consumers


def test_one_sentinel_and_three_consumers(cell: Cell) -> None:
    """Guide A, section 2."""

    async def producer(queue: asyncio.Queue[Any], count: int) -> None:
        for i in range(count):
            await queue.put(f"item-{i}")
        await queue.put(None)

    async def consumer(queue: asyncio.Queue[Any]) -> None:
        while True:
            item = await queue.get()
            if item is None:
                queue.task_done()
                break
            await asyncio.sleep(0)
            queue.task_done()

    async def theirs() -> None:
        queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=10)
        async with asyncio.TaskGroup() as group:
            group.create_task(producer(queue, 100))
            for _ in range(3):
                group.create_task(consumer(queue))

    processed: list[int] = []

    async def ours() -> None:
        queue: Queue[int] = Queue(maxsize=10)

        async def produce() -> None:
            for i in range(100):
                await queue.put(i)
            queue.shutdown()

        async def consume() -> None:
            async for item in queue:
                await asyncio.sleep(0)
                processed.append(item)
                queue.task_done()

        async with TaskGroup() as group:
            group.create_task(produce())
            for _ in range(3):
                group.create_task(consume())

    async def main() -> None:
        assert await hangs(theirs())
        assert not await hangs(ours())
        assert sorted(processed) == list(range(100))

    run(main, cell)


def test_a_cancelled_consumer_ends_cancelled(cell: Cell) -> None:
    """Guide C, section 5: ``finally: task_done()`` for an item that never came."""

    async def theirs(queue: asyncio.Queue[Any]) -> None:
        while True:
            try:
                item = await queue.get()
                if item is None:
                    break
            finally:
                queue.task_done()

    async def ours(queue: Queue[Any]) -> None:
        async for _ in queue:
            queue.task_done()

    async def outcome(work: Coroutine[Any, Any, Any]) -> BaseException | None:
        task = asyncio.create_task(work)
        await turns()
        task.cancel()
        return (await asyncio.gather(task, return_exceptions=True))[0]

    async def main() -> None:
        assert type(await outcome(theirs(asyncio.Queue()))) is ValueError
        assert type(await outcome(ours(Queue()))) is asyncio.CancelledError
        queue: Queue[int] = Queue()
        queue.shutdown()
        with pytest.raises(QueueShutDown):
            await queue.get()

    run(main, cell)


# --------------------------------------------------------------------------------------------- what must be finished


def test_a_commit_is_finished_whatever_cancels_come(cell: Cell) -> None:
    """Guide C, section 7: a second cancel ends the task in the middle of the commit."""

    async def scenario(critical: Callable[[Callable[[], Coroutine[Any, Any, None]]], Any]) -> str:
        log: list[str] = []

        async def commit() -> None:
            log.append("begin")
            await turns(10)
            log.append("committed")

        async def operation() -> None:
            try:
                await critical(commit)
            finally:
                log.append("task ends")

        task = asyncio.create_task(operation())
        for _ in range(2):
            await turns(2)
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await turns(20)
        return ", ".join(log)

    async def theirs(commit: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.shield(commit())
            raise

    async def ours(commit: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await finish(commit())
            raise

    async def main() -> None:
        assert await scenario(theirs) == "begin, task ends, committed"
        assert await scenario(ours) == "begin, committed, task ends"

    run(main, cell)


def test_one_failure_of_ten_leaves_nine_results(cell: Cell) -> None:
    """Guide C, section 3."""

    async def fetch_url(url: int) -> str:
        await turns(url)
        if url == 4:
            raise ConnectionError(url)
        return f"page {url}"

    async def crawl_all(urls: list[int]) -> list[str]:
        results = []
        async with asyncio.TaskGroup() as tg:
            tasks = {tg.create_task(fetch_url(url)): url for url in urls}
            for task in tasks:
                try:
                    result = await task
                    results.append(result)
                except Exception:
                    pass
        return results

    async def main() -> None:
        with pytest.raises(ExceptionGroup):
            await crawl_all(list(range(10)))
        results = await amap(fetch_url, range(10), limit=10, errors="return")
        assert [result for result in results if isinstance(result, str)] == [f"page {n}" for n in range(10) if n != 4]
        assert isinstance(results[4], ConnectionError)

    run(main, cell)


# ----------------------------------------------------------------------------------------------------------- timeouts


def test_a_timeout_swallows_no_cancel_when_the_result_is_ready(cell: Cell) -> None:
    """``asyncio.wait_for`` on 3.11 returns the result and the cancel is lost."""

    async def scenario(get: Callable[[asyncio.Event], Coroutine[Any, Any, Any]]) -> bool:
        ready = asyncio.Event()
        task = asyncio.create_task(get(ready))
        await turns()
        ready.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0) if sys.version_info < (3, 12) else None
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    async def theirs(ready: asyncio.Event) -> None:
        inner = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(ready.wait())
        waiting.add_done_callback(lambda _: inner.set_result(1))
        await asyncio.wait_for(inner, 60)

    async def ours(ready: asyncio.Event) -> None:
        inner = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(ready.wait())
        waiting.add_done_callback(lambda _: inner.set_result(1))
        async with timeout(60):
            await inner
            await asyncio.sleep(0)

    async def main() -> None:
        if sys.version_info < (3, 12):
            assert not await scenario(theirs), "the cancel was swallowed"
        assert await scenario(ours)

    run(main, cell)


def test_a_timeout_of_zero_eats_no_earlier_cancel(cell: Cell) -> None:
    """python/cpython#134471."""

    async def scenario(make: Callable[[float], Any]) -> bool:
        async def victim() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            with contextlib.suppress(TimeoutError):
                async with make(0):
                    await asyncio.sleep(60)

        task = asyncio.create_task(victim())
        await asyncio.wait([task])
        return task.cancelled()

    async def main() -> None:
        assert not await scenario(asyncio.timeout), "asyncio's is cured: the recipe can go"
        assert await scenario(timeout)

    run(main, cell)


# ------------------------------------------------------------------------------------------------ graceful shutdown


class GracefulShutdown:
    """Guide C, section 13."""

    def __init__(self) -> None:
        self.stop_event = asyncio.Event()
        self.tasks: set[asyncio.Task[Any]] = set()

    def setup_signal_handlers(self) -> None:
        loop = asyncio.get_running_loop()

        def signal_handler(signum: int, frame: Any) -> None:
            self.stop_event.set()

        for sig in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sig, signal_handler)  # type: ignore[arg-type]

    async def run_with_shutdown(self, main_coro: Coroutine[Any, Any, Any]) -> None:
        self.setup_signal_handlers()
        main_task = asyncio.create_task(main_coro)
        self.tasks.add(main_task)
        try:
            await self.stop_event.wait()
        finally:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)


def ours_in_a_process(body: str) -> subprocess.CompletedProcess[str]:
    program = f"import asyncio, os, signal, loopwright\n{body}\nprint('returned', loopwright.run(main, grace=20))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_sigterm_stops_the_service() -> None:
    reported: list[Any] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
        before = signal.getsignal(signal.SIGTERM)
        service = GracefulShutdown()
        running = asyncio.create_task(service.run_with_shutdown(asyncio.sleep(60)))
        await turns()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(A_WHILE)
        assert not running.done(), "the guide's stops after all"
        running.cancel()
        await asyncio.wait([running])
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        signal.signal(signal.SIGTERM, before)

    run(main)
    assert [type(error) for error in reported] == [TypeError]
    ended = ours_in_a_process(
        "async def main(token):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return 'stopped: ' + str(await token.sleep(60))"
    )
    assert ended.stdout.strip() == "returned stopped: True", ended.stderr


def test_a_service_whose_main_ends_returns() -> None:
    async def main() -> None:
        async def done() -> None:
            pass

        assert await hangs(GracefulShutdown().run_with_shutdown(done()))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    run(main)
    ended = ours_in_a_process("async def main():\n    return 'at once'")
    assert ended.stdout.strip() == "returned at once", ended.stderr


# B: a child's pipes


@pytest.mark.default_only
def test_output_that_nobody_reads_deadlocks_by_the_recipe_and_not_by_ours() -> None:
    flood = "head", "-c", "180000", "/dev/zero"

    async def recipe() -> bool:
        """As printed: wait, then read. Whether the child ended."""
        process = await asyncio.create_subprocess_exec(*flood, stdout=asyncio.subprocess.PIPE, limit=1024)
        waiting = asyncio.create_task(process.wait())
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        if not done:
            process.kill()
        assert process.stdout is not None
        await process.stdout.read()
        await waiting
        return bool(done)

    async def main() -> None:
        assert not await recipe()
        assert len((await run_process(*flood)).stdout) == 180_000

    run(main)
