"""loopwright.compat: asyncio-connection-pool's interface, its own test suite, and none of the five ways to break it."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from support import requires
from support.cancels import EVERY_STEP, cancels, in_cell
from support.loops import Cell

from loopwright import PoolTimeout
from loopwright.compat import ConnectionPool, ConnectionStrategy
from loopwright.testing import Deadlock, Play, cancel_sweep, random_cancels, run

RELEASE = "1.1.1"


class Connection:
    """Something to be opened and closed."""

    closed = False


class Strategy(ConnectionStrategy[Connection]):
    """Connecting takes a turn of the loop, and fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.opened: list[Connection] = []
        self.at_open: Callable[[], object] = lambda: None

    async def make_connection(self) -> Connection:
        await asyncio.sleep(0)
        self.at_open()
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the server says no")
        self.opened.append(Connection())
        return self.opened[-1]

    def connection_is_closed(self, conn: Connection) -> bool:
        return conn.closed

    async def close_connection(self, conn: Connection) -> None:
        assert not conn.closed, "closed twice"
        conn.closed = True
        await asyncio.sleep(0)

    def alive(self) -> int:
        return sum(not conn.closed for conn in self.opened)


async def turns(n: int) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


# ------------------------------------------------------------------------ the five failures of asyncio-connection-pool

MakePool = Callable[..., Any]


async def client(pool: Any) -> None:
    async with pool.get_connection():
        await asyncio.sleep(0)


async def cancelled_when_it_has_just_asked(make: MakePool, turn: int = 1) -> None:
    """A client is cancelled so many turns after it started; the next one wants the connection."""
    pool = make(strategy=Strategy(), max_size=1)
    first = asyncio.create_task(client(pool))
    await turns(turn)
    first.cancel()
    await asyncio.wait([first])
    await client(pool)
    assert (pool.in_use, pool.currently_allocating) == (0, 0)


async def cancelled_when_the_connection_is_ready(make: MakePool, turn: int = 0) -> None:
    """The cancel comes when the connect is over and its client has not run yet."""
    strategy = Strategy()
    pool = make(strategy=strategy, max_size=1)
    first = asyncio.create_task(client(pool))

    def cancel_soon(left: int) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(cancel_soon, left - 1) if left else loop.call_soon(first.cancel)

    strategy.at_open = lambda: cancel_soon(turn)
    await asyncio.wait([first])
    strategy.at_open = lambda: None
    await client(pool)
    assert (pool.in_use, pool.currently_allocating) == (0, 0)


async def cancelled_when_it_is_handed_over(make: MakePool, turn: int = 0) -> None:
    """The connection was given back to a waiter that is cancelled before it runs."""
    pool = make(strategy=Strategy(), max_size=1)
    done = asyncio.Event()

    async def holder() -> None:
        async with pool.get_connection():
            await done.wait()

    holding = asyncio.create_task(holder())
    await turns(5)
    waiting = asyncio.create_task(client(pool))
    await turns(5)
    done.set()
    await holding  # the connection is back by now
    await turns(turn)
    waiting.cancel()
    await asyncio.wait([waiting])
    await client(pool)
    assert (pool.in_use, pool.currently_allocating) == (0, 0)


async def connect_fails_before_a_waiter(make: MakePool, _turn: int = 0) -> None:
    """A connect fails; somebody stands in line behind the client that it was made for."""
    pool = make(strategy=Strategy(failures=1), max_size=1)
    ends = await asyncio.gather(client(pool), client(pool), return_exceptions=True)
    assert isinstance(ends[0], ConnectionError)
    await client(pool)


async def releaser_takes_again(make: MakePool, _turn: int = 0) -> None:
    """Whoever gives a connection back and asks again stands behind those who wait already."""
    pool = make(strategy=Strategy(), max_size=1)
    order: list[str] = []
    lined_up = asyncio.Event()

    async def releaser() -> None:
        async with pool.get_connection():
            await lined_up.wait()
        async with pool.get_connection():
            order.append("releaser")

    async def waiter() -> None:
        async with pool.get_connection():
            order.append("waiter")

    first = asyncio.create_task(releaser())
    await turns(5)
    second = asyncio.create_task(waiter())
    await turns(5)
    lined_up.set()
    await asyncio.gather(first, second)
    assert order == ["waiter", "releaser"]


