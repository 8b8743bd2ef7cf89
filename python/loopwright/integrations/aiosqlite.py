"""aiosqlite: a pool of ``aiosqlite.Connection``, each with the thread that it runs its statements in.

What an interruption leaves (aiosqlite 0.22): the statement. It stands in the thread's line or runs there, and goes on
after its caller is gone; only then does ``in_transaction`` tell the truth. The line is first in, first out, so one step
at its end has seen them all: that is the reset, a ``rollback``. Where it has to wait for long, the statement is
interrupted and the connection closed. Everything here is public in aiosqlite.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, Unpack

from loopwright.integrations._driver import PoolOptions, at_once, connected, load
from loopwright.pools import Pool

if TYPE_CHECKING:
    from aiosqlite import Connection

__all__ = ["abort", "check", "close", "is_clean", "is_closed", "pool", "reset"]

PATIENCE = 0.1
"""Seconds that :func:`reset` leaves to statements whose callers are gone."""


def pool(
    database: str | PathLike[str],
    *,
    max_size: int = 5,
    driver_options: Mapping[str, Any] | None = None,
    setup: Callable[[Connection], Awaitable[object]] | None = None,
    **options: Unpack[PoolOptions[Connection]],
) -> Pool[Connection]:
    """A pool of aiosqlite connections::

        async with pool("app.db") as db, db.acquire() as c:
            await c.execute("INSERT INTO visits VALUES (1)")
            await c.commit()  # what is not committed is rolled back

    Args:
        database: the path of the file. (Each connection to ``":memory:"`` is a database of its own.)
        max_size: the most connections, and threads, at once.
        driver_options: the other arguments of ``aiosqlite.connect``.
        setup: awaited with each new connection before its first use, for ``PRAGMA journal_mode=WAL`` and the like.
        **options: of :class:`loopwright.Pool`.

    Raises:
        ImportError: aiosqlite is not installed.
    """
    driver = load("aiosqlite", extra="aiosqlite")
    arguments = dict(driver_options or {})

    async def connect() -> Connection:
        opening = asyncio.ensure_future(driver.connect(database, **arguments))
        try:
            connection: Connection = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_abort_late)  # cancelled itself, it would not close the database
            raise
        return await connected(connection, setup, abort)

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
    """Interrupts what runs, waits for the thread, closes the database."""
    await connection.interrupt()
    await connection.close()


def abort(connection: Connection) -> None:
    """Interrupts what runs; the thread closes the database and ends by itself."""
    try:
        at_once(connection.interrupt())
    finally:
        connection.stop()


def _abort_late(opening: asyncio.Future[Connection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        abort(opening.result())


async def check(connection: Connection) -> None:
    """One step through its thread."""
    await connection.execute_fetchall("SELECT 1")


def is_closed(connection: Connection) -> bool:
    """Whether its user closed it."""
    try:
        return not isinstance(connection.in_transaction, bool)
    except ValueError:  # "no active connection": it does not tell otherwise
        return True


def is_clean(connection: Connection) -> bool:
    """Whether it is outside of a transaction. A statement that was interrupted may open one yet: see :func:`reset`."""
    return not is_closed(connection) and not connection.in_transaction


async def reset(connection: Connection) -> bool:
    """Lets what was interrupted end, then rolls back; False where that takes long.

    Such a connection is interrupted, and not used again: SQLite goes on interrupting, innocent statements too, while
    there is a cursor whose rows were not all read.
    """
    rolled_back = asyncio.ensure_future(connection.rollback())
    try:
        done, _ = await asyncio.wait({rolled_back}, timeout=PATIENCE)
        if done:
            await rolled_back
        else:
            await connection.interrupt()
        return bool(done)
    finally:
        rolled_back.cancel()
