"""AsyncSSH: one shared connection per host, with many sessions on it.

What an interruption leaves (AsyncSSH 2.24): never the connection, always the session. A cancelled
``connection.run(...)`` leaves its command running and its channel open, and one cancelled while the channel opens
leaves a channel that nobody can close any more. OpenSSH admits ten at once (``MaxSessions``): they are soon gone, and
then every user of the connection gets ``ChannelOpenError``. :func:`run` ends its command and its session whenever it is
interrupted. Where the host does not let the session go (OpenSSH keeps it until the command has ended, and passes no
signal on for root), the connection gets no new users, and is closed when its last one leaves.

A peer that went silent is found by SSH's keep-alives, on which ``is_closed()`` then follows; before an idle connection
gets a user, by one that is asked for at once. That is private in AsyncSSH (``_make_global_request``); where it is gone,
the keep-alives remain. Everything else here is public.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Unpack

from loopwright.cancellation import finish
from loopwright.errors import FinishTimeout
from loopwright.integrations._driver import KeyedPoolOptions, connected, load
from loopwright.pools import KeyedPool

if TYPE_CHECKING:
    from asyncssh import SSHClientConnection, SSHClientProcess, SSHCompletedProcess

__all__ = ["abort", "check", "close", "is_closed", "pool", "run"]

MAX_SESSIONS = 10
"""What OpenSSH's ``MaxSessions`` is unless it is configured."""
CLOSING = 1.0
"""Seconds that an interrupted :func:`run` waits for the host to close the session."""


def pool(
    *,
    max_size: int = 100,
    max_per_key: int = 1,
    max_shares: int | None = MAX_SESSIONS,
    driver_options: Mapping[str, Any] | Callable[[str], Mapping[str, Any]] | None = None,
    setup: Callable[[SSHClientConnection], Awaitable[object]] | None = None,
    **options: Unpack[KeyedPoolOptions[SSHClientConnection]],
) -> KeyedPool[str, SSHClientConnection]:
    """A pool of SSH connections by host, shared::

        async with pool(driver_options={"username": "ops"}) as ssh, ssh.acquire("db1.example") as c:
            print((await run(c, "uptime")).stdout)

    Whoever asks for a host gets the connection that is there, or waits for the one connect that runs.

    Args:
        max_size: the most connections at once, over all hosts.
        max_per_key: the most connections to one host.
        max_shares: the most users of one connection at once; None: no limit. The default is what OpenSSH admits, at one
            session per user.
        driver_options: the other arguments of ``asyncssh.connect``, or a function that gives them for a host; ``host``
            and ``port`` among them too, so that a key can be any name. Unless they say otherwise, keep-alives go out
            after 5 s of silence, and 15 s of it end the connection.
        setup: awaited with each new connection before its first use.
        **options: of :class:`loopwright.KeyedPool`.

    Raises:
        ImportError: AsyncSSH is not installed.
    """
    driver = load("asyncssh", extra="asyncssh")
    given = driver_options or {}

    async def connect(host: str) -> SSHClientConnection:
        arguments = {"host": host, "keepalive_interval": 5, "keepalive_count_max": 2}
        arguments.update(given(host) if callable(given) else given)
        return await connected(await driver.connect(**arguments), setup, abort)

    hooks: KeyedPoolOptions[SSHClientConnection] = {
        "close": close,
        "abort": abort,
        "check": check,
        "is_closed": is_closed,
    }
    hooks.update(options)
    return KeyedPool(connect, max_size=max_size, max_per_key=max_per_key, sharing=True, max_shares=max_shares, **hooks)


async def run(
    connection: SSHClientConnection,
    command: str,
    *,
    check: bool = False,
    timeout: float | None = None,  # noqa: ASYNC109 (AsyncSSH's)
    **options: Any,
) -> SSHCompletedProcess:
    """``connection.run(...)`` that leaves nothing behind on the shared connection, whenever it is interrupted.

    Args:
        connection: from a :func:`pool`, or any.
        command: what to run.
        check, timeout, **options: as in ``connection.run``.

    Raises:
        asyncssh.ProcessError, asyncssh.TimeoutError, asyncssh.ChannelOpenError: as ``connection.run`` does.
    """
    opening = asyncio.ensure_future(connection.create_process(command, **options))
    try:
        process = await asyncio.shield(opening)
        return await process.wait(check=check, timeout=timeout)
    except BaseException:
        opening.add_done_callback(_end)
        try:
            await finish(_closed(opening), timeout=CLOSING)
        except FinishTimeout:
            _full.add(connection)
        except Exception:  # the session never opened
            pass
        raise


_full: weakref.WeakSet[SSHClientConnection] = weakref.WeakSet()
"""Connections with sessions that the host did not let go."""


def _end(opening: asyncio.Future[SSHClientProcess[Any]]) -> None:
    """Ends the command and its session, now or when it has opened."""
    if not opening.cancelled() and opening.exception() is None:
        process = opening.result()
        with suppress(OSError):  # it has ended by itself
            process.terminate()
        process.close()


async def _closed(opening: asyncio.Future[SSHClientProcess[Any]]) -> None:
    """Until the host has closed the session too: only then is there room for another."""
    process = await asyncio.shield(opening)
    await process.wait_closed()


async def close(connection: SSHClientConnection) -> None:
    """Closes it, sessions included."""
    connection.close()
    await connection.wait_closed()


def abort(connection: SSHClientConnection) -> None:
    """Drops the socket, without waiting for anything."""
    connection.abort()


async def check(connection: SSHClientConnection) -> bool:
    """A round trip, by a keep-alive request: any SSH server answers it, and no session is needed."""
    request = getattr(connection, "_make_global_request", None)
    if request is not None:
        await request(b"keepalive@openssh.com")
    return not is_closed(connection)


def is_closed(connection: SSHClientConnection) -> bool:
    """Whether it takes no new users: it was closed, or the host did not let go of a session that was interrupted."""
    return connection.is_closed() or connection in _full
