"""check_idle: what has died is found before anybody needs it, and no host that is slow to answer delays another."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.cancels import EVERY_STEP, in_cell
from support.loops import PLAIN, Cell, parameters, run

from loopwright import KeyedPool, Pool
from loopwright.testing import Play, SimLoop, cancel_sweep


class Connection:
    def __init__(self, host: str = "host") -> None:
        self.host = host
        self.alive = True
        self.closed = False
        self.checks = 0

    async def check(self) -> bool:
        self.checks += 1
        await asyncio.sleep(1e6 if "silent" in self.host else 0.1)
        return self.alive

    async def close(self) -> None:
        self.closed = True


def run_virtual(main: Any) -> None:
    with asyncio.Runner(loop_factory=SimLoop) as runner:
        runner.run(main())


def pool_of(**settings: Any) -> KeyedPool[str, Connection]:
    defaults = {"max_size": 100, "max_per_key": 2, "check": Connection.check, "check_after": 1e6, "hook_timeout": 5}
    return KeyedPool(Connection, **(defaults | settings))


@pytest.mark.parametrize("sharing", [False, True])
def test_the_dead_are_closed_and_no_host_delays_another(sharing: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        pool = pool_of(sharing=sharing)
        hosts = [f"host{n}" for n in range(50)]
        opened: dict[str, Connection] = {}

        async def remember(connection: Connection) -> None:
            opened[connection.host] = connection

        await pool.broadcast(hosts, remember)
        for host in hosts[:20]:
            opened[host].alive = False
        start = loop.time()
        assert await pool.check_idle() == 20
        assert loop.time() - start == pytest.approx(0.1), "one after the other"
        assert [connection.closed for connection in opened.values()] == [True] * 20 + [False] * 30
        assert pool.stats().check_failures == 20

        await pool.broadcast(["silent"], remember)
        start = loop.time()
        checking = asyncio.create_task(pool.check_idle())
        await asyncio.sleep(0.2)
        assert pool.stats().idle == 30, "those that have answered wait for the silent one"
        async with pool.acquire("host30"):
            pass
        assert await checking == 1
        assert loop.time() - start == pytest.approx(5)
        stats = pool.stats()
        assert (stats.abandoned, stats.size) == (1, 30)
        await pool.aclose()

    run_virtual(main)


def test_those_in_use_are_left_alone_and_who_comes_meanwhile_is_served(cell: Cell) -> None:
    async def main() -> None:
        async def check(connection: Connection) -> None:
            connection.checks += 1
            await asyncio.sleep(0)

        async with Pool(Connection, max_size=2, check=check, check_after=1e6) as pool:
            async with pool.acquire() as used:
                async with pool.acquire() as other:
                    pass
                checking = asyncio.create_task(pool.check_idle())
                await asyncio.sleep(0)
                async with pool.acquire() as mine:
                    assert mine is other
                assert await checking == 0
            assert (used.checks, other.checks) == (0, 1)

    run(main, cell)


def test_a_check_is_no_use() -> None:
    """Checked every minute, unused for ten: it goes when its time to be idle is over."""

    async def main() -> None:
        pool = pool_of(max_idle=600)
        async with pool.acquire("a") as connection:
            pass
        for _ in range(9):
            await asyncio.sleep(60)
            assert await pool.check_idle() == 0
        assert (connection.checks, connection.closed) == (9, False)
        await asyncio.sleep(61)
        assert connection.closed
        await pool.aclose()

    run_virtual(main)


def test_plain_functions_check_too_and_an_empty_pool_has_nothing_to_check() -> None:
    async def main() -> None:
        async with Pool(Connection, max_size=3, check=lambda connection: connection.alive) as pool:
            assert await pool.check_idle() == 0
            connections = [await pool.acquire() for _ in range(3)]
            for connection in connections:
                pool.release(connection)
            connections[1].alive = False
            assert await pool.check_idle() == 1
            assert pool.stats().idle == 2
        async with Pool(Connection, name="db") as pool:
            with pytest.raises(RuntimeError, match=r"Pool 'db'.check_idle: .* pass Pool\(check=...\)"):
                await pool.check_idle()

    run(main)


async def scenario(play: Play) -> None:
    """Two who check, two who use: whoever is cancelled, the books are right and all is closed in the end."""
    opened: list[Connection] = []

    def connect() -> Connection:
        opened.append(Connection())
        return opened[-1]

    async def check(connection: Connection) -> bool:
        assert not connection.closed
        await asyncio.sleep(0)
        play.step()
        return connection is not opened[0]

    pool = Pool(connect, max_size=2, check=check, check_after=1e6)

    async def use() -> None:
        async with pool.acquire() as connection:
            assert not connection.closed
            await play.pause()
            assert not connection.closed

    async def sweep() -> None:
        await play.pause()
        await pool.check_idle()

    for n in range(2):
        play.spawn(use(), name=f"user{n}")
        play.spawn(sweep(), name=f"sweep{n}")
    await play.finished()
    await pool.check_idle()
    await use()
    await pool.aclose()
    stats = pool.stats()
    assert (stats.size, stats.opening, stats.in_use, stats.abandoned) == (0, 0, 0, 0)
    assert all(connection.closed for connection in opened)


@pytest.mark.parametrize("cell", parameters([PLAIN, Cell("uvloop")]))
def test_sweep(cell: Cell) -> None:
    assert cancel_sweep(scenario, **EVERY_STEP, **in_cell(cell)).count("cancel") > 5
