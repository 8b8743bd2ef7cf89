"""What stands in the place of redis-py's connection pools: one connection of a leased client, or a ``loopwright.Pool``.

Both are subclasses of ``redis.asyncio.ConnectionPool`` that replace its public methods; its private lists stay empty.
Its maintenance notifications are switched off, as they rewrite those. Private here are the writer of a connection, for
:func:`abort` (without it a socket whose send buffer is full is closed late), and, before redis-py 8, its reader, for
:func:`is_clean` (without it the end that the server sent is found by the check).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.exceptions import ConnectionError as RedisConnectionError

from loopwright.errors import PoolTimeout
from loopwright.integrations._driver import at_once
from loopwright.pools import Pool


class Single(ConnectionPool):
    """The one connection of a leased client: whatever the client does takes it from here and gives it back.

    redis-py connects again by itself whenever it has something to send. Once the pool has closed the connection nobody
    would close a new one, so it connects no more, whoever has kept the client: a task that outlives the block, or what
    ``asyncio.wait_for`` leaves behind on CPython 3.11 when it is cancelled twice.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**_settled(arguments))
        leased = type(self.connection_class.__name__, (_Leased, self.connection_class), {})
        self.connection: _Leased = leased(**self.connection_kwargs)
        self.held = False

    async def open(self) -> None:
        """Connects; one that fails or is cancelled leaves nothing open."""
        await _connect(self.connection)

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> AbstractConnection:
        if self.held:
            raise RedisConnectionError(
                "this client has one connection, and a command, a pipeline or a subscription holds it: acquire another "
                "client, or share one over loopwright.integrations.redis.connection_pool()"
            )
        self.held = True
        try:
            await self.ensure_connection(self.connection)
        except BaseException:
            self.held = False
            raise
        return self.connection

    async def release(self, connection: AbstractConnection) -> None:
        self.held = False

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await self.connection.disconnect()

    async def close(self) -> None:
        self.connection.over = True
        await self.connection.disconnect()

    def abort(self) -> None:
        self.connection.over = True
        abort(self.connection)

    async def check(self) -> None:
        await check(self.connection)

    def is_closed(self) -> bool:
        return is_closed(self.connection)

    def is_clean(self) -> bool:
        return is_clean(self.connection) and not self.held


class _Leased(AbstractConnection):
    """What a :class:`Single` adds to its connection: an end. (To send, redis-py 8 connects by the second method.)"""

    over = False

    async def connect(self, *arguments: Any, **options: Any) -> None:
        if not self.over:
            await super().connect(*arguments, **options)  # type: ignore[no-untyped-call,unused-ignore]
        self._not_over()

    async def connect_check_health(self, *arguments: Any, **options: Any) -> None:
        if not self.over:
            await super().connect_check_health(*arguments, **options)
        self._not_over()

    def _not_over(self) -> None:
        if self.over:  # by now
            abort(self)
            raise RedisConnectionError("the pool has closed this client's connection: use it inside of its block only")


class Leases(ConnectionPool):
    """redis-py's connection pool, over a :class:`loopwright.Pool` of connections."""

    leases: Pool[AbstractConnection]
    """The pool behind it."""

    def __init__(
        self, *, max_connections: int = 10, pool_options: Mapping[str, Any] | None = None, **arguments: Any
    ) -> None:
        super().__init__(max_connections=max_connections, **_settled(arguments))
        hooks = {
            "close": close,
            "abort": abort,
            "check": check,
            "is_closed": is_closed,
            "is_clean": is_clean,
            "reset": is_clean,
        }
        self.leases = Pool(self._connect, max_size=max_connections, **(hooks | dict(pool_options or {})))

    async def _connect(self) -> AbstractConnection:
        connection: AbstractConnection = self.connection_class(**self.connection_kwargs)
        await _connect(connection)
        return connection

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> AbstractConnection:
        try:
            return await self.leases.acquire()
        except PoolTimeout as error:
            raise RedisConnectionError(str(error)) from error

    async def release(self, connection: AbstractConnection) -> None:
        self.leases.release(connection)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Closes what is idle now and what is in use when it comes back, never under a command."""
        self.leases.expire_all()

    async def aclose(self) -> None:
        await self.leases.aclose()

    def reset(self) -> None:
        self.leases.expire_all()

    def set_retry(self, retry: Retry) -> None:
        """For connections from now on; those that are open are replaced."""
        self.connection_kwargs["retry"] = retry
        self.leases.expire_all()

    async def re_auth_callback(self, token: Any) -> None:
        """Open connections are replaced: a new one asks the credential provider."""
        self.leases.expire_all()

    async def update_active_connections_for_reconnect(self) -> None:
        self.leases.expire_all()

    def can_get_connection(self) -> bool:
        stats = self.leases.stats()
        return stats.idle > 0 or stats.in_use < self.max_connections

    def get_available_connection(self) -> AbstractConnection:
        connection = self.leases.try_acquire()
        if connection is None:
            raise RedisConnectionError("no connection is idle: await get_connection()")
        return connection

    def get_connection_count(self) -> list[tuple[int, dict[str, Any]]]:
        stats = self.leases.stats()
        count: Any = getattr(super(), "get_connection_count", lambda: [(0, {}), (0, {})])  # redis-py 8 asks for it
        (_, idle), (_, in_use) = count()
        return [(stats.idle, idle), (stats.in_use, in_use)]


def _settled(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a connection pool, with two defaults of redis-py 8 that do not fit. What was asked for stays.

    Its maintenance notifications rewrite the private lists of a pool. And where a socket has a timeout, it sends under
    ``asyncio.wait_for``, which on CPython 3.11 swallows a cancel that arrives meanwhile (python/cpython#86296).
    """
    defaults: dict[str, Any] = {}
    if sys.version_info < (3, 12):
        defaults["socket_timeout"] = None
    if "maint_notifications_config" in inspect.signature(ConnectionPool).parameters:
        from redis.maint_notifications import MaintNotificationsConfig  # noqa: PLC0415 (older ones have it not)

        defaults["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
    return defaults | arguments


async def _connect(connection: AbstractConnection) -> None:
    try:
        await connection.connect()
    except BaseException:
        abort(connection)
        raise


# The hooks of one connection.


async def close(connection: AbstractConnection) -> None:
    await connection.disconnect()


def abort(connection: AbstractConnection) -> None:
    writer = getattr(connection, "_writer", None)
    if writer is not None:
        writer.transport.abort()
    with suppress(Exception):  # what is closed already may well complain
        at_once(connection.disconnect(nowait=True))


async def check(connection: AbstractConnection) -> None:
    if not is_clean(connection):
        raise ConnectionResetError("there is something unread on the connection to Redis")
    await connection.send_command("PING", check_health=False)
    if await connection.read_response() not in (b"PONG", "PONG"):
        raise ConnectionResetError("Redis answered something else than PONG")


def is_closed(connection: AbstractConnection) -> bool:
    return not is_clean(connection)  # the end that the server has sent is something to read


def is_clean(connection: AbstractConnection) -> bool:
    if not connection.is_connected:
        return False
    can_read = getattr(connection, "can_read", None)
    if can_read is None:  # before redis-py 8 there is none that does not read
        reader = getattr(connection, "_reader", None)
        return reader is None or not reader.at_eof()
    return not at_once(can_read())
