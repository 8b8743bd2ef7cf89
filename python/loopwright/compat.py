"""The interface of asyncio-connection-pool and of the guides' pools, on :class:`~loopwright.Pool`: change the import.

Lives here: names, arguments and counts as that library has them. What a pool does lives in ``pools.py``.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from loopwright.pools import Lease, Pool, PoolStats

__all__ = ["ConnectionPool", "ConnectionStrategy"]

Conn = TypeVar("Conn")


class ConnectionStrategy(ABC, Generic[Conn]):
    """How the connections of a pool are opened, judged and closed; asyncio-connection-pool's abstract class.

    A subclass may call ``make_connection`` by the name that the guides give it, ``create_connection``.
    """

    @abstractmethod
    async def make_connection(self) -> Conn:
        """Opens a connection. What it raises, whoever waits for a connection gets."""

    @abstractmethod
    def connection_is_closed(self, conn: Conn) -> bool:
        """Whether a connection can no longer be used: asked before it is handed out and when it comes back."""

    @abstractmethod
    def close_connection(self, conn: Conn) -> Awaitable[None] | None:
        """Closes a connection; an ``async def``, or a plain function."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "create_connection" in vars(cls) and "make_connection" not in vars(cls):
            cls.make_connection = vars(cls)["create_connection"]  # type: ignore[method-assign]


class _Makes(Protocol[Conn]):
    """asyncio-connection-pool's strategies."""

    def make_connection(self) -> Awaitable[Conn]: ...
    def connection_is_closed(self, conn: Conn, /) -> bool: ...
    def close_connection(self, conn: Conn, /) -> Awaitable[None] | None: ...


class _Creates(Protocol[Conn]):
    """The guides' strategies."""

    def create_connection(self) -> Awaitable[Conn]: ...
    def connection_is_closed(self, conn: Conn, /) -> bool: ...
    def close_connection(self, conn: Conn, /) -> Awaitable[None] | None: ...