FAILURES: dict[Callable[..., Awaitable[None]], type[BaseException]] = {
    cancelled_when_it_has_just_asked: Deadlock,
    cancelled_when_the_connection_is_ready: Deadlock,
    cancelled_when_it_is_handed_over: Deadlock,
    connect_fails_before_a_waiter: Deadlock,
    releaser_takes_again: AssertionError,
}
"""What breaks that library, and how that is seen: nobody can go on, or the order is wrong."""

each_failure = pytest.mark.parametrize("scenario", FAILURES, ids=lambda scenario: scenario.__name__)


@each_failure
def test_asyncio_connection_pool_fails(scenario: Callable[..., Any]) -> None:
    """Else the page that says so is out of date."""
    library = requires.module("asyncio_connection_pool")
    with pytest.raises(FAILURES[scenario]):
        run(lambda: scenario(library.ConnectionPool))


@each_failure
@pytest.mark.parametrize("turn", range(10))
def test_ours_does_not(scenario: Callable[..., Any], turn: int) -> None:
    """At no turn at which the cancel may come."""
    run(lambda: scenario(ConnectionPool, turn))


def test_every_cancel_keeps_the_connection(cell: Cell) -> None:
    """The whole of it: a cancel at every step of two clients of one connection."""

    async def two_clients(play: Play) -> None:
        strategy = Strategy()
        pool = ConnectionPool(strategy=strategy, max_size=1)
        play.spawn(client(pool), name="first")
        play.spawn(client(pool), name="second")
        await play.finished()
        await client(pool)
        await turns(5)  # what a cancel has spoilt is closed by the pool
        assert (pool.in_use, pool.currently_allocating, pool.currently_deallocating) == (0, 0, 0)
        assert strategy.alive() == pool.available.qsize() == 1
        await pool.pool.aclose()
        assert strategy.alive() == 0

    cancel_sweep(two_clients, **EVERY_STEP, **in_cell(cell))


def test_random_cancels_exceed_no_limit() -> None:
    """Six clients of two connections and one more in a burst: never more than three, and all of them accounted for."""

    async def crowd(play: Play) -> None:
        strategy = Strategy()
        pool = ConnectionPool(strategy=strategy, max_size=2, burst_limit=3)

        async def use() -> None:
            for _ in range(3):
                await client(pool)
                assert strategy.alive() <= 3

        for _ in range(6):
            play.spawn(use())
        await play.finished()
        await turns(10)
        assert pool.in_use == pool.currently_allocating == pool.currently_deallocating == 0
        assert strategy.alive() == pool.available.qsize() <= 2
        await pool.pool.aclose()

    random_cancels(crowd, cancels=cancels(share=0.05))


# --------------------------------------------------------------------------------------------------- the interface


def test_burst_limit_is_absolute_and_may_be_set_at_any_time() -> None:
    async def main() -> None:
        strategy = Strategy()
        pool = ConnectionPool(strategy=strategy, max_size=2, burst_limit=3, timeout=1)
        holders = [pool.get_connection() for _ in range(4)]
        for holder in holders[:3]:
            await holder.__aenter__()
        with pytest.raises(PoolTimeout):
            await holders[3].__aenter__()
        pool.burst_limit = 4
        another = pool.get_connection()
        await another.__aenter__()
        assert (pool.in_use, strategy.alive()) == (4, 4)
        for holder in (another, *holders[:3]):
            await holder.__aexit__(None, None, None)
        await turns(5)
        assert (pool.in_use, pool.available.qsize(), strategy.alive()) == (0, 2, 2)
        assert pool.available.full() and not pool.available.empty()
        await pool.pool.aclose()

    run(main)


@pytest.mark.parametrize("set_later", [False, True])
def test_a_burst_limit_below_max_size_says_so_in_the_library_s_words(set_later: bool) -> None:
    message = "burst_limit must be greater than or equal to max_size"
    if not set_later:
        with pytest.raises(ValueError, match=message):
            ConnectionPool(strategy=Strategy(), max_size=10, burst_limit=9)
        return
    pool = ConnectionPool(strategy=Strategy(), max_size=10, burst_limit=20)
    with pytest.raises(ValueError, match=message):
        pool.burst_limit = 9
    with pytest.raises(ValueError, match=message):
        pool.max_size = 21
    assert (pool.max_size, pool.burst_limit) == (10, 20)


def test_max_size_may_be_set_and_the_limit_stays() -> None:
    async def main() -> None:
        pool = ConnectionPool(strategy=Strategy(), max_size=1, burst_limit=3)
        pool.max_size = 3
        async with pool.get_connection(), pool.get_connection(), pool.get_connection():
            assert pool.in_use == 3
        await turns(3)
        assert pool.available.qsize() == 3  # none of them is surplus any more
        await pool.pool.aclose()

    run(main)


