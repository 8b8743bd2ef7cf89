"""asyncpg: a pool of ``asyncpg.Connection``, cleaned as ``asyncpg.Pool`` cleans its own.

What an interruption leaves (asyncpg 0.32): the query goes on at the server, a CancelRequest is on its way on a second
socket, and whatever comes next on this connection waits for the answer to it. Or half of a COPY, which nothing in
asyncpg tells of until the next query fails. So the connection is reset after every use, by a query: it waits for the
one, fails on the other, and cleans what a user may have left in the session. Where the server does not answer, it is
the reset that hangs, which is bounded, and not the next user. Everything here is public in asyncpg.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from loopwright.integrations._driver import PoolOptions, connected, load
from loopwright.pools import Pool

if TYPE_CHECKING:
    from asyncpg import Connection

__all__ = ["abort", "check", "close", "is_clean", "is_closed", "pool", "reset"]


def pool(
    dsn: str | None = None,
    *,
    max_size: int = 10,
    driver_options: Mapping[str, Any] | None = None,
    setup: Callable[[Connection], Awaitable[object]] | None = None,
    **options: Unpack[PoolOptions[Connection]],
) -> Pool[Connection]:
    """A pool of asyncpg connections::

        async with pool("postgresql://localhost/app") as db, db.acquire() as c:
            await c.fetchval("SELECT 1")

    Args:
        dsn: as in ``asyncpg.connect``.
        max_size: the most connections at once.
        driver_options: the other arguments of ``asyncpg.connect``.
        setup: awaited with each new connection before its first use, for codecs and the like.
        **options: of :class:`loopwright.Pool`.

    Raises:
        ImportError: asyncpg is not installed.
    """
    driver = load("asyncpg", extra="asyncpg")
    arguments = dict(driver_options or {})

    async def connect() -> Connection:
        return await connected(await driver.connect(dsn, **arguments), setup, abort)

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


async def close(connection: Connection) -> None:
    """Closes it; a query that still runs is cancelled at the server first."""
    await connection.close()


def abort(connection: Connection) -> None:
    """Drops the socket, without waiting for anything."""
    connection.terminate()


async def check(connection: Connection) -> None:
    """A round trip; raises where there is nobody at the other end. (asyncpg 0.32 cannot send an empty query.)"""
    await connection.execute("SELECT 1")


def is_closed(connection: Connection) -> bool:
    """Whether it was closed, by whichever end."""
    return bool(connection.is_closed())


def is_clean(connection: Connection) -> bool:
    """Whether it is outside of a transaction. What else an interruption leaves, :func:`reset` finds."""
    return not connection.is_closed() and not connection.is_in_transaction()


async def reset(connection: Connection) -> None:
    """Waits for a cancel that is in flight, rolls back, and resets the session: settings, listeners, locks, cursors.

    One that cannot be reset is dropped: a regular close would wait for what is in its way.
    """
    try:
        await connection.reset()
    except BaseException:
        connection.terminate()
        raise
