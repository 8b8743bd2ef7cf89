"""KeyedPool with many keys, and with many users of one connection: single flight, fairness, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections import Counter
from typing import Any

import pytest
from support.cancels import EVERY_STEP, cancels, in_cell
from support.loops import PLAIN, Cell, parameters, run

from loopwright import KeyedPool
from loopwright.testing import Play, SimLoop, cancel_sweep, random_cancels


class Connection:
    def __init__(self, key: Any) -> None:
        self.key = key
        self.users = 0
        self.closed = False


def run_virtual(main: Any) -> None:
    with asyncio.Runner(loop_factory=SimLoop) as runner:
        runner.run(main())


# ------------------------------------------------------------------------------- one connection, many users


def test_cancelling_the_asker_who_connects_never_fails_the_others(cell: Cell) -> None:
    async def main() -> None:
        connects = 0

        async def connect(key: str) -> Connection:
            nonlocal connects
            connects += 1
            for _ in range(3):
                await asyncio.sleep(0)
            return Connection(key)

        async with KeyedPool(connect, max_size=5, max_per_key=1, sharing=True) as pool:

            async def ask() -> Connection:
                async with pool.acquire("a") as connection:
                    await asyncio.sleep(0)
                    return connection

            askers = [asyncio.create_task(ask()) for _ in range(10)]
            await asyncio.sleep(0)
            for victim in askers[:3]:
                victim.cancel()
            answers = await asyncio.gather(*askers[3:])
            assert len(set(map(id, answers))) == 1
            assert connects == 1
            assert all(victim.cancelled() for victim in askers[:3])

            # All who asked are cancelled: the connect goes on, and the next one has it.
            lonely = asyncio.create_task(pool.acquire("b").__aenter__())  # type: ignore[arg-type]
            await asyncio.sleep(0)
            lonely.cancel()
            async with pool.acquire("b") as connection:
                assert connection.key == "b"
            assert connects == 2

    run(main, cell)


async def shared(play: Play) -> None:  # noqa: PLR0915 (one story)
    """Askers of two keys share connections; one discards, a connect fails. Whoever is cancelled: one connect at a time
    for a key, nobody's connection is closed under him, and in the end all are closed."""
    connecting: Counter[str] = Counter()
    opened: list[Connection] = []
    failures = 0

    async def connect(key: str) -> Connection:
        nonlocal failures
        connecting[key] += 1
        assert connecting[key] == 1, "two connects for one key"
        try:
            await asyncio.sleep(0)
            play.step()
            if key == "b" and failures == 0:
                failures += 1
                raise OSError(key)
            connection = Connection(key)
            opened.append(connection)
            return connection
        finally:
            connecting[key] -= 1

    async def close(connection: Connection) -> None:
        assert connection.users == 0, "closed under a user"
        await asyncio.sleep(0)
        assert connection.users == 0, "handed out while it is closed"
        connection.closed = True

    pool = KeyedPool(connect, max_size=2, max_per_key=1, sharing=True, close=close)

    async def discards(key: str) -> None:
        connection = await pool.acquire(key)
        connection.users += 1
        try:
            await play.pause()
            assert not connection.closed
        finally:
            connection.users -= 1
            pool.discard(connection)

    async def ask(key: str) -> None:
        with contextlib.suppress(OSError):
            async with pool.acquire(key) as connection:
                assert not connection.closed
                connection.users += 1
                try:
                    await play.pause()
                    assert not connection.closed
                finally:
                    connection.users -= 1

    for n in range(2):
        play.spawn(ask("a"), name=f"a{n}")
    play.spawn(discards("a"), name="discards")
    for n in range(2):
        play.spawn(ask("b"), name=f"b{n}")
    await play.finished()
    stats = pool.stats()
    assert (stats.in_use, stats.waiting) == (0, 0)
    assert stats.opened - stats.closed - stats.abandoned == stats.size
    await pool.aclose()
    stats = pool.stats()
    assert (stats.size, stats.opening, stats.abandoned) == (0, 0, 0)
    assert len(opened) == stats.opened == stats.closed
    assert all(connection.closed for connection in opened)


@pytest.mark.parametrize("cell", parameters([PLAIN, Cell("uvloop")]))
def test_sweep(cell: Cell) -> None:
    assert cancel_sweep(shared, **EVERY_STEP, **in_cell(cell)).count("cancel") > 5