def test_the_guides_name_for_make_connection_will_do() -> None:
    class Guides(ConnectionStrategy[Connection]):
        async def create_connection(self) -> Connection:
            return Connection()

        def connection_is_closed(self, conn: Connection) -> bool:
            return conn.closed

        def close_connection(self, conn: Connection) -> None:
            conn.closed = True

    class Unrelated:  # an object with the three methods is a strategy
        create_connection = Guides.create_connection
        connection_is_closed = Guides.connection_is_closed
        close_connection = Guides.close_connection

    async def main(strategy: Any) -> None:
        pool = ConnectionPool(strategy=strategy, max_size=1)
        async with pool.get_connection() as conn:
            assert not conn.closed
        await pool.pool.aclose()
        assert conn.closed

    run(lambda: main(Guides()))
    run(lambda: main(Unrelated()))


def test_a_strategy_that_lacks_a_method_cannot_be_made() -> None:
    class Incomplete(ConnectionStrategy[Connection]):
        def connection_is_closed(self, conn: Connection) -> bool:
            return False

    with pytest.raises(TypeError, match="abstract"):
        Incomplete()  # type: ignore[abstract]


def test_a_connection_that_died_while_idle_is_replaced() -> None:
    async def main() -> None:
        strategy = Strategy()
        pool = ConnectionPool(strategy=strategy, max_size=1)
        async with pool.get_connection() as first:
            pass
        first.closed = True
        strategy.close_connection = lambda conn: None  # type: ignore[assignment,method-assign,return-value]
        async with pool.get_connection() as second:
            assert second is not first
        await pool.pool.aclose()

    run(main)


def test_a_connection_that_a_cancel_went_through_is_not_used_again() -> None:
    """That library hands it on, in the middle of whatever it was doing."""

    async def main() -> None:
        strategy = Strategy()
        pool = ConnectionPool(strategy=strategy, max_size=1)

        async def victim() -> None:
            async with pool.get_connection():
                await asyncio.sleep(1)

        task = asyncio.create_task(victim())
        await turns(5)
        task.cancel()
        await asyncio.wait([task])
        async with pool.get_connection() as conn:
            assert conn is not strategy.opened[0]
        await pool.pool.aclose()
        assert strategy.alive() == 0

    run(main)


# ------------------------------------------------------------------------------------ asyncio-connection-pool's suite

EXCLUDED: dict[str, str] = {}
"""Tests of that suite that cannot hold for us, and why: none."""
LEAST = 11
"""How many tests there are."""

PACKAGE = "from loopwright.compat import ConnectionPool as ConnectionPool, ConnectionStrategy as ConnectionStrategy\n"
# What contrib.datadog, which is that library's own and runs unmodified on our pool, reports to.
METRICS = {
    "datadog/__init__.py": "",
    "datadog/dogstatsd/__init__.py": "",
    "datadog/dogstatsd/base.py": "from unittest.mock import Mock\n\nstatsd = Mock()\n",
    "ddtrace/__init__.py": "",
    "ddtrace/trace.py": "from unittest.mock import MagicMock\n\ntracer = MagicMock()\n",
}


@pytest.mark.default_only
@pytest.mark.timeout(300)
def test_its_own_suite_passes(tmp_path: Path) -> None:
    """As it was released; only what `import asyncio_connection_pool` finds is ours."""
    requires.module("pytest_asyncio")
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    if subprocess.run([*download, f"asyncio-connection-pool=={RELEASE}"], cwd=tmp_path, check=False).returncode:
        requires.missing(f"the source of asyncio-connection-pool {RELEASE} from the package registry")
    with tarfile.open(tmp_path / f"asyncio_connection_pool-{RELEASE}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    source = tmp_path / f"asyncio_connection_pool-{RELEASE}"
    (source / "asyncio_connection_pool" / "__init__.py").write_text(PACKAGE)
    for name, text in METRICS.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    deselected = [argument for name in EXCLUDED for argument in ("--deselect", f"test/test_pool.py::{name}")]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-c/dev/null",
            "--rootdir=.",
            "-ppytest_asyncio.plugin",
            *deselected,
            "test",
        ],
        cwd=source,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")]),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_ADDOPTS": "",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.search(r"(\d+) passed", done.stdout)
    assert ran and int(ran[1]) == LEAST - len(EXCLUDED), done.stdout
