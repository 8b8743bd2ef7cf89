"""Queue between threads and tasks: `put_threadsafe` and `get_blocking`."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.cancels import cancels, in_cell
from support.loops import Cell, run

from loopwright import LifoQueue, PriorityQueue, Queue, QueueShutDown
from loopwright.testing import Play, random_cancels

CLASSES = [Queue, PriorityQueue, LifoQueue]
each_class = pytest.mark.parametrize("make", CLASSES)


async def until(condition: Callable[[], bool]) -> None:
    """Lets threads work until something has happened."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (it happens in a thread)
            await asyncio.sleep(0.001)


@each_class
def test_threads_put_and_tasks_get(make: type[Queue[Any]], cell: Cell) -> None:
    async def main() -> None:
        queue = make(3)
        got: list[int] = []

        async def consumer() -> None:
            async for item in queue:
                got.append(item)
                queue.task_done()

        def producer(first: int) -> None:
            for item in range(first, first + 200):
                queue.put_threadsafe(item, timeout=30)

        consumers = [asyncio.create_task(consumer()) for _ in range(3)]
        await asyncio.gather(*(asyncio.to_thread(producer, first) for first in (0, 1000, 2000)))
        await queue.join()
        queue.shutdown()
        await asyncio.gather(*consumers)
        assert sorted(got) == [first + n for first in (0, 1000, 2000) for n in range(200)]
        if make is Queue:
            for first in (0, 1000, 2000):  # each producer's items in its order
                own = [item for item in got if first <= item < first + 1000]
                assert own == sorted(own)

    run(main, cell)


@each_class
def test_tasks_put_and_threads_get(make: type[Queue[Any]], cell: Cell) -> None:
    async def main() -> None:
        queue = make(2)
        got: list[int] = []

        def consumer() -> None:
            with contextlib.suppress(QueueShutDown):
                while True:
                    got.append(queue.get_blocking(timeout=30))

        async def producer(first: int) -> None:
            for item in range(first, first + 100):
                await queue.put(item)

        consuming = [asyncio.create_task(asyncio.to_thread(consumer)) for _ in range(3)]
        await asyncio.gather(*(producer(first) for first in (0, 1000)))
        queue.shutdown()
        await asyncio.gather(*consuming)
        assert sorted(got) == [first + n for first in (0, 1000) for n in range(100)]

    run(main, cell)


def test_threads_and_tasks_stand_in_one_line() -> None:
    async def main() -> None:
        queue: Queue[int] = Queue()
        order: list[str] = []

        async def task(name: str) -> None:
            await queue.get()
            order.append(name)

        def thread(name: str) -> None:
            queue.get_blocking(timeout=30)
            order.append(name)

        waiters: list[asyncio.Task[None]] = []
        for n, name in enumerate(("task-1", "thread-1", "task-2", "thread-2")):
            work = task(name) if name.startswith("task") else asyncio.to_thread(thread, name)
            waiters.append(asyncio.create_task(work))
            await until(lambda n=n: queue.stats().getters == n + 1)
        for n in range(4):
            queue.put_nowait(n)
            await until(lambda n=n: len(order) == n + 1)
        await asyncio.gather(*waiters)
        assert order == ["task-1", "thread-1", "task-2", "thread-2"]

    run(main)


def test_a_thread_wakes_a_sleeping_loop(cell: Cell) -> None:
    async def main() -> None:
        queue: Queue[int] = Queue()
        threading.Timer(0.05, queue.put_threadsafe, (1,)).start()
        assert await asyncio.wait_for(queue.get(), 30) == 1  # nothing else runs: the loop is in its select
        full: Queue[int] = Queue(1)
        full.put_nowait(1)
        threading.Timer(0.05, full.get_blocking).start()
        await asyncio.wait_for(full.put(2), 30)

    run(main, cell)


def test_without_any_loop() -> None:
    queue: Queue[int] = Queue(1)
    with ThreadPoolExecutor(2) as threads:
        putting = threads.submit(lambda: [queue.put_threadsafe(n, timeout=30) for n in range(100)])
        getting = threads.submit(lambda: [queue.get_blocking(timeout=30) for _ in range(100)])
        assert getting.result(30) == list(range(100))
        putting.result(30)


@each_class
def test_timeouts(make: type[Queue[Any]]) -> None:
    queue = make(1)
    for timeout in (0, 0.01):
        with pytest.raises(TimeoutError, match=rf"{make.__name__}\.get_blocking: no item within {timeout} s"):
            queue.get_blocking(timeout=timeout)
    queue.put_threadsafe(1, timeout=0)
    for timeout in (0, 0.01):
        with pytest.raises(TimeoutError, match=rf"no free place within {timeout} s: 1 of 1 taken"):
            queue.put_threadsafe(2, timeout=timeout)
    assert (queue.stats().getters, queue.stats().putters, queue.qsize()) == (0, 0, 1)
    assert queue.get_blocking(timeout=0) == 1


