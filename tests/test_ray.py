"""amap on a real Ray of this machine, whose workers are killed in the middle: ``make test-cluster``.

Not in ``make test``: Ray has no wheels for the newest CPython. What a run of it says is in docs/cluster-log.md.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loopwright import MapError, WorkerLost, amap

pytestmark = [
    pytest.mark.default_only,
    pytest.mark.skipif(os.environ.get("LOOPWRIGHT_CLUSTER") != "1", reason="a real Ray: make test-cluster"),
]


@pytest.fixture(scope="module")
def executor() -> Iterator[Any]:
    import ray  # noqa: PLC0415 (only there)

    from loopwright.integrations.ray import RayExecutor  # noqa: PLC0415

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        with RayExecutor(num_cpus=1) as made:
            yield made
    finally:
        ray.shutdown()


def recorder(path: str) -> Callable[[int], int]:
    """A function that leaves a line for each of its runs. Pickled by value: the workers cannot import this module."""

    def record(number: int) -> int:
        import os as system  # noqa: PLC0415 (of the worker)
        import time as clock  # noqa: PLC0415

        with open(path, "a", encoding="ascii") as runs:
            runs.write(f"{number} {system.getpid()}\n")
        clock.sleep(0.05)
        return number

    return record


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


async def killing(path: Path, mapped: Any) -> list[Any]:
    """Ends the process of a worker in the middle of the map."""

    async def collect() -> list[Any]:
        results: list[Any] = await mapped
        return results

    task = asyncio.ensure_future(collect())
    while len(lines(path)) < 20:  # noqa: ASYNC110 (nothing tells)
        await asyncio.sleep(0.01)
    os.kill(int(lines(path)[-1].split()[1]), signal.SIGKILL)
    return await task


def test_results_are_in_order_and_errors_the_functions_own(executor: Any) -> None:
    async def main() -> None:
        assert await amap(_squaring(), range(100), on=executor, limit=8) == [n * n for n in range(100)]
        with pytest.raises(MapError) as caught:
            await amap(_failing(), range(20), on=executor, limit=2)
        assert "thirteen" in str(caught.value.failed[13])
        assert isinstance(caught.value.failed[13], ValueError)

    asyncio.run(main())


def _squaring() -> Callable[[int], int]:
    return lambda number: number * number


def _failing() -> Callable[[int], int]:
    def fail(number: int) -> int:
        if number == 13:
            raise ValueError("thirteen")
        return number

    return fail


def test_every_item_is_answered_though_a_worker_is_killed_if_calls_may_run_twice(executor: Any, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    mapped = amap(recorder(str(path)), range(120), on=executor, limit=8, idempotent=True)
    assert asyncio.run(killing(path, mapped)) == list(range(120))


def test_each_item_runs_at_most_once_though_a_worker_is_killed_and_lost_ones_are_named(
    executor: Any, tmp_path: Path
) -> None:
    path = tmp_path / "runs"
    mapped = amap(recorder(str(path)), range(120), on=executor, limit=8, errors="return")
    results = asyncio.run(killing(path, mapped))
    lost = {item for item, result in enumerate(results) if isinstance(result, WorkerLost)}
    assert [item for item in range(120) if item not in lost] == [r for r in results if not isinstance(r, WorkerLost)]
    assert 1 <= len(lost) <= 8
    assert max(Counter(line.split()[0] for line in lines(path)).values()) == 1


def test_a_cancel_interrupts_what_runs(executor: Any, tmp_path: Path) -> None:
    path = tmp_path / "runs"

    def sleeps(number: int) -> int:
        import time as clock  # noqa: PLC0415

        with open(str(path), "a", encoding="ascii") as runs:
            runs.write("began\n")
        for _ in range(6_000):  # it is interrupted between two steps of Python, not in the middle of one
            clock.sleep(0.1)
        return number

    async def main() -> float:
        async def collect() -> None:
            await amap(sleeps, range(4), on=executor, limit=4)

        task = asyncio.ensure_future(collect())
        while len(lines(path)) < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        began = time.monotonic()
        assert await amap(_failing(), range(4), on=executor, limit=4) == [0, 1, 2, 3]  # the workers are free again
        return time.monotonic() - began

    assert asyncio.run(main()) < 300


def test_a_hundred_thousand_items_are_never_more_than_limit_at_once(executor: Any) -> None:
    pulled: list[int] = []
    seen = 0

    def items() -> Iterator[list[int]]:
        for start in range(0, 100_000, 1_000):
            pulled.append(start)
            assert len(pulled) - seen <= 9
            yield list(range(start, start + 1_000))

    def progress(done: int, _total: int | None) -> None:
        nonlocal seen
        seen = done

    async def main() -> None:
        sums = await amap(sum, items(), on=executor, limit=8, progress=progress)
        assert sum(sums) == sum(range(100_000))

    asyncio.run(main())