class ConnectionPool(Generic[Conn]):
    """asyncio-connection-pool's pool, without its ways of losing connections.

    ``async with pool.get_connection() as conn`` holds a connection for the length of the block. Waiters are served in
    order; a cancel, at whatever point, and a connect that fails cost no connection and leave nobody asleep. What it
    does is :class:`Pool`'s, and so is all that there is besides: ``pool.pool.stats()``, ``pool.pool.aclose()``.

    Args:
        strategy: a :class:`ConnectionStrategy`, or any object with its three methods.
        max_size: connections that are kept, 1 or more.
        burst_limit: the most connections there may be in all, ``max_size`` or more; those above ``max_size`` are closed
            when they come back and nobody waits. None: ``max_size``.
        options: any other argument of :class:`Pool`. Its time limits are off here unless they are given: as in that
            library, a wait for a connection has no end (``timeout=...``), and an idle connection stays for ever
            (``max_idle=...``, ``max_lifetime=...``).

    Raises:
        ValueError, TypeError: an argument that makes no sense, named.
    """

    def __init__(
        self,
        strategy: _Makes[Conn] | _Creates[Conn],
        max_size: int,
        burst_limit: int | None = None,
        **options: Any,
    ) -> None:
        self.strategy = strategy
        self._burst_limit = burst_limit
        sizes = {"max_size": max_size, "burst": _burst(max_size, burst_limit)}
        endless = {"timeout": math.inf, "max_idle": math.inf, "max_lifetime": math.inf, "order": "fifo"}
        settings: dict[str, Any] = sizes | endless | options
        connect: Any = strategy  # a Pool, too, takes either name for the method that connects
        self._pool: Pool[Conn] = Pool(connect, **settings)
        self._max_size = max_size
        self._acquire = self._pool.acquire

    def get_connection(self) -> AbstractAsyncContextManager[Conn]:
        """A connection for the length of an ``async with``.

        It waits while all are in use and no more may be opened, in the order of arrival. At the end of the block the
        connection goes back, or is closed when it is closed already, when it is surplus, or when a cancel or a timeout
        came through the block: whatever it was doing may be half done.

        Raises:
            What ``make_connection`` raises.
            PoolTimeout: ``timeout`` seconds are over, where the pool was given any.
            PoolClosed: ``pool.pool.aclose()`` was called.
        """
        lease = self._acquire()
        return lease if self._pool._is_free else _AfterATurn(lease)

    @property
    def pool(self) -> Pool[Conn]:
        """The pool behind it, which can do more: ``stats``, ``resize``, ``expire_all``, ``drain``, ``aclose``."""
        return self._pool

    @property
    def max_size(self) -> int:
        """Connections that are kept. May be set at any time."""
        return self._max_size

    @max_size.setter
    def max_size(self, max_size: int) -> None:
        self._pool.resize(max_size=max_size, burst=_burst(max_size, self._burst_limit))
        self._max_size = max_size

    @property
    def burst_limit(self) -> int | None:
        """The most connections there may be, None for ``max_size``. May be set at any time."""
        return self._burst_limit

    @burst_limit.setter
    def burst_limit(self, burst_limit: int | None) -> None:
        self._pool.resize(burst=_burst(self._max_size, burst_limit))
        self._burst_limit = burst_limit

    @property
    def in_use(self) -> int:
        """Connections that somebody holds."""
        return self._pool.stats().in_use

    @property
    def currently_allocating(self) -> int:
        """Connections that are being opened."""
        return self._pool.stats().opening

    @property
    def currently_deallocating(self) -> int:
        """Connections that are being closed."""
        return self._pool.stats().closing

    @property
    def available(self) -> Available:
        """The idle connections, to be counted."""
        return Available(self)

    def stats(self) -> PoolStats:
        """A frozen :class:`PoolStats` of this moment."""
        return self._pool.stats()

    def __repr__(self) -> str:
        stats = self._pool.stats()
        limit = "" if self._burst_limit is None else f" burst_limit={self._burst_limit}"
        return f"<ConnectionPool in_use={stats.in_use} idle={stats.idle} max_size={self._max_size}{limit}>"

    # What subclasses in the field read: that library's own, contrib.datadog, reports these.

    @property
    def _total(self) -> int:
        stats = self._pool.stats()
        return stats.in_use + stats.opening + stats.idle

    @property
    def _waiters(self) -> int:
        """Waiters for whom no connection is being opened: those are allocating, in that library's words."""
        stats = self._pool.stats()
        return max(0, stats.waiting - stats.opening)

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()


class _AfterATurn(Generic[Conn]):
    """A lease whose holder goes on one turn of the loop after it got its connection.

    In that library, whoever gave a connection back, and whoever waited for that, runs before the next holder; its test
    suite counts on it.
    """

    __slots__ = ("_lease",)

    def __init__(self, lease: Lease[Conn]) -> None:
        self._lease = lease

    async def __aenter__(self) -> Conn:
        conn = await self._lease.__aenter__()
        try:
            await asyncio.sleep(0)
        except BaseException:
            await self._lease.__aexit__(None, None, None)  # it was not used
            raise
        return conn

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._lease.__aexit__(kind, error, traceback)


class Available:
    """The idle connections of a :class:`ConnectionPool`, as the queue that they are in that library: to be counted."""

    __slots__ = ("_pool",)

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = pool

    @property
    def maxsize(self) -> int:
        """The pool's ``max_size``."""
        return self._pool.max_size

    def qsize(self) -> int:
        """How many there are."""
        return self._pool.stats().idle

    def empty(self) -> bool:
        """Whether there is none."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Whether there are ``max_size`` of them."""
        return self.qsize() >= self.maxsize

    def __repr__(self) -> str:
        return f"<{self.qsize()} idle connections of {self._pool!r}>"


def _burst(max_size: int, burst_limit: int | None) -> int:
    """How many connections above ``max_size`` an absolute limit allows."""
    if burst_limit is None:
        return 0
    if burst_limit < max_size:
        # The words are asyncio-connection-pool's: its users match them.
        raise ValueError(
            f"burst_limit must be greater than or equal to max_size, got burst_limit={burst_limit} and "
            f"max_size={max_size}: it is the most connections in all, not those above max_size"
        )
    return burst_limit - max_size