def test_random_cancels(cell: Cell) -> None:
    random_cancels(shared, cancels(cell=cell, share=0.04), **in_cell(cell))


# ------------------------------------------------------------------------------- many keys


@pytest.mark.parametrize("busy", [20, 200])
def test_a_busy_host_cannot_starve_the_others(busy: int) -> None:
    """Forty users of quiet hosts beside a crowd at one host, with room for four: nobody waits for the crowd's end."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        served: Counter[str] = Counter()
        longest: dict[str, float] = {}

        async def connect(key: str) -> Connection:
            await asyncio.sleep(0.01)
            return Connection(key)

        pool = KeyedPool(connect, max_size=4, max_per_key=4, close=lambda connection: None, timeout=1e6)
        stop = False

        async def crowd() -> None:
            while not stop:
                async with pool.acquire("busy"):
                    await asyncio.sleep(0.1)
                    served["busy"] += 1

        async def quiet(key: str) -> None:
            for _ in range(5):
                start = loop.time()
                async with pool.acquire(key) as connection:
                    assert connection.key == key
                    longest[key] = max(longest.get(key, 0.0), loop.time() - start)
                    await asyncio.sleep(0.01)
                    served[key] += 1
                await asyncio.sleep(1)

        crowds = [asyncio.create_task(crowd()) for _ in range(busy)]
        await asyncio.sleep(1)
        keys = [f"quiet{n}" for n in range(8)]
        await asyncio.gather(*(quiet(key) for key in keys))
        elapsed = loop.time()
        stop = True
        await asyncio.gather(*crowds)
        assert all(served[key] == 5 for key in keys)
        # Eight of them and the crowd share four places; each use of the crowd takes 0.1 s.
        assert max(longest.values()) < 2, longest
        assert served["busy"] > 5 * elapsed, "and the crowd was not starved either"
        await pool.aclose()

    run_virtual(main)


def test_the_waits_of_a_quiet_host_do_not_grow_with_the_crowd() -> None:
    async def waits(busy: int) -> float:
        loop = asyncio.get_running_loop()
        pool = KeyedPool(Connection, max_size=2, max_per_key=2, close=lambda connection: None, timeout=1e6)

        async def crowd() -> None:
            async with pool.acquire("busy"):
                await asyncio.sleep(0.1)

        crowds = [asyncio.create_task(crowd()) for _ in range(busy)]
        await asyncio.sleep(0.05)
        start = loop.time()
        async with pool.acquire("quiet"):
            waited = loop.time() - start
        await asyncio.gather(*crowds)
        await pool.aclose()
        return waited

    async def main() -> None:
        assert await waits(1_000) == pytest.approx(await waits(10), abs=0.11)

    run_virtual(main)


KEYS = 1_000_000 if os.environ.get("LOOPWRIGHT_STRESS") == "1" else 100_000


@pytest.mark.default_only
@pytest.mark.timeout(600)
@pytest.mark.parametrize("sharing", [False, True])
def test_a_million_keys_leave_nothing_behind(sharing: bool) -> None:
    """A hundred thousand in an ordinary run. Keys with connections are as many as connections; of the rest nothing is
    left, neither in the pool nor in the process."""

    def rss() -> int:
        try:
            with open("/proc/self/statm") as statm:
                return int(statm.read().split()[1]) * 4096
        except OSError:
            pytest.skip("/proc/self/statm is Linux")

    async def main() -> None:
        pool = KeyedPool(Connection, max_size=50, max_per_key=2, sharing=sharing, close=lambda connection: None)

        async def visit(first: int, n: int) -> None:
            for key in range(first, first + n):
                async with pool.acquire(key) as connection:
                    assert connection.key == key

        async def crowd(first: int, n: int) -> None:
            await asyncio.gather(*(visit(first + start, n // 100) for start in range(0, n, n // 100)))

        await crowd(0, KEYS // 5)
        gc.collect()
        objects, memory = len(gc.get_objects()), rss()
        for part in range(1, 5):
            await crowd(part * KEYS // 5, KEYS // 5)
        gc.collect()
        stats = pool.stats()
        assert (stats.acquired, stats.in_use, stats.waiting) == (KEYS, 0, 0)
        assert stats.keys <= stats.size <= 50
        assert len(gc.get_objects()) - objects < 200
        assert rss() - memory < 4 * 2**20
        await pool.aclose()
        assert pool.stats().keys == 0

    run(main)
