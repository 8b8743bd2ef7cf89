"""psycopg 3: a pool of ``psycopg.AsyncConnection``, cleaned as ``psycopg_pool`` cleans its own.

What an interruption leaves (psycopg 3.3): a cancelled query is cancelled at the server too, before the
``CancelledError`` comes out, for up to ten seconds; a second cancel meanwhile closes the connection. libpq knows the
state it is left in (``info.transaction_status``): IDLE is clean, INTRANS and INERROR are rolled back, ACTIVE is a query
that still runs and UNKNOWN is a dead connection; both are closed. Everything here is public in psycopg.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

from loopwright.integrations._driver import PoolOptions, connected, load
from loopwright.pools import Pool

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    Connection: TypeAlias = AsyncConnection[Any]

__all__ = ["abort", "check", "close", "connection", "is_clean", "is_closed", "pool", "reset"]

CANCEL_TIMEOUT = 2.0
"""Seconds for the server to take a cancel request from :func:`close`."""
WAKING = 10
"""Turns of the loop in which who waits for a connection has surely heard of its end. It takes three."""


def pool(
    conninfo: str = "",
    *,
    max_size: int = 10,
    driver_options: Mapping[str, Any] | None = None,
    setup: Callable[[Connection], Awaitable[object]] | None = None,
    **options: Unpack[PoolOptions[Connection]],
) -> Pool[Connection]:
    """A pool of psycopg connections::

        async with pool("host=localhost dbname=app") as db, connection(db) as c:
            await c.execute("INSERT INTO visits VALUES (now())")  # committed at the end of the block

    ``db.acquire()`` does not commit: what is left in a transaction there is rolled back, unless ``autocommit`` is on.
    :func:`connection` does, as ``psycopg_pool`` does.

    Args:
        conninfo: as in ``psycopg.AsyncConnection.connect``.
        max_size: the most connections at once.
        driver_options: the other arguments of ``AsyncConnection.connect``, for example ``{"autocommit": True}``.
        setup: awaited with each new connection before its first use; ``configure`` of ``psycopg_pool``.
        **options: of :class:`loopwright.Pool`.

    Raises:
        ImportError: psycopg is not installed.
    """
    driver = load("psycopg", extra="psycopg")
    arguments = dict(driver_options or {})

    async def connect() -> Connection:
        return await connected(await driver.AsyncConnection.connect(conninfo, **arguments), setup, abort)

    hooks: PoolOptions[Connection] = {
        "close": close,
        "abort": abort,
        "check": check,
        "is_closed": is_closed,
        "is_clean": is_clean,
        "reset": reset,
    }
    hooks.update(options)
    return Pool(connect, max_size=max_size, **hooks)


@asynccontextmanager
async def connection(
    pool: Pool[Connection],
    *,
    timeout: float | None = None,  # noqa: ASYNC109 (the pool's)
) -> AsyncIterator[Connection]:
    """A connection whose transaction is committed at the end of the block, and rolled back when the block raises.

    Args:
        pool: from :func:`pool`.
        timeout: seconds to wait for it; None: the pool's.
    """
    async with pool.acquire() if timeout is None else pool.acquire(timeout=timeout) as leased:
        yield leased
        await leased.commit()  # not after an error: then the pool's reset rolls back, and nobody waits for it


async def close(connection: Connection) -> None:
    """Closes it; a query that still runs is cancelled at the server first."""
    if _status(connection) == "ACTIVE":
        with suppress(Exception):
            await connection.cancel_safe(timeout=CANCEL_TIMEOUT)
        abort(connection)
        for _ in range(WAKING):
            if connection.closed:
                break
            await asyncio.sleep(0)
        connection.pgconn.finish()
    else:
        await connection.close()


def abort(connection: Connection) -> None:
    """Drops the socket, without waiting for anything.

    Under a task that waits for this connection the socket is shut down, not closed: libpq owns the descriptor, the loop
    watches it by its number, and that number would soon be another connection's. The task gets an error and closes it.
    """
    if _status(connection) == "ACTIVE":
        with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as copy:
            copy.shutdown(socket.SHUT_RDWR)
    else:
        connection.pgconn.finish()


async def check(connection: Connection) -> None:
    """A round trip; raises where there is nobody at the other end."""
    autocommit = connection.autocommit
    await connection.set_autocommit(True)  # else the query opens a transaction, two more round trips
    try:
        await connection.execute("")
    finally:
        with suppress(Exception):  # it is closed
            await connection.set_autocommit(autocommit)


def is_closed(connection: Connection) -> bool:
    """Whether it was closed, by whichever end.

    Nobody reads from an idle connection, so it is asked whether there is something to read: the server's last words, or
    a notification.
    """
    if _status(connection) == "IDLE" and hasattr(select, "poll"):  # not on Windows
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        try:
            while poll.poll(0):
                connection.pgconn.consume_input()
        except Exception:  # there was nothing but the end
            return True
    return connection.closed


def is_clean(connection: Connection) -> bool:
    """Whether it is idle, outside of a transaction."""
    return _status(connection) == "IDLE"


def reset(connection: Connection) -> Awaitable[None] | None:
    """Nothing for a clean connection; rolls back a transaction.

    Raises:
        ConnectionResetError: a query still runs on it, or it is closed.
    """
    status = _status(connection)
    if status == "IDLE":
        return None
    if status in ("ACTIVE", "UNKNOWN"):
        raise ConnectionResetError("a query still runs on it" if status == "ACTIVE" else "the connection is closed")
    return connection.rollback()


def _status(connection: Connection) -> str:
    return connection.info.transaction_status.name
