"""Pools as the gate matrix uses them: ours, asyncio-connection-pool, and one that is broken on purpose."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from loopwright import KeyedPool, Pool, finish
from support import requires
from support.pool_gates import CONNECT_TIMEOUT, HOOK_TIMEOUT, PATIENCE, Books, Connection, GateError, Party, Server

__all__ = ["FLAWS", "LoopwrightPool", "NaivePool", "asyncio_connection_pool", "loopwright_pool", "naive_pool"]


class _Plain:
    """What only the better pools have."""

    def take(self) -> Awaitable[Connection] | None:
        return None

    def give(self, connection: Connection, *, discard: bool) -> None:
        raise NotImplementedError

    def try_take(self) -> Connection | None:
        return None


class LoopwrightPool:
    """Ours; of a KeyedPool, one key."""

    def __init__(self, pool: Pool[Connection] | KeyedPool[Any, Connection], *key: object) -> None:
        self.pool: Any = pool
        self.key = key

    def acquire(self) -> AbstractAsyncContextManager[Connection]:
        lease: AbstractAsyncContextManager[Connection] = self.pool.acquire(*self.key)
        return lease

    def take(self) -> Awaitable[Connection]:
        lease: Awaitable[Connection] = self.pool.acquire(*self.key)
        return lease

    def give(self, connection: Connection, *, discard: bool) -> None:
        if discard:
            self.pool.discard(connection)
        else:
            self.pool.release(connection)

    def try_take(self) -> Connection | None:
        connection: Connection | None = self.pool.try_acquire(*self.key)
        return connection

    def books(self) -> Books:
        counts = (
            self.pool._counts()
        )  # what `stats` is made of; asked at every step, the rest of it would be most of a run
        totals = counts["opened"], counts["closed"], counts["abandoned"]
        coming = counts["checking"] + counts["resetting"]
        now = counts["idle"], counts["in_use"], counts["opening"], coming, counts["closing"], counts["waiting"]
        return Books(*totals, *now)

    async def close(self) -> None:
        await self.pool.aclose(grace=1.0)


def loopwright_pool(server: Server, size: int) -> Party:
    """With every hook, and nothing of its own accord: no lifetimes."""
    return LoopwrightPool(
        Pool(
            server.connect,
            close=server.close,
            abort=server.abort,
            check=server.check,
            is_clean=server.is_clean,
            reset=server.reset,
            check_after=0.0,
            connect_timeout=CONNECT_TIMEOUT,
            hook_timeout=HOOK_TIMEOUT,
            max_size=size,
            timeout=PATIENCE,
        )
    )


def asyncio_connection_pool(server: Server, size: int) -> Party:
    """The release that the guides copy."""
    library: Any = requires.module("asyncio_connection_pool")

    class Strategy(library.ConnectionStrategy):  # type: ignore[misc,name-defined]
        make_connection = staticmethod(server.connect)
        close_connection = staticmethod(server.close)

        def connection_is_closed(self, connection: Connection) -> bool:
            if connection.is_open and connection.midway:
                server.abort(connection)  # to be fair: a user who knows how would have it done here
            return not connection.is_open

    class Pool(_Plain):
        def __init__(self) -> None:
            self.pool = library.ConnectionPool(strategy=Strategy(), max_size=size)

        def acquire(self) -> AbstractAsyncContextManager[Connection]:
            return self.pool.get_connection()  # type: ignore[no-any-return]

        def books(self) -> Books:
            pool = self.pool
            idle, opening = pool.available.qsize(), pool.currently_allocating
            return Books(idle + pool.in_use, 0, 0, idle, pool.in_use, opening, 0, 0, 0)

        async def close(self) -> None:
            async def close_all() -> None:  # it has no such method
                while not self.pool.available.empty():
                    await server.close(self.pool.available.get_nowait())

            await finish(close_all())

    return Pool()


FLAWS = {
    "hands on what is dirty": "dirty",
    "frees its room before the close": "limit",
    "loses the room of a cancelled connect": "shrank",
    "forgets to close": "the limit is",
    "hands one connection to two": "while user-",
    "hands out what is closed": "after its end",
    "checks what is in use": "check of",
}
"""Ways to break a pool, and a word of what the matrix says of each."""


class NaivePool(_Plain):
    """A pool as one writes it in an hour: a semaphore and a list. Sound, as far as it goes, unless it has a flaw.

    It resets and closes in its user's way, knows no back-off and no lifetime, and its line is asyncio's.
    """

    def __init__(self, server: Server, size: int, flaw: str = "") -> None:
        self.server = server
        self.flaw = flaw
        self.room = asyncio.Semaphore(size)
        self.size = size
        self.idle: list[Connection] = []

    def books(self) -> Books:
        idle, there = len(self.idle), len(self.server.open)
        return Books(there, 0, 0, idle, max(0, there - idle), 0, 0, 0, 0)

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        await self.room.acquire()
        freed = False
        try:
            connection = await self._ready()
            try:
                yield connection
            finally:
                if connection.midway and self.flaw != "hands on what is dirty":
                    if self.flaw == "frees its room before the close":
                        freed = True
                        self.room.release()
                    if self.flaw != "forgets to close":
                        await finish(self._close(connection))
                elif self.flaw == "hands out what is closed" and self.server.calls["connect"] > 1:
                    self.idle.append(connection)
                    await finish(self._close(connection))
                elif connection not in self.idle:
                    self.idle.append(connection)
        except asyncio.CancelledError:
            freed = freed or (
                self.flaw == "loses the room of a cancelled connect" and bool(self.server.calls["connect"] % 2)
            )
            raise
        finally:
            if not freed:
                self.room.release()

    async def _ready(self) -> Connection:
        while self.idle:
            connection = self.idle[-1] if self.flaw == "hands one connection to two" else self.idle.pop()
            if self.flaw == "checks what is in use" and len(self.server.open) > 1:
                await self.server.check(next(one for one in self.server.open if one is not connection))
            if self.flaw.startswith("hands o"):
                return connection
            if await self._passes(connection):
                return connection
        async with asyncio.timeout(CONNECT_TIMEOUT):
            return await self.server.connect()

    async def _passes(self, connection: Connection) -> bool:
        """Whether its check and its reset go well; else it is closed."""
        good = False
        try:
            async with asyncio.timeout(HOOK_TIMEOUT):
                if await self.server.check(connection):
                    await self.server.reset(connection)
                    good = True
        except (GateError, TimeoutError):
            good = False
        finally:
            if not good:
                await finish(self._close(connection))
        return good

    async def _close(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(HOOK_TIMEOUT):
                await self.server.close(connection)
        except (GateError, TimeoutError):
            if connection.is_open:
                self.server.abort(connection)

    async def close(self) -> None:
        idle, self.idle = self.idle, []

        async def close_all() -> None:
            await asyncio.gather(*map(self._close, idle))

        await finish(close_all())


def naive_pool(flaw: str = "") -> Callable[[Server, int], Party]:
    """Makes naive pools."""
    return lambda server, size: NaivePool(server, size, flaw)
