"""Broadcasts: one call for each of many keys of a pool, all results and all errors kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from loopwright.mapping import amap
from loopwright.timeouts import timeout_at

if TYPE_CHECKING:
    from loopwright.pools import KeyedPool

__all__ = ["Broadcast", "broadcast"]

C = TypeVar("C")
K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Broadcast(Generic[K, R]):
    """What a :meth:`KeyedPool.broadcast` gave: each key is in one of the two, in the order in which they were given."""

    results: dict[K, R]
    """What the calls returned."""
    errors: dict[K, Exception]
    """What the others raised: the connect, the wait for a connection, or the call."""


async def broadcast(
    pool: KeyedPool[K, C],
    keys: Iterable[K],
    fn: Callable[[C], Awaitable[R]],
    limit: int,
    seconds: float | None,
) -> Broadcast[K, R]:
    """Carries :meth:`KeyedPool.broadcast` out; the arguments are known to be good."""
    wanted = list(dict.fromkeys(keys))
    results: dict[K, R] = {}
    errors: dict[K, Exception] = {}
    loop = asyncio.get_running_loop()

    async def call(key: K) -> None:
        until = None if seconds is None else loop.time() + seconds
        try:
            async with pool.acquire(key, timeout=seconds) as connection, timeout_at(until):
                results[key] = await fn(connection)
        except Exception as error:
            errors[key] = error

    strays = await amap(call, wanted, limit=limit, errors="return")
    # A call that was cancelled by somebody else than its caller: the map says so in its place.
    errors.update((key, stray) for key, stray in zip(wanted, strays, strict=True) if stray is not None)
    return Broadcast(
        {key: results[key] for key in wanted if key in results},
        {key: errors[key] for key in wanted if key in errors},
    )
