"""Pool: no connection lost, none dirty, none too many, nobody asleep."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.loops import Cell, run

from loopwright import Pool, PoolTimeout
from loopwright.testing import SimLoop


class Connection:
    """One that knows what was done to it."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.closed = self.aborted = False
        self.uses = self.resets = self.checks = 0
        self.dirty = False

    async def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def __repr__(self) -> str:
        return f"<c{self.number}>"


class Server:
    """Opens connections, and can be down, slow or gone."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.made: list[Connection] = []
        self.error: Exception | None = None
        self.attempts = 0
        self.gate: asyncio.Event | None = None

    async def connect(self) -> Connection:
        self.attempts += 1
        await asyncio.sleep(self.delay)
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.made.append(Connection(len(self.made) + 1))
        return self.made[-1]

    @property
    def open(self) -> int:
        return sum(not (c.closed or c.aborted) for c in self.made)


def simulate(main: Callable[[], Awaitable[Any]]) -> None:
    """Runs a test in virtual time."""
    with asyncio.Runner(loop_factory=SimLoop) as runner:

        async def enter() -> None:
            await main()

        runner.run(enter())


async def turns(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def check_books(pool: Pool[Any]) -> None:
    stats = pool.stats()
    assert stats.opened - stats.closed - stats.abandoned == stats.size


# ------------------------------------------------------------------------------------------------ acquire and release


def test_a_block_gets_a_connection_and_gives_it_back(cell: Cell) -> None:
    async def main() -> None:
        server = Server()
        async with Pool(server.connect, max_size=2) as pool:
            async with pool.acquire() as first:
                assert (pool.stats().in_use, pool.stats().idle) == (1, 0)
                async with pool.acquire() as second:
                    assert first is not second
            assert (pool.stats().in_use, pool.stats().idle) == (0, 2)
            async with pool.acquire() as again:
                assert again is first  # lifo: the one used last
        assert server.open == 0 and pool.stats().size == 0

    run(main, cell)


def test_what_is_awaited_is_given_back_by_hand(cell: Cell) -> None:
    async def main() -> None:
        async with Pool(Server().connect, max_size=1) as pool:
            connection = await pool.acquire()
            assert pool.try_acquire() is None
            pool.release(connection)
            assert pool.try_acquire() is connection
            pool.release(connection)
            with pytest.raises(ValueError, match="given back already"):
                pool.release(connection)
            with pytest.raises(ValueError, match="none of the pool's"):
                pool.release(Connection())

    run(main, cell)


def test_a_release_hands_over_in_the_same_turn_in_the_order_of_arrival(cell: Cell) -> None:
    async def main() -> None:
        async with Pool(Server().connect, max_size=1) as pool:
            order = []

            async def use(name: int) -> None:
                async with pool.acquire():
                    order.append(name)

            connection = await pool.acquire()
            tasks = [asyncio.create_task(use(name)) for name in range(5)]
            await turns()
            assert pool.stats().waiting == 5
            pool.release(connection)
            assert pool.stats().in_use == 1 and pool.stats().waiting == 4  # reserved at once
            assert pool.try_acquire() is None  # nobody barges
            await asyncio.gather(*tasks)
            assert order == [0, 1, 2, 3, 4]

    run(main, cell)


def test_cancelled_in_the_tick_of_the_hand_over_passes_the_connection_on(cell: Cell) -> None:
    async def main() -> None:
        async with Pool(Server().connect, max_size=1) as pool:
            connection = await pool.acquire()
            victim, heir = (asyncio.ensure_future(pool.acquire()) for _ in range(2))
            await turns()
            pool.release(connection)
            victim.cancel()
            with pytest.raises(asyncio.CancelledError):
                await victim
            assert await heir is connection
            pool.release(connection)
            check_books(pool)

    run(main, cell)


def test_a_connect_in_flight_belongs_to_the_pool_not_to_its_caller(cell: Cell) -> None:
    async def main() -> None:
        server = Server()
        server.gate = asyncio.Event()
        async with Pool(server.connect, max_size=1) as pool:
            first, second = (asyncio.ensure_future(pool.acquire()) for _ in range(2))
            await turns()
            first.cancel()
            await turns()
            server.gate.set()
            assert (await second).number == 1
            assert server.attempts == 1
            pool.release(server.made[0])

    run(main, cell)


def test_timeouts_say_in_which_phase_and_how_many_were_in_use() -> None:
    async def main() -> None:
        server = Server()
        async with Pool(server.connect, max_size=1, name="db", leak_after=60) as pool:
            async with pool.acquire():
                with pytest.raises(PoolTimeout) as caught:
                    await pool.acquire(timeout=3)
            assert (caught.value.phase, caught.value.in_use) == ("wait", 1)
            assert "Pool 'db'" in str(caught.value) and "max_size" in str(caught.value)
            assert "test_pool.py" in caught.value.holders[0]
            copy = pickle.loads(pickle.dumps(caught.value))
            assert (str(copy), copy.phase, copy.holders) == (
                str(caught.value),
                "wait",
                caught.value.holders,
            )
            server.gate = asyncio.Event()
            pool.discard(await pool.acquire())
            await turns()
            with pytest.raises(PoolTimeout) as caught:
                await pool.acquire(timeout=3)
            assert caught.value.phase == "connect"
            server.gate.set()

    simulate(main)
