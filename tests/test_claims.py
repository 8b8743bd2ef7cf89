"""What the guides claim about time, on a clock that does not jitter: the rows of docs/claims.md.

Each figure is in seconds of the simulated loop's clock, and exact: the same on every machine. A recipe stands here as
its guide prints it, but for what it prints and for the service that it calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import re
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

import loopwright
from loopwright import testing

T = TypeVar("T")


def seconds(main: Callable[[], Coroutine[Any, Any, Any]]) -> float:
    """How long it takes."""

    async def timed() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await main()
        return loop.time() - began

    return round(testing.run(timed), 9)


async def job(length: float = 1.0) -> None:
    await asyncio.sleep(length)


# ------------------------------------------------------------------------------------------------------- concurrency


def test_ten_jobs_of_one_second_take_ten_in_series_and_one_at_once() -> None:
    async def in_series() -> None:
        for _ in range(10):
            await job()

    async def at_once() -> None:
        await asyncio.gather(*[job() for _ in range(10)])

    async def ours() -> None:
        await loopwright.gather(*[job() for _ in range(10)])

    assert (seconds(in_series), seconds(at_once), seconds(ours)) == (10.0, 1.0, 1.0)


def test_two_fetches_of_one_second_take_two_in_series_and_one_at_once() -> None:
    async def in_series() -> None:
        await job()
        await job()

    async def at_once() -> None:
        first, second = asyncio.create_task(job()), asyncio.create_task(job())
        await first
        await second

    assert (seconds(in_series), seconds(at_once)) == (2.0, 1.0)


def test_one_and_two_seconds_take_three_in_series_and_two_at_once() -> None:
    async def in_series() -> None:
        await job(1)
        await job(2)

    async def at_once() -> None:
        first, second = asyncio.create_task(job(1)), asyncio.create_task(job(2))
        await first
        await second

    assert (seconds(in_series), seconds(at_once)) == (3.0, 2.0)


@pytest.mark.parametrize("make", [asyncio.Semaphore, loopwright.Semaphore])
def test_ten_workers_of_two_seconds_three_at_a_time_take_eight(make: Callable[[int], Any]) -> None:
    async def main() -> None:
        semaphore = make(3)

        async def worker() -> None:
            async with semaphore:
                await job(2)

        await asyncio.gather(*[worker() for _ in range(10)])

    assert seconds(main) == 8.0


async def _printed_amap(fn: Callable[[int], Awaitable[T]], items: list[int], *, limit: int = 50) -> list[T]:
    sem = asyncio.Semaphore(limit)

    async def run(x: int) -> T:
        async with sem:
            return await fn(x)

    async with asyncio.TaskGroup() as tg:
        tasks = [tg.create_task(run(x)) for x in items]
        return [await t for t in tasks]


@pytest.mark.parametrize("amap", [_printed_amap, loopwright.amap])
def test_a_hundred_items_of_a_tenth_at_ten_at_a_time_take_one_second(amap: Callable[..., Awaitable[Any]]) -> None:
    async def item(_x: int) -> None:
        await job(0.1)

    async def main() -> None:
        await amap(item, list(range(100)), limit=10)

    assert seconds(main) == 1.0


class _ConcurrentTasks:
    """As printed."""

    def __init__(self, max_concurrency: int = 5) -> None:
        self.max_concurrency = max_concurrency
        self.tasks: list[asyncio.Task[Any]] = []
        self._task_over = asyncio.Event()

    async def put(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        if len(self.tasks) >= self.max_concurrency:
            await self._task_over.wait()
            self._task_over.clear()
        task = asyncio.create_task(coroutine)
        self.tasks.append(task)
        task.add_done_callback(lambda _: self._task_over.set())

    async def join(self) -> None:
        await asyncio.gather(*self.tasks, return_exceptions=True)


def test_twenty_five_jobs_five_at_a_time_take_twenty_one_seconds_by_the_recipe_and_five_by_ours() -> None:
    async def recipe() -> None:
        pool = _ConcurrentTasks(max_concurrency=5)
        for _ in range(25):
            await pool.put(job())
        await pool.join()

    async def ours() -> None:
        async with loopwright.TaskGroup(limit=5) as group:
            for _ in range(25):
                await group.spawn(job)

    assert (seconds(recipe), seconds(ours)) == (21.0, 5.0)


def test_a_semaphore_made_per_call_lets_a_thousand_run_at_once() -> None:
    async def peak(limiter: Callable[[], Any]) -> int:
        running = most = 0

        async def call() -> None:
            nonlocal running, most
            async with limiter():
                running += 1
                most = max(most, running)
                await job()
                running -= 1

        await asyncio.gather(*[call() for _ in range(1000)])
        return most

    async def main() -> tuple[int, int]:
        shared = loopwright.Semaphore(100)
        return await peak(lambda: asyncio.Semaphore(100)), await peak(lambda: shared)

    assert testing.run(main) == (1000, 100)


# ------------------------------------------------------------------------------------------------------ backpressure


@pytest.mark.parametrize("make", [asyncio.Queue, loopwright.Queue])
def test_a_thousand_items_and_four_consumers_take_twenty_five_seconds_and_a_hundred_places(
    make: Callable[[int], Any],
) -> None:
    longest = 0

    async def main() -> None:
        q = make(100)

        async def consumer() -> None:
            while True:
                try:
                    item = await q.get()
                    if item is None:
                        break
                    await job(0.1)
                finally:
                    q.task_done()

        consumers = [asyncio.create_task(consumer()) for _ in range(4)]
        for item in range(1000):
            await q.put(item)
            nonlocal longest
            longest = max(longest, q.qsize())
        for _ in range(4):
            await q.put(None)
        await q.join()
        await asyncio.gather(*consumers)

    assert seconds(main) == 25.0
    assert longest == 100


def test_beyond_the_capacity_of_a_server_a_higher_limit_only_adds_delay() -> None:
    """A server that answers four requests at a time, each in 10 ms, and 1,000 requests under a growing limit."""

    async def under(limit: int) -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        server, client = loopwright.Semaphore(4), loopwright.Semaphore(limit)
        delays: list[float] = []

        async def request() -> None:
            async with client:
                began = loop.time()
                async with server:
                    await job(0.010)
                delays.append(loop.time() - began)

        began = loop.time()
        await asyncio.gather(*[request() for _ in range(1000)])
        return round(1000 / (loop.time() - began), 6), round(sorted(delays)[989] * 1000, 6)

    async def main() -> dict[int, tuple[float, float]]:
        return {limit: await under(limit) for limit in (1, 2, 4, 8, 16, 100)}

    assert testing.run(main) == {
        1: (100, 10),
        2: (200, 10),
        4: (400, 10),
        8: (400, 20),
        16: (400, 40),
        100: (400, 250),
    }


def test_an_adaptive_limit_finds_the_knee_by_itself() -> None:
    """The server of the test above, and nobody who knows its capacity."""
    limits: list[int] = []
    delays: list[float] = []

    async def main() -> float:
        loop = asyncio.get_running_loop()
        server, limit = loopwright.Semaphore(4), loopwright.AdaptiveLimit()
        began = 0.0

        async def request(number: int) -> None:
            nonlocal began
            async with limit:
                if number == 2000:
                    began = loop.time()
                sent = loop.time()
                async with server:
                    await job(0.010)
                delays.append(loop.time() - sent)
            limits.append(limit.limit)

        await asyncio.gather(*[request(number) for number in range(4000)])
        return 2000 / (loop.time() - began)

    throughput = testing.run(main)
    settled = sorted(limits[2000:])
    p99 = sorted(delays[2000:])[1979]
    share = settled.count(4) / 20
    print(f"limit {settled[0]} to {settled[-1]}, {share:.0f} % of the time 4; {throughput:.0f}/s; p99 {p99:.3f} s")
    assert settled[1000] == 4 and settled[-1] == 5
    assert throughput >= 375
    assert p99 <= 0.021


# ----------------------------------------------------------------------------------------------- timeouts and retries


async def _fetch_with_retry(
    get: Callable[[], Awaitable[T]], max_retries: int = 3, base_timeout: float = 5.0
) -> T | None:
    for attempt in range(max_retries):
        try:
            async with asyncio.timeout(base_timeout * (2**attempt)):
                return await get()
        except TimeoutError:
            if attempt == max_retries - 1:
                raise
            await asyncio.sleep(0.1 * (2**attempt))
        except Exception:
            if attempt == max_retries - 1:
                raise
            await asyncio.sleep(0.1 * (2**attempt))
    return None


def test_a_retry_with_a_timeout_of_five_seconds_takes_more_than_thirty_five() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    async def recipe() -> None:
        with pytest.raises(TimeoutError):
            await _fetch_with_retry(never)

    async def bounded() -> None:
        with pytest.raises(TimeoutError):
            async with loopwright.timeout(5):
                await _fetch_with_retry(never)

    async def ours() -> None:
        with pytest.raises(TimeoutError):
            await loopwright.Retry(attempts=3, timeout=5, attempt_timeout=lambda number: 5 * 2 ** (number - 1))(never)

    assert (seconds(recipe), seconds(bounded), seconds(ours)) == (35.3, 5.0, 5.0)


async def _fetch_data_with_retry(call: Callable[[], Awaitable[str]], max_retries: int = 3) -> str | None:
    for attempt in range(max_retries):
        try:
            async with asyncio.timeout(2):
                return await call()
        except (TimeoutError, ConnectionError):
            if attempt == max_retries - 1:
                raise
            await asyncio.sleep(2**attempt)
    return None


def test_three_tries_at_seventy_percent_failures_succeed_in_66_of_100_and_take_six_seconds_at_p99() -> None:
    def course(outcomes: tuple[bool, ...]) -> tuple[bool, float]:
        """How it ends, and when, if the calls go like this."""
        left = list(outcomes)
        succeeded = False

        async def call() -> str:
            await asyncio.sleep(1)
            if not left.pop(0):
                raise ConnectionError
            return "success"

        async def main() -> None:
            nonlocal succeeded
            with contextlib.suppress(ConnectionError):
                succeeded = await _fetch_data_with_retry(call) == "success"

        took = seconds(main)
        return succeeded, took

    shares: dict[tuple[bool, float], float] = {}
    for outcomes in itertools.product((True, False), repeat=3):
        share = 0.3 ** sum(outcomes) * 0.7 ** (3 - sum(outcomes))
        ends = course(outcomes)
        shares[ends] = round(shares.get(ends, 0) + share, 6)
    assert shares == {(True, 1.0): 0.3, (True, 3.0): 0.21, (True, 6.0): 0.147, (False, 6.0): 0.343}
    assert round(sum(share for (succeeded, _), share in shares.items() if succeeded), 6) == 0.657


def test_retries_at_seventy_percent_failures_are_bounded_and_spread() -> None:
    """As many tries as fit into the time that the recipe takes at most: more succeed, none ends later."""
    policy = loopwright.Retry(attempts=None, timeout=6, base=1, max_delay=1, budget=None)
    rng = random.Random(1)

    async def call() -> None:
        await asyncio.sleep(1)
        if rng.random() < 0.7:
            raise ConnectionError

    succeeded, ends = 0, []
    with policy.seeded(1):
        for _ in range(500):

            async def main() -> None:
                nonlocal succeeded
                with contextlib.suppress(ConnectionError, TimeoutError):
                    await policy(call)
                    succeeded += 1

            ends.append(seconds(main))
    assert max(ends) == 6.0
    assert 0.72 < succeeded / 500 < 0.76
    spread = [end for end in ends if end not in (1.0, 6.0)]
    assert len(set(spread)) > 0.98 * len(spread) > 200, "no two of them in step"


# -------------------------------------------------------------------------------------------------------------- pools


def test_fifty_hosts_share_fifty_connections_and_none_has_more_than_ten() -> None:
    open_by_host: Counter[int] = Counter()
    peaks: Counter[str] = Counter()

    async def connect(host: int) -> int:
        open_by_host[host] += 1  # it counts from here on: a connect in flight holds a socket
        peaks["all"] = max(peaks["all"], open_by_host.total())
        peaks["host"] = max(peaks["host"], open_by_host[host])
        await job(0.05)
        return host

    async def close(host: int) -> None:
        await job(0.01)
        open_by_host[host] -= 1

    async def main() -> None:
        async with loopwright.KeyedPool(connect, close=close, max_size=50, max_per_key=10) as pool:

            async def request(host: int) -> None:
                async with pool.acquire(host):
                    await job(0.1)

            busy = [request(0) for _ in range(200)]
            await asyncio.gather(*busy, *[request(host) for _ in range(20) for host in range(50)])

    testing.run(main)
    assert dict(peaks) == {"all": 50, "host": 10}
    assert open_by_host.total() == 0


# ----------------------------------------------------------------------------------------------------------- shutdown


def test_a_poll_every_minute_is_deaf_for_a_minute_and_ours_for_no_time() -> None:
    async def recipe() -> None:
        running = True

        async def service() -> None:
            while running:  # noqa: ASYNC110 (this is the recipe)
                await asyncio.sleep(60)

        task = asyncio.create_task(service())
        await asyncio.sleep(1)
        running = False
        await task

    async def ours() -> None:
        token = loopwright.CancelToken()

        async def service() -> None:
            while not await token.sleep(60):
                pass

        task = asyncio.create_task(service())
        await asyncio.sleep(1)
        token.cancel()
        await task

    assert (seconds(recipe), seconds(ours)) == (60.0, 1.0)


def test_a_cancelled_sleep_ends_within_three_steps_of_the_loop() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, testing.SimLoop)
        token = loopwright.CancelToken()
        task = asyncio.create_task(token.sleep(60))
        await asyncio.sleep(1)
        before = loop.steps
        token.cancel()
        assert await task
        return loop.steps - before

    assert testing.run(main) <= 3


async def _commits_for_a_minute() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await loopwright.finish(job(60))


def test_a_shutdown_bounded_by_five_seconds_takes_a_minute_by_the_recipe_and_five_seconds_by_ours() -> None:
    async def recipe() -> None:
        tasks = {asyncio.create_task(_commits_for_a_minute())}
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), timeout=5.0)

    async def ours() -> None:
        background = loopwright.Background()
        background.spawn(_commits_for_a_minute)
        await asyncio.sleep(0)
        left = await background.aclose(0)
        assert len(left) == 1

    assert (seconds(recipe), seconds(ours)) == (60.0, 5.0)


# --------------------------------------------------------------------------------------------------- turns of the loop


@pytest.mark.parametrize("make", [loopwright.Semaphore, loopwright.Lock])
def test_taking_what_is_free_needs_no_turn_of_the_loop(make: Callable[[], Any]) -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, testing.SimLoop)
        limiter = make()
        before = loop.steps
        for _ in range(1000):
            async with limiter:
                pass
        return loop.steps - before

    assert testing.run(main) == 0


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_an_eager_task_that_ends_at_once_needs_no_turn_of_the_loop() -> None:
    async def at_once() -> None:
        pass

    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, testing.SimLoop)
        steps = []
        for factory in (None, asyncio.eager_task_factory):  # type: ignore[attr-defined,unused-ignore]
            loop.set_task_factory(factory)
            before = loop.steps
            for task in [loop.create_task(at_once()) for _ in range(1000)]:
                if not task.done():
                    await task
            steps.append(loop.steps - before)
        return steps[0], steps[1]

    plain, eager = testing.run(main)
    assert plain >= 1000
    assert eager == 0


# -------------------------------------------------------------------------------------------------------------- table


def test_every_row_of_the_page_names_a_test_that_is_there() -> None:
    tests = Path(__file__).parent
    named = set(re.findall(r"`(test_\w+)`", (tests.parent / "docs" / "claims.md").read_text()))
    here = {name for name in globals() if name.startswith("test_")} - {
        "test_every_row_of_the_page_names_a_test_that_is_there"
    }
    assert here <= named
    elsewhere = "".join(path.read_text() for path in tests.glob("test_*.py"))
    assert [name for name in named - here if f"def {name}(" not in elsewhere] == []
