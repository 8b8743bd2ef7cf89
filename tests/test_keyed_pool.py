"""KeyedPool: what Pool promises, for many keys under one cap; and shared connections."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.loops import Cell, run

from loopwright import KeyedPool, PoolTimeout
from loopwright.testing import SimLoop


class Connection:
    def __init__(self, key: object) -> None:
        self.key = key
        self.closed = False
        self.users = 0

    async def close(self) -> None:
        assert not self.closed and not self.users, "closed twice, or under a user"
        self.closed = True


class Hosts:
    """Opens connections and watches the caps."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.made: list[Connection] = []
        self.connects: Counter[object] = Counter()
        self.error: Exception | None = None

    async def connect(self, key: object) -> Connection:
        self.connects[key] += 1
        await asyncio.sleep(self.delay)
        if self.error is not None:
            raise self.error
        self.made.append(Connection(key))
        return self.made[-1]

    def open(self, key: object = None) -> int:
        return sum(not c.closed and (key is None or c.key == key) for c in self.made)


def simulate(main: Callable[[], Awaitable[Any]]) -> None:
    """Runs a test in virtual time."""
    with asyncio.Runner(loop_factory=SimLoop) as runner:

        async def enter() -> None:
            await main()

        runner.run(enter())


async def turns(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def test_a_key_gets_its_own_connections_and_has_them_again(cell: Cell) -> None:
    async def main() -> None:
        hosts = Hosts()
        async with KeyedPool(hosts.connect, max_size=10, max_per_key=2) as pool:
            for key in ("a", ("b", 5432), 3, "a"):
                async with pool.acquire(key) as connection:
                    assert connection.key == key
            assert hosts.connects == {"a": 1, ("b", 5432): 1, 3: 1}
            assert pool.try_acquire("z") is None
            again = pool.try_acquire("a")
            assert again is hosts.made[0]
            pool.release(again)
            with pytest.raises(TypeError, match="unhashable"):
                await pool.acquire([])
            assert pool.stats().keys == 3

    run(main, cell)


def test_neither_cap_is_ever_exceeded() -> None:
    async def main() -> None:
        hosts = Hosts(delay=0.01)
        draw = random.Random(5)
        async with KeyedPool(hosts.connect, max_size=6, max_per_key=2) as pool:

            async def use() -> None:
                for _ in range(20):
                    async with pool.acquire(key := draw.randrange(5)):
                        assert hosts.open() <= 6 and hosts.open(key) <= 2
                        await asyncio.sleep(draw.random())

            await asyncio.gather(*(use() for _ in range(20)))
            stats = pool.stats()
            assert stats.acquired == 400 and stats.opened - stats.closed - stats.abandoned == stats.size <= 6

    simulate(main)


def test_an_idle_connection_of_a_quiet_key_makes_room_the_one_unused_longest_first() -> None:
    async def main() -> None:
        hosts = Hosts()
        async with KeyedPool(hosts.connect, max_size=3, max_per_key=3) as pool:
            for key in "abca":  # b is now the one unused longest
                async with pool.acquire(key):
                    await asyncio.sleep(1)
            async with pool.acquire("d"):
                assert [hosts.open(key) for key in "abcd"] == [1, 0, 1, 1]
            assert pool.stats().evicted == 1

    simulate(main)


def test_a_hot_key_cannot_starve_the_others() -> None:
    async def main() -> None:
        hosts = Hosts()
        served: dict[str, int] = defaultdict(int)
        async with KeyedPool(hosts.connect, max_size=2, max_per_key=2, timeout=1e6) as pool:

            async def use(key: str) -> None:
                async with pool.acquire(key):
                    await asyncio.sleep(1)
                    served[key] += 1

            crowd = [asyncio.create_task(use("hot")) for _ in range(200)]
            await asyncio.sleep(0.5)
            quiet = [asyncio.create_task(use(f"quiet{n}")) for n in range(3)]
            await asyncio.gather(*quiet)
            assert served["hot"] <= 10  # they were not behind the crowd
            await asyncio.gather(*crowd)

    simulate(main)


def test_keys_are_forgotten_when_idle() -> None:
    async def main() -> None:
        hosts = Hosts()
        async with KeyedPool(hosts.connect, max_size=10, max_per_key=1, max_idle=5) as pool:
            for n in range(3000):
                async with pool.acquire(n):
                    pass
            await turns(20)
            assert pool.stats().keys <= 10
            await asyncio.sleep(6)
            await turns()
            assert pool.stats().keys == 0 and pool.stats().size == 0

    simulate(main)


@pytest.mark.default_only
def test_a_million_distinct_keys_leave_no_memory_behind() -> None:
    """Twenty thousand of them, but for ``make stress``."""

    class Bare:
        __slots__ = ()

    async def main() -> None:
        many = 1_000_000 if os.environ.get("LOOPWRIGHT_STRESS") == "1" else 20_000
        pool = KeyedPool(lambda key: Bare(), max_size=100, max_per_key=1, close=lambda c: None)
        async with pool:
            before = 0
            for n in range(many):
                async with pool.acquire(n):
                    pass
                if n in (many // 10, many - 1):
                    gc.collect()
                    size = len(gc.get_objects())
                    assert n < many // 2 or size < before + 2000
                    before = size
            assert pool.stats().keys <= 100

    run(main)


def test_sharing_opens_one_connection_for_a_key_whoever_asks(cell: Cell) -> None:
    async def main() -> None:
        hosts = Hosts(delay=0.001)
        async with KeyedPool(hosts.connect, max_size=10, max_per_key=5, sharing=True) as pool:

            async def use(key: str) -> Connection:
                async with pool.acquire(key) as connection:
                    await asyncio.sleep(0.001)
                    return connection

            got = await asyncio.gather(*(use(key) for key in "ab" * 50))
            assert len({id(c) for c in got}) == 2 and hosts.connects == {"a": 1, "b": 1}

    run(main, cell)


def test_cancelling_one_of_those_who_share_a_connect_never_fails_the_others() -> None:
    async def main() -> None:
        hosts = Hosts(delay=1)
        async with KeyedPool(hosts.connect, max_size=1, max_per_key=1, sharing=True) as pool:
            tasks = [asyncio.ensure_future(pool.acquire("a")) for _ in range(5)]
            await asyncio.sleep(0.5)
            tasks[0].cancel()
            tasks[3].cancel()
            got = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(c, Connection) for c in got] == [False, True, True, False, True]
            assert hosts.connects["a"] == 1
            for connection in got:
                if isinstance(connection, Connection):
                    pool.release(connection)
            with pytest.raises(ValueError, match="given back already"):
                pool.release(hosts.made[0])

    simulate(main)


def test_a_shared_connection_is_never_closed_under_a_user_and_idles_from_the_last_release_on() -> None:
    async def main() -> None:
        hosts = Hosts()
        async with KeyedPool(hosts.connect, max_size=2, max_per_key=2, sharing=True, max_idle=10) as pool:
            async with pool.acquire("a") as first:
                async with pool.acquire("a") as same:
                    assert same is first
                await asyncio.sleep(100)  # in use all the time
                assert not first.closed
            await asyncio.sleep(9)
            assert not first.closed
            await asyncio.sleep(2)
            assert first.closed
            async with pool.acquire("a") as second:
                other = await pool.acquire("a")
                pool.discard(other)
                await turns()
                assert not second.closed
                async with pool.acquire("a") as third:
                    assert third is not second  # replaced for newcomers
            await turns()
            assert second.closed and not third.closed

    simulate(main)


def test_a_shared_connection_that_is_discarded_in_a_block_is_closed_when_the_last_block_ends() -> None:
    async def main() -> None:
        hosts = Hosts()
        async with KeyedPool(hosts.connect, max_size=2, max_per_key=2, sharing=True) as pool:
            async with pool.acquire("a") as first:
                async with pool.acquire("a") as same:
                    pool.discard(same)
                    pool.discard(same)  # both blocks may say so
                    async with pool.acquire("a") as fresh:
                        assert fresh is not first
                await turns()
                assert not first.closed
            await turns()
            assert first.closed and not fresh.closed
            with pytest.raises(ValueError, match="none of the pool's"):
                pool.discard(first)

    simulate(main)


def test_max_shares_is_how_many_have_it_at_a_time() -> None:
    async def main() -> None:
        hosts = Hosts()
        pool = KeyedPool(hosts.connect, max_size=10, max_per_key=2, sharing=True, max_shares=3, timeout=1)
        async with pool, contextlib.AsyncExitStack() as stack:
            for _ in range(6):
                await stack.enter_async_context(pool.acquire("a"))
            assert hosts.connects["a"] == 2
            with pytest.raises(PoolTimeout):
                await pool.acquire("a")

    simulate(main)


def test_a_shared_connection_that_fails_its_check_is_replaced() -> None:
    async def main() -> None:
        hosts = Hosts()
        down: set[Connection] = set()

        async def check(connection: Connection) -> bool:
            return connection not in down

        pool = KeyedPool(hosts.connect, max_size=2, max_per_key=1, sharing=True, check=check)
        async with pool:
            async with pool.acquire("a") as first:
                pass
            await asyncio.sleep(5)
            down.add(first)
            async with pool.acquire("a") as second:
                assert second is not first and first.closed

    simulate(main)


def test_connect_may_give_a_strategy_for_each_key() -> None:
    class Strategy:
        def __init__(self, key: str) -> None:
            self.key = key

        async def create_connection(self) -> Connection:
            return Connection(self.key)

        async def connection_is_closed(self, connection: Connection) -> bool:
            return connection.closed

        async def close_connection(self, connection: Connection) -> None:
            closed.append(self.key)

    closed: list[str] = []

    async def main() -> None:
        async with KeyedPool(Strategy, max_size=2, max_per_key=1) as pool:
            for key in "aab":
                async with pool.acquire(key) as connection:
                    assert connection.key == key
        assert sorted(closed) == ["a", "b"]

    run(main)


def test_a_key_that_cannot_be_connected_does_not_disturb_the_others() -> None:
    async def main() -> None:
        async def connect(key: str) -> Connection:
            if key == "down":
                raise ConnectionRefusedError(key)
            return Connection(key)

        async with KeyedPool(connect, max_size=2, max_per_key=1) as pool:
            results = await asyncio.gather(*(pool.acquire("down") for _ in range(10)), return_exceptions=True)
            assert all(isinstance(result, ConnectionRefusedError) for result in results)
            async with pool.acquire("up") as connection:
                assert connection.key == "up"
            await asyncio.sleep(60)
            async with pool.acquire("up"):
                pass
            assert pool.stats().keys == 1  # forgotten, once its back-off is over

    simulate(main)


def test_events_name_the_key() -> None:
    async def main() -> None:
        events: list[tuple[str, object]] = []
        pool = KeyedPool(
            Hosts().connect, max_size=1, max_per_key=1, on_event=lambda event: events.append((event.kind, event.key))
        )
        async with pool:
            for key in "ab":
                async with pool.acquire(key):
                    pass
        assert events == [("opened", "a"), ("closed", "a"), ("opened", "b"), ("closed", "b")]

    run(main)


def test_arguments_that_do_not_go_together_are_named() -> None:
    hosts = Hosts()
    with pytest.raises(ValueError, match="sharing=True"):
        KeyedPool(hosts.connect, max_size=1, max_per_key=1, max_shares=3)
    with pytest.raises(ValueError, match="reset"):
        KeyedPool(hosts.connect, max_size=1, max_per_key=1, sharing=True, reset=lambda c: None)
    with pytest.raises(ValueError, match="max_per_key"):
        KeyedPool(hosts.connect, max_size=1, max_per_key=0)
