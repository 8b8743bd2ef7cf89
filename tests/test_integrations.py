"""loopwright.integrations: an interruption of a driver's operation never reaches the next user, an error costs nothing.

Promise 5 of DESIGN section 5, on real servers: each operation is cancelled after 0, 1, 2 ... turns of the loop, in a
task of its own inside the block (the cancel is swallowed there) and with the block around it. The next user of the
only connection then asks a question of its own, and has to get the answer to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import itertools
import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import loops, requires
from support.loops import PLAIN, Cell, run
from support.proxy import Proxy
from support.servers import OpenSSH, Postgres, Redis

from loopwright.integrations import _driver, aiosqlite, asyncpg, asyncssh, psycopg, redis

DRIVERS = {"aiosqlite": aiosqlite, "asyncpg": asyncpg, "asyncssh": asyncssh, "psycopg": psycopg, "redis": redis}
on_real_servers = pytest.mark.default_only
NONCES = itertools.count(1000)

Operation = Callable[[Any], Awaitable[object]]


# How a driver is loaded


@pytest.mark.parametrize("name", DRIVERS)
def test_missing_driver_says_how_to_install_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    needed: Any = {"aiosqlite": ("file.db",)}.get(name, ())
    with pytest.raises(ImportError, match=rf"needs {name}: pip install loopwright\[{name}\]"):
        DRIVERS[name].pool(*needed)  # type: ignore[attr-defined]


def test_driver_that_lacks_something_of_its_own_keeps_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_a_driver.py").write_text("import something_it_needs")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="something_it_needs"):
        _driver.load("half_a_driver", extra="half_a_driver")


def test_integrations_import_no_driver() -> None:
    program = f"""
    import sys
    from loopwright.integrations import {", ".join(DRIVERS)}
    print([name for name in {list(DRIVERS)} if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_has_to_be_done_at_once_does_not_wait() -> None:
    async def waits() -> None:
        await asyncio.sleep(0)

    async def does_not() -> int:
        return 5

    assert _driver.at_once(does_not()) == 5
    with pytest.raises(RuntimeError, match="waits"):
        _driver.at_once(waits())


# The operations that are interrupted, and the question that follows


@dataclass(frozen=True)
class Bench:
    """A driver on a running server."""

    pool: Callable[..., Any]
    """A pool of it; takes the pool's options."""
    ask: Callable[[Any, int], Awaitable[int]]
    """Sends a number through the server and gives what came back."""
    identity: Callable[[Any], Awaitable[object]]
    """Which of the server's connections it is."""
    error: Operation
    """An ordinary application error."""
    operations: dict[str, Operation]
    sessions: Callable[[], Awaitable[set[int]]]
    """The server's own view."""
    server: Postgres | Redis | None = None


@contextlib.contextmanager
def asyncpg_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    server: Postgres = request.getfixturevalue("postgres")

    async def query(c: Any) -> None:
        await c.fetchval("SELECT pg_sleep(0.002), 5")

    async def transaction(c: Any) -> None:
        async with c.transaction():
            await c.execute("SELECT 1")
            await c.fetch("SELECT generate_series(1, 3000)")

    async def left_open(c: Any) -> None:
        await c.execute("BEGIN")
        await c.execute("SELECT pg_sleep(0.001)")

    async def cursor(c: Any) -> None:
        async with c.transaction():
            async for _ in c.cursor("SELECT generate_series(1, 200)", prefetch=50):
                pass

    async def copy(c: Any) -> None:
        await c.copy_from_query("SELECT generate_series(1, 20000)", output=BytesIO())

    options = {"server_settings": {"application_name": "bench-asyncpg"}}
    yield Bench(
        pool=lambda **pool: asyncpg.pool(server.dsn, driver_options=options, **pool),
        ask=lambda c, n: c.fetchval("SELECT $1::int", n),
        identity=lambda c: c.fetchval("SELECT pg_backend_pid()"),
        error=lambda c: c.execute("SELECT 1/0"),
        operations={f.__name__: f for f in (query, transaction, left_open, cursor, copy)},
        sessions=lambda: server.sessions("bench-asyncpg"),
        server=server,
    )


@contextlib.contextmanager
def psycopg_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    server: Postgres = request.getfixturevalue("postgres")

    async def ask(c: Any, n: int) -> int:
        row = await (await c.execute("SELECT %s::int", (n,))).fetchone()
        return int(row[0])

    async def identity(c: Any) -> object:
        return c.info.backend_pid

    async def query(c: Any) -> None:
        await c.execute("SELECT pg_sleep(0.002), 5")

    async def transaction(c: Any) -> None:
        async with c.transaction():
            await c.execute("SELECT 1")
            await c.execute("SELECT generate_series(1, 3000)")

    async def pipeline(c: Any) -> None:
        async with c.pipeline():
            for _ in range(5):
                await c.execute("SELECT 1")

    async def cursor(c: Any) -> None:
        async with c.transaction(), c.cursor("named") as cursor:
            await cursor.execute("SELECT generate_series(1, 300)")
            await cursor.fetchmany(10)
            await cursor.fetchall()

    async def copy(c: Any) -> None:
        async with c.cursor() as cursor, cursor.copy("COPY (SELECT generate_series(1, 20000)) TO STDOUT") as copy:
            async for _ in copy:
                pass

    options = {"application_name": "bench-psycopg"}
    yield Bench(
        pool=lambda **pool: psycopg.pool(server.dsn, driver_options=options, **pool),
        ask=ask,
        identity=identity,
        error=lambda c: c.execute("SELECT 1/0"),
        operations={f.__name__: f for f in (query, transaction, pipeline, cursor, copy)},
        sessions=lambda: server.sessions("bench-psycopg"),
        server=server,
    )


@contextlib.contextmanager
def redis_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    server: Redis = request.getfixturevalue("redis_server")

    async def ask(r: Any, n: int) -> int:
        return int(await r.execute_command("ECHO", str(n)))

    async def commands(r: Any) -> None:
        await r.set("name", 1)
        await r.get("name")

    async def pipeline(r: Any) -> None:
        async with r.pipeline() as pipeline:
            for i in range(20):
                pipeline.set(f"name{i}", "x" * 1000)
            await pipeline.execute()

    async def watch(r: Any) -> None:
        async with r.pipeline() as pipeline:
            await pipeline.watch("name")
            await pipeline.get("name")
            pipeline.multi()
            pipeline.set("name", 2)
            await pipeline.execute()

    async def subscription(r: Any) -> None:
        async with r.pubsub() as subscription:
            await subscription.subscribe("channel")
            await subscription.get_message(timeout=0.002)

    async def forgotten_subscription(r: Any) -> None:
        await r.pubsub().subscribe("channel")

    async def blocking(r: Any) -> None:
        await r.blpop("nothing", timeout=0.01)

    async def large(r: Any) -> None:
        await r.set("large", "x" * 3_000_000)
        await r.get("large")

    operations = (commands, pipeline, watch, subscription, forgotten_subscription, blocking, large)
    yield Bench(
        pool=lambda **pool: redis.pool(server.url, **pool),
        ask=ask,
        identity=lambda r: r.client_id(),
        error=lambda r: r.execute_command("NO-SUCH-COMMAND"),
        operations={f.__name__: f for f in operations},
        sessions=lambda: server.sessions(""),
        server=server,
    )


@contextlib.contextmanager
def aiosqlite_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    path: Path = request.getfixturevalue("tmp_path") / "bench.db"

    async def set_up(c: Any) -> None:
        await c.execute("CREATE TABLE IF NOT EXISTS numbers (n UNIQUE)")
        await c.commit()

    async def ask(c: Any, n: int) -> int:
        assert not c.in_transaction
        return int((await c.execute_fetchall("SELECT ?", (n,)))[0][0])

    async def identity(c: Any) -> object:
        return id(c)

    async def insert(c: Any) -> None:
        await c.execute("INSERT INTO numbers VALUES (random())")
        await c.execute("SELECT n FROM numbers")

    async def commit(c: Any) -> None:
        await c.execute("INSERT INTO numbers VALUES (random())")
        await c.commit()

    async def long(c: Any) -> None:
        await c.execute_fetchall(
            "WITH RECURSIVE r(i) AS (VALUES(0) UNION ALL SELECT i + 1 FROM r LIMIT 300000) SELECT count(*) FROM r"
        )

    async def error(c: Any) -> None:
        await c.execute("INSERT INTO numbers VALUES (1), (1)")

    async def sessions() -> set[int]:
        return {int(entry) for entry in os.listdir("/proc/self/fd") if _opens(entry, path)}

    yield Bench(
        pool=lambda **pool: aiosqlite.pool(path, setup=set_up, **pool),
        ask=ask,
        identity=identity,
        error=error,
        operations={f.__name__: f for f in (insert, commit, long)},
        sessions=sessions,
    )


def _opens(descriptor: str, path: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}") == str(path)
    except FileNotFoundError:
        return False


BENCHES = {"asyncpg": asyncpg_bench, "psycopg": psycopg_bench, "redis": redis_bench, "aiosqlite": aiosqlite_bench}


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    requires.module(request.param)
    with BENCHES[request.param](request) as bench:
        yield bench


async def interrupted(work: Awaitable[object], turns: int) -> bool:
    """Runs it in a task that is cancelled after so many turns of the loop; whether that was in time."""
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        if task.done():
            break
        await asyncio.sleep(0)
    in_time = task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task
    return in_time


async def nobody_left(bench: Bench) -> None:
    """Until the server has noticed that we are gone."""
    try:
        async with asyncio.timeout(10):
            while await bench.sessions():  # noqa: ASYNC110 (it is asked)
                await asyncio.sleep(0.01)
    finally:
        if bench.server is not None:
            await bench.server.aclose()


@on_real_servers
@pytest.mark.parametrize("swallowed", [True, False], ids=["swallowed", "crossing"])
@pytest.mark.parametrize("cell", loops.parameters([PLAIN, Cell("uvloop")]))
def test_an_interruption_never_reaches_the_next_user(bench: Bench, cell: Cell, swallowed: bool) -> None:
    async def main() -> None:
        async with bench.pool(max_size=1, hook_timeout=2) as pool:
            for operation in bench.operations.values():
                late = 0
                for turns in itertools.chain(range(20), range(20, 200, 20)):
                    if swallowed:
                        async with pool.acquire() as c:
                            in_time = await interrupted(operation(c), turns)
                    else:

                        async def user(operation: Operation = operation) -> None:
                            async with pool.acquire() as c:
                                await operation(c)

                        in_time = await interrupted(user(), turns)
                    async with asyncio.timeout(10), pool.acquire() as c:
                        nonce = next(NONCES)
                        assert await bench.ask(c, nonce) == nonce
                    late = 0 if in_time else late + 1
                    if late == 3:
                        break
            stats = pool.stats()
            assert stats.in_use == 0
        await nobody_left(bench)
        stats = pool.stats()
        assert stats.idle == stats.opened - stats.closed - stats.abandoned == 0

    run(main, cell)


@on_real_servers
def test_an_application_error_costs_no_connection(bench: Bench) -> None:
    async def main() -> None:
        async with bench.pool(max_size=1) as pool:
            async with pool.acquire() as c:
                first = await bench.identity(c)
            for _ in range(3):
                with pytest.raises(Exception) as caught:
                    async with pool.acquire() as c:
                        await bench.error(c)
                assert not isinstance(caught.value, TimeoutError)
                async with pool.acquire() as c:
                    with contextlib.suppress(Exception):
                        await bench.error(c)
                with pytest.raises(KeyError):
                    async with pool.acquire() as c:
                        await bench.ask(c, 1)
                        raise KeyError
            async with pool.acquire() as c:
                assert await bench.identity(c) == first
            assert pool.stats().opened == 1

    run(main)


@on_real_servers
def test_a_cancel_between_operations_costs_no_connection(bench: Bench) -> None:
    async def main() -> None:
        async with bench.pool(max_size=1) as pool:
            for _ in range(3):

                async def user() -> None:
                    async with pool.acquire() as c:
                        await bench.ask(c, 1)
                        await asyncio.sleep(60)

                task = asyncio.ensure_future(user())
                await asyncio.sleep(0.1)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            async with pool.acquire() as c:
                assert await bench.ask(c, 2) == 2
            assert pool.stats().opened == 1

    run(main)


@on_real_servers
def test_a_connect_that_is_cancelled_leaves_nothing_open(bench: Bench) -> None:
    async def main() -> None:
        for turns in range(0, 60, 3):
            async with bench.pool(max_size=1) as pool:

                async def user(pool: Any = pool) -> None:
                    async with pool.acquire():
                        pass

                await interrupted(user(), turns)
        await nobody_left(bench)

    run(main)


@on_real_servers
def test_a_setup_that_fails_leaves_nothing_open(bench: Bench, request: pytest.FixtureRequest) -> None:
    async def setup(connection: object) -> None:
        raise LookupError("setup")

    async def main() -> None:
        async with bench.pool(max_size=1, setup=setup) as pool:
            with pytest.raises(LookupError, match="setup"):
                await pool.acquire()
        await nobody_left(bench)

    if "aiosqlite" in request.node.callspec.id:
        pytest.skip("its bench has a setup of its own")
    run(main)


@on_real_servers
def test_a_connection_that_died_while_idle_is_replaced(bench: Bench) -> None:
    async def main() -> None:
        async with bench.pool(max_size=2) as pool:
            async with pool.acquire() as c, pool.acquire() as d:
                await asyncio.gather(bench.ask(c, 1), bench.ask(d, 2))
            assert bench.server is not None
            await asyncio.to_thread(bench.server.kill)
            await asyncio.to_thread(bench.server.start)
            for _ in range(3):
                async with pool.acquire() as c:
                    assert await bench.ask(c, 3) == 3

    if bench.server is None:
        pytest.skip("it has no server")
    run(main)


# asyncpg


@on_real_servers
def test_asyncpg_session_ends_with_its_use(postgres: Postgres) -> None:
    async def main() -> None:
        heard: list[object] = []
        async with asyncpg.pool(postgres.dsn, max_size=1) as pool:
            async with pool.acquire() as c:
                pid = c.get_server_pid()
                await c.execute("SET search_path = elsewhere; SELECT pg_advisory_lock(1); BEGIN")
                await c.execute("ROLLBACK")
                await c.add_listener("channel", lambda *args: heard.append(args))
            async with pool.acquire() as c:
                assert c.get_server_pid() == pid
                assert await c.fetchval("SHOW search_path") == '"$user", public'
                assert await c.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
                await c.execute("NOTIFY channel")
                await c.execute("SELECT 1")
        assert heard == []

    requires.module("asyncpg")
    run(main)


# psycopg


@on_real_servers
def test_psycopg_connection_commits_what_acquire_rolls_back(postgres: Postgres) -> None:
    async def main() -> None:
        async with psycopg.pool(postgres.dsn, max_size=1) as pool:

            async def names() -> list[str]:
                async with psycopg.connection(pool, timeout=5) as c:
                    return [row[0] for row in await (await c.execute("SELECT name FROM kept ORDER BY name")).fetchall()]

            async with psycopg.connection(pool) as c:
                await c.execute("CREATE TABLE kept (name text UNIQUE)")
            try:
                async with psycopg.connection(pool) as c:
                    await c.execute("INSERT INTO kept VALUES ('connection')")
                async with pool.acquire() as c:
                    await c.execute("INSERT INTO kept VALUES ('acquire')")
                async with pool.acquire() as c, c.transaction():
                    await c.execute("INSERT INTO kept VALUES ('transaction')")
                with pytest.raises(KeyError):
                    async with psycopg.connection(pool) as c:
                        await c.execute("INSERT INTO kept VALUES ('error')")
                        raise KeyError
                with pytest.raises(Exception, match="duplicate key"):
                    async with psycopg.connection(pool) as c:
                        await c.execute("INSERT INTO kept VALUES ('connection')")
                assert await names() == ["connection", "transaction"]
                assert pool.stats().opened == 1
            finally:
                async with psycopg.connection(pool) as c:
                    await c.execute("DROP TABLE kept")

    requires.module("psycopg")
    run(main)


@on_real_servers
def test_psycopg_abort_leaves_the_descriptor_to_the_task_that_waits(postgres: Postgres) -> None:
    """The loop watches descriptors by number: one closed under a waiting task would be the next connection's."""
    driver = requires.module("psycopg")

    async def main() -> None:
        connection = await driver.AsyncConnection.connect(postgres.dsn, autocommit=True)
        waiting = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
        await asyncio.sleep(0.1)
        descriptor = connection.fileno()
        psycopg.abort(connection)
        assert os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
        with pytest.raises(driver.OperationalError):
            await asyncio.wait_for(waiting, 5)
        assert connection.closed

    run(main)


@on_real_servers
def test_psycopg_close_ends_the_query_too(postgres: Postgres) -> None:
    driver = requires.module("psycopg")

    async def main() -> None:
        connection = await driver.AsyncConnection.connect(postgres.dsn, autocommit=True, application_name="closing")
        waiting = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
        await asyncio.sleep(0.1)
        await psycopg.close(connection)
        with pytest.raises(driver.Error):
            await asyncio.wait_for(waiting, 5)
        try:
            async with asyncio.timeout(5):
                while await postgres.sessions("closing"):  # noqa: ASYNC110 (it is asked)
                    await asyncio.sleep(0.01)
        finally:
            await postgres.aclose()

    run(main)


@on_real_servers
def test_psycopg_half_a_copy_is_closed_not_left_to_the_garbage_collector(postgres: Postgres) -> None:
    async def main() -> None:
        async with psycopg.pool(postgres.dsn, max_size=1) as pool:
            async with pool.acquire() as c:
                manager = c.cursor().copy("COPY (SELECT generate_series(1, 20000)) TO STDOUT")
                copy = await manager.__aenter__()  # and nobody leaves it
                await copy.read()
                descriptor = c.fileno()
            async with pool.acquire() as d:
                assert d is not c
                assert c.closed
                assert d.fileno() >= 0
            del manager, copy
        assert not _is_open(descriptor)

    requires.module("psycopg")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(main)
        gc.collect()
    assert [str(warning.message) for warning in caught if warning.category is ResourceWarning] == []


def _is_open(descriptor: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    except FileNotFoundError:
        return False


# redis


@on_real_servers
def test_redis_client_refuses_a_second_user_of_its_connection(redis_server: Redis) -> None:
    async def main() -> None:
        async with redis.pool(redis_server.url, max_size=1) as pool, pool.acquire() as r:
            async with r.pubsub() as subscription:
                await subscription.subscribe("channel")
                with pytest.raises(driver.exceptions.ConnectionError, match="this client has one connection"):
                    await r.get("name")
            assert await r.ping()

    driver = requires.module("redis")
    run(main)


@on_real_servers
def test_redis_abort_needs_nothing_private(redis_server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer of a connection is private; without it abort still disconnects at once."""
    driver = requires.module("redis.asyncio")

    async def main(hide: bool) -> None:
        async with redis.pool(redis_server.url, max_size=1) as pool:
            r = await pool.acquire()
            connection = r.connection_pool.connection
            transport = connection._writer.transport
            with monkeypatch.context() as patch:
                if hide:
                    patch.setattr(driver.Connection, "__getattribute__", _without_writer, raising=False)
                redis.abort(r)
            assert transport.is_closing()
            pool.discard(r)

    run(lambda: main(hide=False))
    run(lambda: main(hide=True))


@on_real_servers
@pytest.mark.parametrize("ended", [False, True])
def test_redis_before_8_has_only_a_private_way_to_tell_the_end(ended: bool) -> None:
    requires.module("redis")
    hooks = importlib.import_module("loopwright.integrations._redis")
    reader = SimpleNamespace(at_eof=lambda: ended)
    assert hooks.is_clean(SimpleNamespace(is_connected=True, _reader=reader)) is not ended
    assert hooks.is_clean(SimpleNamespace(is_connected=True))
    assert not hooks.is_clean(SimpleNamespace(is_connected=False, _reader=reader))


def _without_writer(connection: Any, name: str) -> Any:
    frame = sys._getframe(1)
    if name == "_writer" and frame.f_globals["__name__"].startswith("loopwright"):
        raise AttributeError(name)
    return object.__getattribute__(connection, name)


@on_real_servers
def test_redis_connection_pool_serves_a_shared_client(redis_server: Redis) -> None:
    driver = requires.module("redis.asyncio")

    async def main() -> None:
        client = driver.Redis.from_pool(redis.connection_pool(redis_server.url, max_size=3, timeout=5))
        leases = client.connection_pool.leases

        async def user(n: int) -> None:
            await client.set(f"name{n}", n)
            assert int(await client.get(f"name{n}")) == n
            async with client.pipeline() as pipeline:
                pipeline.get(f"name{n}").delete(f"name{n}")
                assert await pipeline.execute() == [str(n).encode(), 1]

        await asyncio.gather(*map(user, range(100)))
        assert leases.stats().opened <= 3
        assert len(await redis_server.sessions("")) <= 3
        for turns in range(40):
            await interrupted(user(turns), turns)
            assert await client.echo(str(turns)) == str(turns).encode()
        async with client.pubsub() as subscription:
            await subscription.subscribe("channel")
            assert client.connection_pool.get_connection_count()[1][0] == 1
        with pytest.raises(driver.ResponseError):
            await client.execute_command("NO-SUCH-COMMAND")
        await asyncio.gather(*map(user, range(30)))
        stats = leases.stats()
        assert stats.in_use == 0
        await client.aclose()
        stats = leases.stats()
        assert stats.idle == stats.opened - stats.closed - stats.abandoned == 0
        try:
            async with asyncio.timeout(5):
                while await redis_server.sessions(""):  # noqa: ASYNC110 (it is asked)
                    await asyncio.sleep(0.01)
        finally:
            await redis_server.aclose()

    run(main)


@on_real_servers
def test_redis_connection_pool_replaces_what_died_while_idle(redis_server: Redis) -> None:
    driver = requires.module("redis.asyncio")

    async def main() -> None:
        client = driver.Redis.from_pool(redis.connection_pool(redis_server.url, max_size=2))
        await asyncio.gather(client.ping(), client.ping())
        await asyncio.to_thread(redis_server.kill)
        await asyncio.to_thread(redis_server.start)
        await asyncio.gather(*(client.ping() for _ in range(3)))
        await client.aclose()

    run(main)


@on_real_servers
def test_redis_connection_pool_speaks_redis_errors(redis_server: Redis) -> None:
    driver = requires.module("redis.asyncio")

    async def main() -> None:
        client = driver.Redis.from_pool(redis.connection_pool(redis_server.url, max_size=1, timeout=0.05))
        async with client.pubsub() as subscription:
            await subscription.subscribe("channel")
            with pytest.raises(driver.ConnectionError, match="no connection"):
                await client.get("name")
        assert await client.ping()
        await client.aclose()

    run(main)


# asyncssh


def ssh_pool(server: OpenSSH, *, port: int = 0, **options: Any) -> Any:
    requires.module("asyncssh")
    connect = {
        "host": server.host,
        "port": port or server.port,
        "username": server.user,
        "client_keys": [server.client_key],
        "known_hosts": server.known_hosts,
        "config": None,
    }
    return asyncssh.pool(driver_options=lambda host: connect, **options)


@on_real_servers
def test_ssh_connection_is_shared(openssh: OpenSSH) -> None:
    async def main() -> None:
        async with ssh_pool(openssh) as pool:

            async def user(n: int) -> None:
                async with pool.acquire("host") as c:
                    assert (await asyncssh.run(c, f"echo {n}")).stdout == f"{n}\n"

            await asyncio.gather(*map(user, range(20)))
            assert pool.stats().opened == 1
            assert len(await openssh.sessions("")) == 1
        assert pool.stats().closed == 1

    run(main)


@on_real_servers
def test_ssh_run_that_is_interrupted_leaves_no_session(openssh: OpenSSH) -> None:
    async def main() -> None:
        async with ssh_pool(openssh) as pool, pool.acquire("host") as c:
            for turns in itertools.chain(range(20), range(20, 100, 10)):
                if await interrupted(asyncssh.run(c, "echo"), turns):
                    assert not c._channels
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncssh.run(c, "read line"), 0.2)
            assert not c._channels
            assert (await asyncssh.run(c, "echo well")).stdout == "well\n"
            with pytest.raises(Exception, match="exit status 3"):
                await asyncssh.run(c, "exit 3", check=True)

    run(main)


@on_real_servers
def test_ssh_connection_whose_host_keeps_a_session_gets_no_new_users(
    openssh: OpenSSH, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncssh, "CLOSING", 0.2)

    async def main() -> None:
        async with ssh_pool(openssh) as pool:
            async with pool.acquire("host") as first:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asyncssh.run(first, "trap '' TERM HUP; echo x; sleep 3"), 0.3)
                assert not first.is_closed()
            async with pool.acquire("host") as second:
                assert second is not first
                assert (await asyncssh.run(second, "echo well")).stdout == "well\n"

    run(main)


@on_real_servers
def test_ssh_connection_that_died_is_replaced(openssh: OpenSSH) -> None:
    async def main() -> None:
        async with ssh_pool(openssh) as pool:
            async with pool.acquire("host") as first:
                assert (await asyncssh.run(first, "echo well")).stdout == "well\n"
                await asyncio.to_thread(openssh.kill)
                await asyncio.to_thread(openssh.start)
                await first.wait_closed()
            async with pool.acquire("host") as second:
                assert second is not first
                assert (await asyncssh.run(second, "echo well")).stdout == "well\n"

    run(main)


@on_real_servers
def test_ssh_host_that_fell_silent_is_found_before_the_next_use(openssh: OpenSSH) -> None:
    async def main(proxy: Proxy) -> None:
        async with ssh_pool(openssh, port=proxy.port, hook_timeout=0.3, check_after=0) as pool:
            async with pool.acquire("host") as first:
                pass
            async with pool.acquire("host") as same:
                assert same is first
            proxy.silent()
            proxy.pass_on()  # the firewall has forgotten the old connection
            async with pool.acquire("host") as second:
                assert second is not first
                assert (await asyncssh.run(second, "echo well")).stdout == "well\n"
            assert pool.stats().abandoned == 1

    requires.module("asyncssh")
    with Proxy(openssh.host, openssh.port) as proxy:
        run(lambda: main(proxy))


@on_real_servers
def test_ssh_check_without_the_private_request_asks_whether_it_is_closed() -> None:
    requires.module("asyncssh")
    for closed in (False, True):
        connection: Any = type("Connection", (), {"is_closed": lambda self, closed=closed: closed})()
        assert asyncio.run(asyncssh.check(connection)) is not closed
