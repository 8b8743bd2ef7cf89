"""Pools against their peers. ``python benches/bench_pool.py [FILE.json]``

What costs time in a pool is measured on simulated connections, where nothing else does. The rows that say PostgreSQL or
Redis are on servers of their own on loopback (``tests/support/servers.py``). Like is compared with like: the same
number of connections, and where a pool resets or checks, ours does the same by the same means.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import importlib
import math
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path += [str(Path(__file__).resolve().parent.parent / place) for place in ("tests", "tools")]

from harness import Case, Row, compare, compare_here, loops, percentile, rated, save

from loopwright import KeyedPool, Pool, Semaphore, compat

SIZE = 10
"""Connections."""
TASKS = 200
KEYS = 100_000


def peer(name: str) -> Any:
    """A library, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


acp, asyncpg, psycopg, psycopg_pool, redis, sqlalchemy = map(
    peer, ("asyncio_connection_pool", "asyncpg", "psycopg", "psycopg_pool", "redis.asyncio", "sqlalchemy.ext.asyncio")
)


class Connection:
    """A connection that does nothing, at no cost."""


async def connect(_key: object = None) -> Connection:
    return Connection()


async def close(_connection: Connection) -> None:
    pass


def strategy(base: Any) -> Any:
    class Strategy(base):  # type: ignore[misc]
        async def make_connection(self) -> Connection:
            return Connection()

        def connection_is_closed(self, conn: Connection) -> bool:
            return False

        async def close_connection(self, conn: Connection) -> None:
            pass

    return Strategy()


class Reference:
    """The pool that everybody writes once: a deque of idle connections behind a semaphore."""

    def __init__(self, size: int) -> None:
        self.free = asyncio.Semaphore(size)
        self.idle: collections.deque[Connection] = collections.deque()

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        async with self.free:
            conn = self.idle.pop() if self.idle else await connect()
            try:
                yield conn
            finally:
                self.idle.append(conn)


# How a connection is got and given back

Get = Callable[[Any], Callable[[], Any]]
"""From a pool to the method whose result is entered."""


def blocks(get: Get, make: Callable[[], Any]) -> Case:
    """``async with get(pool)()``."""

    async def case(n: int) -> None:
        pool = make()
        acquire = get(pool)
        for _ in range(n):
            async with acquire():
                pass

    return case


def awaited(make: Callable[[], Any]) -> Case:
    async def case(n: int) -> None:
        pool = make()
        for _ in range(n):
            pool.release(await pool.acquire())

    return case


def tried(make: Callable[[], Any]) -> Case:
    async def case(n: int) -> None:
        pool = make()
        async with pool.acquire():
            pass
        for _ in range(n):
            pool.release(pool.try_acquire())

    return case


