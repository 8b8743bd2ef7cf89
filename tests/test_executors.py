"""amap(on=executor): threads and processes of this machine, then a Dask cluster whose workers are killed."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import itertools
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import requires
from support.loops import Cell, run

from loopwright import AdaptiveLimit, MapError, WorkerLost, amap

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


async def until(condition: Callable[[], object], pause: float = 0) -> None:
    while not condition():  # noqa: ASYNC110 (nothing tells)
        await asyncio.sleep(pause)


class Manual(concurrent.futures.Executor):
    """Runs nothing by itself: a test ends its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[concurrent.futures.Future[Any], Callable[..., Any], Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.calls.append((future, fn, args))
        return future


class Flaky(concurrent.futures.Executor):
    """Loses the worker of each call as often as it is told; the call itself may have run."""

    class Lost(Exception):
        pass

    def __init__(self, losses: int) -> None:
        self.losses = losses
        self.sent: Counter[Any] = Counter()
        self.prepared = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.sent[args[0]] += 1
        if self.sent[args[0]] > self.losses:
            future.set_result(fn(*args))
        else:
            future.set_exception(self.Lost())
        return future

    def loopwright_adapter(self, idempotent: bool) -> Flaky:
        return self

    def prepare(self) -> None:
        self.prepared += 1

    def is_lost(self, error: BaseException) -> bool:
        return isinstance(error, self.Lost)

    def takes_more(self) -> bool:
        return True


def square(number: int) -> int:
    if number == 13:
        raise ValueError("thirteen")
    return number * number


def squares(numbers: list[int]) -> list[int]:
    return [square(number) for number in numbers]


@pytest.fixture
def threads() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(4) as executor:
        yield executor


def test_results_are_in_the_order_of_the_items(cell: Cell, threads: concurrent.futures.ThreadPoolExecutor) -> None:
    async def main() -> None:
        assert await amap(square, range(10), on=threads, limit=3) == [n * n for n in range(10)]
        assert await amap(squares, range(10), on=threads, limit=3, batch=4) == [n * n for n in range(10)]
        async with amap(square, itertools.count(), on=threads, limit=AdaptiveLimit(2)) as results:
            assert [await anext(results) for _ in range(5)] == [0, 1, 4, 9, 16]

    run(main, cell)


def test_no_more_than_limit_items_are_in_flight_and_the_source_is_pulled_lazily() -> None:
    executor = Manual()
    pulled = []

    def items() -> Iterator[int]:
        for item in range(1_000):
            pulled.append(item)
            yield item

    async def main() -> None:
        mapped = asyncio.ensure_future(_collect(amap(square, items(), on=executor, limit=5, errors="return")))
        for ended in range(1_000):
            await until(lambda: len(executor.calls) > ended)  # noqa: B023 (now)
            assert len(pulled) - ended <= 5
            future, fn, args = executor.calls[ended]
            try:
                future.set_result(fn(*args))
            except ValueError as error:
                future.set_exception(error)
        results = await mapped
        assert [result for result in results if isinstance(result, int)] == [n * n for n in range(1_000) if n != 13]

    run(main)


async def _collect(mapped: Any) -> Any:
    return await mapped


def test_an_error_is_the_functions_own_and_results_so_far_are_kept(
    threads: concurrent.futures.ThreadPoolExecutor,
) -> None:
    async def main() -> None:
        with pytest.raises(MapError) as caught:
            await amap(square, range(20), on=threads, limit=1)
        assert caught.value.results == {n: n * n for n in range(13)}
        assert str(caught.value.failed[13]) == "thirteen"

    run(main)


def test_a_cancel_withdraws_what_has_not_started_and_waits_for_nothing() -> None:
    executor = Manual()

    async def main() -> None:
        mapped = asyncio.ensure_future(_collect(amap(square, range(9), on=executor, limit=2)))
        await until(lambda: len(executor.calls) == 2)
        (running, _, _), (waiting, _, _) = executor.calls
        assert running.set_running_or_notify_cancel()
        mapped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await mapped
        assert (running.cancelled(), waiting.cancelled()) == (False, True)
        running.set_result(1)  # nobody minds
        await asyncio.sleep(0)

    run(main)


def test_threads_see_the_context_of_the_caller(threads: concurrent.futures.ThreadPoolExecutor) -> None:
    async def main() -> None:
        VARIABLE.set("caller's")
        assert await amap(lambda _: VARIABLE.get(), range(2), on=threads, limit=2) == ["caller's"] * 2

    run(main)


def test_a_lost_call_is_sent_again_if_it_may_run_twice_and_only_then() -> None:
    async def main() -> None:
        flaky = Flaky(losses=2)
        assert await amap(square, range(5), on=flaky, limit=2, idempotent=True) == [0, 1, 4, 9, 16]
        assert set(flaky.sent.values()) == {3} and flaky.prepared == 1

        once = Flaky(losses=1)
        results: list[Any] = await amap(square, range(5), on=once, limit=2, errors="return")
        assert all(isinstance(result, WorkerLost) and result.attempts == 1 for result in results)
        assert set(once.sent.values()) == {1}

        deadly = Flaky(losses=100)
        [lost] = await amap(square, [1], on=deadly, limit=1, idempotent=True, errors="return")
        assert isinstance(lost, WorkerLost) and lost.attempts == deadly.sent[1] == 4

    run(main)


def test_a_call_that_the_engine_cancelled_is_lost() -> None:
    executor = Manual()

    async def main() -> None:
        mapped = asyncio.ensure_future(_collect(amap(square, [1], on=executor, limit=1, errors="return")))
        await until(lambda: executor.calls)
        executor.calls[0][0].cancel()
        [lost] = await mapped
        assert isinstance(lost, WorkerLost)

    run(main)


def test_arguments_that_are_no_good_are_refused_at_once() -> None:
    async def coroutine(item: int) -> int:
        return item

    with pytest.raises(TypeError, match="Executor"):
        amap(square, [], on=3, limit=1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="plain functions"):
        amap(coroutine, [], on=Manual(), limit=1)


def test_the_import_of_the_package_imports_no_executor() -> None:
    import subprocess  # noqa: PLC0415

    code = (
        "import sys, loopwright; print([m for m in ('multiprocessing', 'loopwright._executors') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# ----------------------------------------------------------------------------------------------------- processes


def die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.default_only
def test_a_broken_process_pool_says_what_to_do() -> None:
    import multiprocessing  # noqa: PLC0415

    async def main(executor: concurrent.futures.Executor) -> list[Any]:
        return await amap(die, range(6), on=executor, limit=1, errors="return", idempotent=True)

    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        results = run(lambda: main(executor))
    assert results[:3] == [0, 1, 2]
    assert all(isinstance(result, WorkerLost) and "takes no more calls" in str(result) for result in results[3:])


# ---------------------------------------------------------------------------------------------------------- Dask


def once(path: str, number: int) -> int:
    """Leaves a line for each run."""
    with open(path, "a", encoding="ascii") as runs:
        runs.write(f"{number} {os.getpid()}\n")
    threading.Event().wait(0.02)
    return number


class _Once:
    """``once`` of one file. Pickled by value: the workers cannot import this module."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, number: int) -> int:
        return once(self.path, number)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def runs(path: Path) -> Counter[int]:
    return Counter(int(line.split()[0]) for line in lines(path))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed = requires.module("distributed")
    with (
        distributed.LocalCluster(
            n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.wait_for_workers(3)
        yield client


async def killing(client: Any, path: Path, mapped: Any) -> list[Any]:
    """Ends the process of a worker in the middle of the map."""
    task = asyncio.ensure_future(_collect(mapped))
    await until(lambda: len(lines(path)) >= 20, 0.01)
    os.kill(int(lines(path)[-1].split()[1]), signal.SIGKILL)
    results: list[Any] = await task
    return results


@pytest.mark.default_only
def test_dask_answers_every_item_though_a_worker_is_killed_if_calls_may_run_twice(cluster: Any, tmp_path: Path) -> None:
    path, seen = tmp_path / "runs", []

    async def main() -> None:
        executor = cluster.get_executor()
        mapped = amap(
            _Once(str(path)),
            range(120),
            on=executor,
            limit=12,
            idempotent=True,
            progress=lambda d, t: seen.append((d, t)),
        )
        assert await killing(cluster, path, mapped) == list(range(120))
        assert seen == [(done, 120) for done in range(1, 121)]

    run(main)
    assert set(runs(path)) == set(range(120))


@pytest.mark.default_only
def test_dask_runs_each_item_at_most_once_though_a_worker_is_killed_and_says_which_were_lost(
    cluster: Any, tmp_path: Path
) -> None:
    path = tmp_path / "runs"

    async def main() -> list[Any]:
        mapped = amap(_Once(str(path)), range(120), on=cluster.get_executor(), limit=12, errors="return")
        return await killing(cluster, path, mapped)

    results = run(main)
    lost = [item for item, result in enumerate(results) if isinstance(result, WorkerLost)]
    assert [result for result in results if not isinstance(result, WorkerLost)] == [
        item for item in range(120) if item not in lost
    ]
    assert 1 <= len(lost) <= 12
    counts = runs(path)
    assert max(counts.values()) == 1
    assert set(counts) >= set(range(120)) - set(lost)
