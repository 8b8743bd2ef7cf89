"""The drivers' own pools, and asyncio-connection-pool, as subjects of the storm of ``load.py``.

Each is set up as its documentation advises for a server that may go away, with the same sizes and timeouts. What a plan
calls a deadline is what a connect gets.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from support import drivers, requires
from support.load import Plan, Subject

__all__ = ["PEERS"]


class AsyncpgPool(Subject):
    """``asyncpg.create_pool``; it has no check of idle connections."""

    name, server = "asyncpg.Pool", "postgres"
    packages = ("asyncpg",)
    driver = drivers.Asyncpg()

    async def open(self, site: Any, plan: Plan) -> None:
        self.plan, self.limit = plan, plan.max_size
        asyncpg = requires.module("asyncpg")
        dsn = site.server.dsn_at(site.host, site.port, application_name=site.application)
        self.pool = await asyncpg.create_pool(dsn, min_size=0, max_size=plan.max_size, timeout=plan.deadline)

    def use(self) -> AbstractAsyncContextManager[Any]:
        context: AbstractAsyncContextManager[Any] = self.pool.acquire(timeout=self.plan.timeout)
        return context

    def counts(self) -> tuple[int, int]:
        return self.pool.get_size(), self.pool.get_size() - self.pool.get_idle_size()

    async def close(self) -> None:
        try:
            await asyncio.wait_for(self.pool.close(), 4)
        except TimeoutError:
            self.pool.terminate()
            raise


class PsycopgPool(Subject):
    """``psycopg_pool.AsyncConnectionPool`` with ``check=``."""

    name, server = "psycopg_pool.AsyncConnectionPool", "postgres"
    packages = ("psycopg-pool", "psycopg")
    driver = drivers.Psycopg()

    async def open(self, site: Any, plan: Plan) -> None:
        pool = requires.module("psycopg_pool").AsyncConnectionPool
        limit = str(math.ceil(plan.deadline))  # for a connect
        dsn = site.server.dsn_at(site.host, site.port, application_name=site.application, connect_timeout=limit)
        self.limit = plan.max_size
        options = {"min_size": 1, "max_size": plan.max_size, "timeout": plan.timeout, "reconnect_timeout": 60}
        self.pool = pool(dsn, open=False, check=pool.check_connection, **options)
        await self.pool.open()

    def use(self) -> AbstractAsyncContextManager[Any]:
        context: AbstractAsyncContextManager[Any] = self.pool.connection()
        return context

    def counts(self) -> tuple[int, int]:
        stats = self.pool.get_stats()
        return stats["pool_size"], stats["pool_size"] - stats["pool_available"]

    async def close(self) -> None:
        await self.pool.close(timeout=4)


class SQLAlchemyPool(Subject):
    """``create_async_engine`` with ``pool_pre_ping``; ``max_overflow`` is its burst."""

    name, server = "SQLAlchemy AsyncAdaptedQueuePool + asyncpg", "postgres"
    packages = ("sqlalchemy", "asyncpg")
    driver = drivers.SQLAlchemy()

    async def open(self, site: Any, plan: Plan) -> None:
        engine = requires.module("sqlalchemy.ext.asyncio").create_async_engine
        dsn = site.server.dsn_at(site.host, site.port).partition("?")[0].replace("postgresql", "postgresql+asyncpg")
        settings = {"ssl": False, "server_settings": {"application_name": site.application}, "timeout": plan.deadline}
        sizes = {"pool_size": plan.max_size, "max_overflow": plan.burst, "pool_timeout": plan.timeout}
        self.engine = engine(dsn, connect_args=settings, pool_pre_ping=True, **sizes)

    def use(self) -> AbstractAsyncContextManager[Any]:
        context: AbstractAsyncContextManager[Any] = self.engine.connect()
        return context

    def counts(self) -> tuple[int, int]:
        pool = self.engine.pool
        return pool.checkedin() + pool.checkedout(), pool.checkedout()

    async def close(self) -> None:
        await self.engine.dispose()


class RedisPool(Subject):
    """``redis.asyncio.Redis(connection_pool=BlockingConnectionPool(...))``."""

    name, server = "redis.asyncio.BlockingConnectionPool", "redis"
    packages = ("redis",)
    driver = drivers.Redis()

    def adapted(self, plan: Plan) -> Plan:
        """A command waits for its connection too; what it may take at the server is the socket's timeout."""
        return dataclasses.replace(plan, deadline=plan.deadline + plan.timeout)

    async def open(self, site: Any, plan: Plan) -> None:
        redis = requires.module("redis.asyncio")
        self.limit = plan.max_size
        times = {"health_check_interval": plan.check_after, "socket_connect_timeout": 1.0, "socket_timeout": 1.0}
        options = {"max_connections": plan.max_size, "timeout": plan.timeout, **times}
        self.pool = redis.BlockingConnectionPool.from_url(site.server.url_at(site.host, site.port), **options)
        self.client = redis.Redis(connection_pool=self.pool)

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[Any]:
        yield self.client

    @contextlib.asynccontextmanager
    async def hold(self) -> AsyncIterator[Any]:
        connection = await self.pool.get_connection()
        try:
            yield _OneConnection(connection)
        finally:
            await self.pool.release(connection)

    def counts(self) -> tuple[int, int]:
        """A connection that the pool keeps without a socket is none: it has no public count of those."""
        kept, used = self.pool._available_connections, self.pool._in_use_connections
        return sum(connection.is_connected for connection in [*kept, *used]), len(used)

    async def close(self) -> None:
        await self.client.aclose()
        await self.pool.disconnect()