def contended(get: Get, make: Callable[[], Any], tasks: int = 100) -> Case:
    async def case(n: int) -> None:
        acquire = get(make())

        async def worker() -> None:
            for _ in range(n // tasks):
                async with acquire():
                    await asyncio.sleep(0)

        await asyncio.gather(*(worker() for _ in range(tasks)))

    return case


def queued(get: Get, make: Callable[[], Any], waiters: int) -> Case:
    """So many waiters behind one connection, and each of them is served."""

    async def case(n: int) -> None:
        acquire = get(make())

        async def waiter() -> None:
            async with acquire():
                pass

        for _ in range(n // waiters or 1):
            async with acquire():
                served = [asyncio.ensure_future(waiter()) for _ in range(waiters)]
                await asyncio.sleep(0)
            await asyncio.gather(*served)

    return case


def over_keys(pool: Callable[[], KeyedPool[int, Connection]], keys: int) -> Case:
    """Every acquire is of another key, in no order that a cache would like."""
    order = list(range(keys))
    random.Random(1).shuffle(order)

    made: list[KeyedPool[int, Connection]] = []

    async def case(n: int) -> None:
        if not made:  # the pool stays from round to round: all is open before anything is measured
            made.append(pool())
            for key in order:
                async with made[0].acquire(key):
                    pass
        acquire = made[0].acquire
        for index in range(n):
            async with acquire(order[index % keys]):
                pass

    return case


def get_connection(pool: Any) -> Callable[[], Any]:
    return pool.get_connection  # type: ignore[no-any-return]


def acquire_of(pool: Any) -> Callable[[], Any]:
    return pool.acquire  # type: ignore[no-any-return]


def connection_of(pool: Any) -> Callable[[], Any]:
    return pool.connection  # type: ignore[no-any-return]


def itself(lock: Any) -> Callable[[], Any]:
    return lambda: lock


def ours(size: int = SIZE, **options: Any) -> Callable[[], Pool[Connection]]:
    return lambda: Pool(connect, close=close, max_size=size, timeout=math.inf, **options)


def keyed(keys: int, **options: Any) -> KeyedPool[int, Connection]:
    return KeyedPool(connect, close=close, max_size=keys, max_per_key=1, timeout=math.inf, **options)


def theirs(size: int = SIZE) -> Any:
    return acp.ConnectionPool(strategy=strategy(acp.ConnectionStrategy), max_size=size)


def as_theirs(size: int = SIZE) -> Any:
    return compat.ConnectionPool(strategy=strategy(compat.ConnectionStrategy), max_size=size)


def simulated(settings: dict[str, Any]) -> list[Row]:
    """What the pools themselves cost."""
    rows = []
    if acp:
        rows += [
            compare(
                "Pool get/release, idle",
                {
                    "asyncio-connection-pool": blocks(get_connection, theirs),
                    "loopwright": blocks(acquire_of, ours()),
                    "loopwright acquire, release": awaited(ours()),
                    "loopwright try_acquire, release": tried(ours()),
                    "loopwright.compat": blocks(get_connection, as_theirs),
                    "deque + Semaphore": blocks(connection_of, lambda: Reference(SIZE)),
                },
                n=20_000,
                baseline="asyncio-connection-pool",
                target=12,
                **settings,
            ),
            compare(
                "Pool(10), 100 tasks contending",
                {
                    "asyncio-connection-pool": contended(get_connection, theirs),
                    "loopwright": contended(acquire_of, ours()),
                    "loopwright.compat": contended(get_connection, as_theirs),
                    "deque + Semaphore": contended(connection_of, lambda: Reference(SIZE)),
                },
                n=20_000,
                baseline="asyncio-connection-pool",
                target=3,
                **settings,
            ),
        ]
    rows += [
        compare(
            "1e5 waiters of a Pool served, each",
            {
                "1e4 waiters": queued(acquire_of, ours(1), 10_000),
                "1e5 waiters": queued(acquire_of, ours(1), 100_000),
                "1e5 waiters of asyncio.Semaphore": queued(
                    lambda lock: lambda: lock, lambda: asyncio.Semaphore(1), 100_000
                ),
                "1e5 waiters of our Semaphore": queued(itself, lambda: Semaphore(1), 100_000),
            },
            n=100_000,
            rounds=5,
            baseline="1e4 waiters",
            ours="1e5 waiters",
            target=0.5,  # O(n): a tenth would be O(n^2), and a half leaves room for the caches of the processor
            **settings,
        ),
        compare(
            "KeyedPool get/release, idle, 1e5 keys",
            {
                "Pool": blocks(acquire_of, ours()),
                "KeyedPool, 1e5 keys": over_keys(lambda: keyed(KEYS), KEYS),
                "KeyedPool, 1 key": over_keys(lambda: keyed(1), 1),
            },
            n=KEYS,
            rounds=7,
            baseline="Pool",
            ours="KeyedPool, 1e5 keys",
            target=0.5,
            **settings,
        ),
    ]
    return rows


# On servers


async def nothing(*_: object) -> None:
    """A reset that resets nothing."""


class Site:
    """PostgreSQL and Redis of our own, and pools over them, which are closed when it is left."""

    def __init__(self, postgres: Any, redis_server: Any) -> None:
        self.dsn = postgres.dsn
        self.url = redis_server.url

    async def __aenter__(self) -> Site:
        self.stack = contextlib.AsyncExitStack()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stack.aclose()

    async def asyncpg_pool(self, size: int, **options: Any) -> Any:
        return await self.stack.enter_async_context(
            asyncpg.create_pool(self.dsn, min_size=size, max_size=size, max_inactive_connection_lifetime=0, **options)
        )

    async def over_asyncpg(self, size: int, **options: Any) -> Any:
        return await self._warm(
            Pool(
                lambda: asyncpg.connect(self.dsn),
                close=asyncpg.Connection.close,
                abort=asyncpg.Connection.terminate,
                is_clean=lambda c: not c.is_closed() and not c.is_in_transaction(),
                min_size=size,
                max_size=size,
                **options,
            )
        )

    async def psycopg_pool(self, size: int) -> Any:
        pool = psycopg_pool.AsyncConnectionPool(
            self.dsn, min_size=size, max_size=size, open=False, kwargs={"autocommit": True}
        )
        await self.stack.enter_async_context(pool)
        await pool.wait()
        return pool

    async def over_psycopg(self, size: int) -> Any:
        idle = psycopg.pq.TransactionStatus.IDLE
        return await self._warm(
            Pool(
                lambda: psycopg.AsyncConnection.connect(self.dsn, autocommit=True),
                close=psycopg.AsyncConnection.close,
                is_clean=lambda c: c.pgconn.transaction_status == idle,
                min_size=size,
                max_size=size,
            )
        )

    async def redis_pool(self, size: int) -> Any:
        pool = redis.BlockingConnectionPool.from_url(self.url, max_connections=size)
        self.stack.push_async_callback(pool.aclose)
        return pool

    async def over_redis(self, size: int) -> Any:
        make = redis.ConnectionPool.from_url(self.url).make_connection

        async def opened() -> Any:
            connection = make()
            await connection.connect()
            return connection

        return await self._warm(
            Pool(
                opened, close=lambda c: c.disconnect(), is_clean=lambda c: c.is_connected, min_size=size, max_size=size
            )
        )

    async def engine(self, size: int) -> Any:
        url = self.dsn.replace("postgresql://", "postgresql+asyncpg://").replace("sslmode=", "ssl=")
        engine = sqlalchemy.create_async_engine(url, pool_size=size, max_overflow=0)
        self.stack.push_async_callback(engine.dispose)
        return engine

    async def _warm(self, pool: Any) -> Any:
        await self.stack.enter_async_context(pool)
        await pool.warm()
        return pool


def entered(get: Callable[[], Any]) -> Case:
    """``async with get()``."""

    async def case(n: int) -> None:
        for _ in range(n):
            async with get():
                pass

    return case


def taken(get: Callable[[], Awaitable[Any]], give: Callable[[Any], Awaitable[object]]) -> Case:
    async def case(n: int) -> None:
        for _ in range(n):
            await give(await get())

    return case


async def idle_on_servers(site: Site, loop_name: str) -> list[Row]:
    """Getting and giving back, by the pools that know one protocol; no query in between."""
    cases: dict[str, Case] = {}
    cases["asyncpg.Pool, no reset"] = entered((await site.asyncpg_pool(SIZE, reset=nothing)).acquire)
    cases["loopwright over asyncpg"] = entered((await site.over_asyncpg(SIZE)).acquire)
    theirs = await site.psycopg_pool(SIZE)
    cases["psycopg_pool connection()"] = entered(theirs.connection)
    cases["psycopg_pool getconn, putconn"] = taken(theirs.getconn, theirs.putconn)
    cases["loopwright over psycopg"] = entered((await site.over_psycopg(SIZE)).acquire)
    blocking = await site.redis_pool(SIZE)
    cases["redis-py BlockingConnectionPool"] = taken(blocking.get_connection, blocking.release)
    cases["loopwright over redis-py"] = entered((await site.over_redis(SIZE)).acquire)
    cases["SQLAlchemy engine.connect()"] = entered((await site.engine(SIZE)).connect)
    reset = {
        "asyncpg.Pool": entered((await site.asyncpg_pool(1)).acquire),
        "loopwright, asyncpg's reset": entered((await site.over_asyncpg(1, reset=asyncpg.Connection.reset)).acquire),
    }
    return [
        await compare_here(
            "get/release, idle, PostgreSQL and Redis",
            cases,
            n=1_000,
            baseline="asyncpg.Pool, no reset",
            ours="loopwright over asyncpg",
            target=1,
            loop_name=loop_name,
        ),
        await compare_here(
            "get/release, one connection, asyncpg's reset after each use, PostgreSQL",
            reset,
            n=1_000,
            baseline="asyncpg.Pool",
            ours="loopwright, asyncpg's reset",
            target=1,
            loop_name=loop_name,
        ),
    ]


async def storm(get: Callable[[], Any], query: Callable[[Any], Awaitable[object]], n: int) -> tuple[float, float]:
    """200 tasks ask, as fast as they are answered: wall time in all, and the 99th percentile of the wait."""
    waits: list[float] = []

    async def worker() -> None:
        for _ in range(n // TASKS):
            asked = time.perf_counter()
            async with get() as connection:
                waits.append(time.perf_counter() - asked)
                await query(connection)

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(TASKS)))
    return time.perf_counter() - started, percentile(waits, 0.99)


async def through_postgres(site: Site, loop_name: str, rounds: int = 9, n: int = 4_000) -> list[Row]:
    """``SELECT 1``: queries a second, and how long the unluckiest wait."""

    async def of_asyncpg(connection: Any) -> None:
        await connection.fetchval("SELECT 1")

    async def of_psycopg(connection: Any) -> None:
        await (await connection.execute("SELECT 1")).fetchone()

    async def compared(
        name: str, query: Callable[[Any], Awaitable[object]], gets: dict[str, Callable[[], Any]]
    ) -> list[Row]:
        walls: dict[str, list[float]] = {case: [] for case in gets}
        waits: dict[str, list[float]] = {case: [] for case in gets}
        for get in gets.values():
            await storm(get, query, n // 4)
        for _ in range(rounds):
            for case, get in gets.items():
                wall, wait = await storm(get, query, n)
                walls[case].append(wall)
                waits[case].append(wait)
        operation, baseline = f"PostgreSQL, 10 connections, 200 tasks, {name}", next(iter(gets))
        rows = [
            rated(Row(f"{operation}: wall time of a query", baseline, "loopwright", 1, loop=loop_name), walls, n),
            rated(Row(f"{operation}: p99 of the wait", baseline, "loopwright", 1, loop=loop_name), waits),
        ]
        for case, spent in walls.items():
            print(f"    {case:<28} {n / median(spent):>12,.0f} queries a second", flush=True)
        return rows

    rows = []
    async with site:
        gets = {
            "asyncpg.Pool": (await site.asyncpg_pool(SIZE, reset=nothing)).acquire,
            "loopwright": (await site.over_asyncpg(SIZE)).acquire,
        }
        rows += await compared("asyncpg, no reset", of_asyncpg, gets)
    async with site:
        gets = {
            "asyncpg.Pool": (await site.asyncpg_pool(SIZE)).acquire,
            "loopwright": (await site.over_asyncpg(SIZE, reset=asyncpg.Connection.reset)).acquire,
        }
        rows += await compared("asyncpg's reset", of_asyncpg, gets)
    async with site:
        gets = {
            "psycopg_pool": (await site.psycopg_pool(SIZE)).connection,
            "loopwright": (await site.over_psycopg(SIZE)).acquire,
        }
        rows += await compared("psycopg", of_psycopg, gets)
    return rows


def on_servers(settings: dict[str, Any]) -> list[Row]:
    """Nothing where a library or a server is missing."""
    if None in (asyncpg, psycopg, psycopg_pool, redis, sqlalchemy):
        return []
    import debian  # noqa: PLC0415 (tools/, as the servers need it)
    from support.servers import KINDS, Servers  # noqa: PLC0415

    if any(debian.find(KINDS[kind].program) is None for kind in ("postgres", "redis")):
        return []

    async def main() -> list[Row]:
        name = settings["loop_name"]
        async with Site(postgres, redis_server) as site:
            rows = await idle_on_servers(site, name)
        return rows + await through_postgres(Site(postgres, redis_server), name)

    with (
        Servers() as servers,
        servers.one("postgres") as postgres,
        servers.one("redis") as redis_server,
        asyncio.Runner(loop_factory=settings["loop_factory"]) as runner,
    ):
        return runner.run(main())


def main() -> None:
    rows: list[Row] = []
    for name, factory in loops().items():
        settings = {"loop_factory": factory, "loop_name": name}
        rows += simulated(settings)
        rows += on_servers(settings)
    save(rows)


if __name__ == "__main__":
    main()