def test_arguments_are_checked() -> None:
    queue: Queue[int] = Queue()
    for wrong, error in ((True, TypeError), ("1", TypeError), (-1, ValueError), (math.nan, ValueError)):
        with pytest.raises(error, match=r"get_blocking\(timeout="):
            queue.get_blocking(timeout=wrong)  # type: ignore[arg-type]
        with pytest.raises(error, match=r"put_threadsafe\(timeout="):
            queue.put_threadsafe(1, timeout=wrong)  # type: ignore[arg-type]
    queue.put_threadsafe(1, timeout=math.inf)
    assert queue.get_blocking(timeout=1e300) == 1


def test_refused_in_the_thread_of_a_running_loop() -> None:
    async def main() -> None:
        queue: Queue[int] = Queue()
        with pytest.raises(RuntimeError, match=r"Queue\.put_threadsafe would block .*await queue\.put"):
            queue.put_threadsafe(1)
        with pytest.raises(RuntimeError, match=r"Queue\.get_blocking would block .*await queue\.get"):
            queue.get_blocking()
        assert queue.empty()

    run(main)


@pytest.mark.parametrize("immediate", [False, True])
def test_shutdown_wakes_threads(immediate: bool) -> None:
    empty: Queue[int] = Queue()
    full: Queue[int] = Queue(1)
    full.put_nowait(1)
    with ThreadPoolExecutor(4) as threads:
        getting = [threads.submit(empty.get_blocking) for _ in range(2)]
        putting = [threads.submit(full.put_threadsafe, 2) for _ in range(2)]
        while empty.stats().getters + full.stats().putters < 4:
            time.sleep(0.001)
        empty.shutdown(immediate)
        full.shutdown(immediate)
        for future in [*getting, *putting]:
            with pytest.raises(QueueShutDown):
                future.result(30)


def test_ctrl_c_ends_a_blocked_main_thread() -> None:
    program = """
import _thread, signal, sys, threading
from loopwright import Queue
queue = Queue()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so do its children
threading.Timer(0.2, signal.raise_signal, (signal.SIGINT,)).start()
try:
    queue.get_blocking()
except KeyboardInterrupt:
    assert queue.stats().getters == 0
    sys.exit(7)
"""
    assert signal.getsignal(signal.SIGINT) is not None
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert ended.returncode == 7


class Slow:
    """A comparison in Python: other threads run in the middle of a heap operation."""

    def __init__(self, key: int) -> None:
        self.key = key

    def __lt__(self, other: Slow) -> bool:
        time.sleep(0)  # gives up the GIL
        return self.key < other.key


def test_a_heap_survives_threads_that_compare_at_once() -> None:
    queue: PriorityQueue[Slow] = PriorityQueue()
    put, get = 150, 100

    def work(first: int) -> list[int]:
        for n in range(put):
            queue.put_threadsafe(Slow(first + n))
        return [queue.get_blocking(timeout=30).key for _ in range(get)]

    with ThreadPoolExecutor(4) as threads:
        got = [key for keys in threads.map(work, range(0, 4000, 1000)) for key in keys]
    left = []
    while not queue.empty():
        left.append(queue.get_nowait().key)
    assert left == sorted(left)
    assert sorted(got + left) == sorted(first + n for first in range(0, 4000, 1000) for n in range(put))


def test_promise_6_with_threads_at_the_queue(cell: Cell) -> None:
    async def threads_and_tasks(play: Play) -> None:
        queue: Queue[tuple[str, int]] = Queue(play.rng.choice((1, 2)))
        put: list[tuple[str, int]] = []
        got: list[tuple[str, int]] = []

        async def producer(name: str) -> None:
            for n in range(4):
                await queue.put((name, n))
                put.append((name, n))

        async def consumer() -> None:
            async for item in queue:
                got.append(item)

        def thread() -> None:
            for n in range(4):
                queue.put_threadsafe(("thread", n))
                put.append(("thread", n))
            with contextlib.suppress(TimeoutError):
                got.append(queue.get_blocking(timeout=0))

        worker = play.loop.run_in_executor(threads, thread)
        consumers = [play.spawn(consumer(), name=f"consumer-{n}") for n in range(2)]
        producers = [play.spawn(producer(f"p{n}"), name=f"producer-{n}") for n in range(2)]
        while not (worker.done() and all(task.done() for task in producers)):
            await asyncio.sleep(0)
            while all(task.done() for task in consumers) and not queue.empty():
                got.append(queue.get_nowait())
        await worker
        queue.shutdown()
        await play.finished()
        while not queue.empty():
            got.append(queue.get_nowait())
        assert sorted(got) == sorted(put)
        for name in {name for name, _ in put}:
            own = [n for other, n in got if other == name]
            assert sorted(own) == list(range(len(own)))

    with ThreadPoolExecutor(1) as threads:
        count = max(20, cancels(cell=cell, again=True, share=0.1))
        random_cancels(threads_and_tasks, count, seed=9, patience=30, **in_cell(cell))