class _OneConnection:
    """As much of a client as :class:`drivers.Redis` needs, on one connection."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def execute_command(self, *command: Any) -> Any:
        await self.connection.send_command(*command)
        return await self.connection.read_response()


class AsyncioConnectionPool(Subject):
    """``asyncio_connection_pool.ConnectionPool``. It has no timeout: its users write one around."""

    packages: Sequence[str]
    server: str

    def strategy(self, site: Any, plan: Plan) -> dict[str, Callable[..., Any]]:
        raise NotImplementedError

    async def open(self, site: Any, plan: Plan) -> None:
        module = requires.module("asyncio_connection_pool")
        methods = {name: staticmethod(hook) for name, hook in self.strategy(site, plan).items()}
        strategy = type("Strategy", (module.ConnectionStrategy,), methods)()
        limit = plan.max_size + plan.burst
        self.plan = plan
        self.pool = module.ConnectionPool(strategy=strategy, max_size=plan.max_size, burst_limit=limit)

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[Any]:
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(self.plan.timeout):
                connection = await stack.enter_async_context(self.pool.get_connection())
            yield connection

    def counts(self) -> tuple[int, int]:
        return self.pool.available.qsize() + self.pool.in_use, self.pool.in_use

    async def close(self) -> None:
        """It has no close: what it keeps is closed by hand."""
        while not self.pool.available.empty():
            await self.pool.strategy.close_connection(self.pool.available.get_nowait())


class OverAsyncpg(AsyncioConnectionPool):
    name, server = "asyncio-connection-pool + asyncpg", "postgres"
    packages = ("asyncio-connection-pool", "asyncpg")
    driver = drivers.Asyncpg()

    def strategy(self, site: Any, plan: Plan) -> dict[str, Callable[..., Any]]:
        asyncpg = requires.module("asyncpg")
        dsn = site.server.dsn_at(site.host, site.port, application_name=site.application)
        return {
            "make_connection": lambda: asyncpg.connect(dsn, timeout=plan.deadline),
            "connection_is_closed": lambda connection: connection.is_closed(),
            "close_connection": lambda connection: connection.close(timeout=plan.hook_timeout),
        }


class OverRedis(AsyncioConnectionPool):
    name, server = "asyncio-connection-pool + redis-py", "redis"
    packages = ("asyncio-connection-pool", "redis")
    driver = drivers.Redis()

    def strategy(self, site: Any, plan: Plan) -> dict[str, Callable[..., Any]]:
        redis = requires.module("redis.asyncio")

        url = site.server.url_at(site.host, site.port)

        async def make() -> Any:
            client = redis.Redis.from_url(url, max_connections=1, socket_connect_timeout=plan.deadline)
            await client.ping()
            return client

        return {
            "make_connection": make,
            "connection_is_closed": lambda client: False,  # it connects again by itself
            "close_connection": lambda client: client.aclose(),
        }


class OverAsyncSSH(AsyncioConnectionPool):
    name, server = "asyncio-connection-pool + asyncssh", "openssh"
    packages = ("asyncio-connection-pool", "asyncssh")
    driver = drivers.AsyncSSH()

    def adapted(self, plan: Plan) -> Plan:
        return plan.for_ssh()

    def strategy(self, site: Any, plan: Plan) -> dict[str, Callable[..., Any]]:
        asyncssh, server = requires.module("asyncssh"), site.server
        login = {"username": server.user, "client_keys": [server.client_key], "known_hosts": server.known_hosts}
        login |= {"config": None, "agent_path": None, "connect_timeout": plan.deadline, "login_timeout": plan.deadline}

        async def close(connection: Any) -> None:
            connection.close()
            await connection.wait_closed()

        return {
            "make_connection": lambda: asyncssh.connect(site.host, site.port, **login),
            "connection_is_closed": lambda connection: connection.is_closed(),
            "close_connection": close,
        }


PEERS: dict[str, type[Any]] = {
    "asyncpg-pool": AsyncpgPool,
    "psycopg-pool": PsycopgPool,
    "sqlalchemy": SQLAlchemyPool,
    "redis-pool": RedisPool,
    "acp-asyncpg": OverAsyncpg,
    "acp-redis": OverRedis,
    "acp-asyncssh": OverAsyncSSH,
}
