"""redis-py (``redis.asyncio``): a pool of clients with one connection each, a ``connection_pool=`` for shared clients,
and limits that many processes share: ``Semaphore``, ``Lock``, ``RateLimiter``, ``CircuitBreaker``.

What an interruption leaves (redis-py 8.1): redis-py closes a connection whose command was interrupted between request
and reply, so ``is_connected`` tells it. What it cannot tell is a connection that something still holds (a subscription,
a ``WATCH``), or one with bytes that nobody asked for; the first is known here, because whatever uses the connection
takes it from :class:`~loopwright.integrations._redis.Single`, the second is ``connection.can_read()``. Such a
connection is closed: to open one costs no more than to clean one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Unpack, cast

from loopwright.integrations._driver import PoolOptions, connected, load
from loopwright.integrations._redis_breakers import CircuitBreaker, SharedCircuitBreakerStats
from loopwright.integrations._redis_limits import Lease, Lock, Semaphore, SharedLockStats, SharedSemaphoreStats
from loopwright.integrations._redis_rates import RateLimiter, SharedRateLimiterStats
from loopwright.pools import Pool

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.connection import AbstractConnection

    from loopwright.integrations._redis import Leases, Single

__all__ = [
    "CircuitBreaker",
    "Lease",
    "Lock",
    "RateLimiter",
    "Semaphore",
    "SharedCircuitBreakerStats",
    "SharedLockStats",
    "SharedRateLimiterStats",
    "SharedSemaphoreStats",
    "abort",
    "check",
    "close",
    "connection_pool",
    "is_clean",
    "is_closed",
    "pool",
    "reset",
]

DEFAULT_URL = "redis://localhost:6379/0"


def pool(
    url: str = DEFAULT_URL,
    *,
    max_size: int = 10,
    driver_options: Mapping[str, Any] | None = None,
    setup: Callable[[Redis], Awaitable[object]] | None = None,
    **options: Unpack[PoolOptions[Redis]],
) -> Pool[Redis]:
    """A pool of redis clients, each with one connection of its own::

        async with pool("redis://localhost") as redis, redis.acquire() as r:
            await r.set("name", "value")

    For what needs one connection over several commands: ``WATCH``, subscriptions, blocking reads. Commands, pipelines
    and subscriptions of a client take turns on its connection; one that comes while another holds it is refused by
    redis-py's ``ConnectionError``. Where each command may go over any connection, use :func:`connection_pool`.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as in ``redis.asyncio.from_url``.
        max_size: the most connections at once.
        driver_options: the other arguments of ``redis.asyncio.ConnectionPool.from_url``.
        setup: awaited with each new client before its first use.
        **options: of :class:`loopwright.Pool`.

    Raises:
        ImportError: redis is not installed.
    """
    driver = load("redis.asyncio", extra="redis")
    from loopwright.integrations._redis import Single  # noqa: PLC0415 (its classes are redis-py's)

    arguments = dict(driver_options or {})

    async def connect() -> Redis:
        single = Single.from_url(url, **arguments)
        await single.open()
        client: Redis = driver.Redis(connection_pool=single)
        return await connected(client, setup, abort)

    hooks: PoolOptions[Redis] = {
        "close": close,
        "abort": abort,
        "check": check,
        "is_closed": is_closed,
        "is_clean": is_clean,
        "reset": reset,
    }
    hooks.update(options)
    return Pool(connect, max_size=max_size, **hooks)


def connection_pool(
    url: str = DEFAULT_URL,
    *,
    max_size: int = 10,
    driver_options: Mapping[str, Any] | None = None,
    **options: Unpack[PoolOptions[AbstractConnection]],
) -> Leases:
    """A connection pool for redis-py's own clients, which take a connection for each command::

        redis = Redis.from_pool(connection_pool("redis://localhost", max_size=10))
        await asyncio.gather(*(redis.get(key) for key in keys))
        await redis.aclose()

    Its ``leases`` is the :class:`loopwright.Pool` behind it, with its ``stats()``. redis-py sees its own errors: a wait
    that is over is a ``ConnectionError``, as from ``BlockingConnectionPool``.

    Args:
        url, driver_options: as in :func:`pool`.
        max_size: the most connections at once; a client waits for one while all are in use.
        **options: of :class:`loopwright.Pool`.

    Raises:
        ImportError: redis is not installed.
    """
    load("redis.asyncio", extra="redis")
    from loopwright.integrations._redis import Leases  # noqa: PLC0415 (its classes are redis-py's)

    return Leases.from_url(url, max_connections=max_size, pool_options=options, **(driver_options or {}))


async def close(client: Redis) -> None:
    """Disconnects it, for good."""
    await _single(client).close()


def abort(client: Redis) -> None:
    """Drops the socket, without waiting for anything."""
    _single(client).abort()


async def check(client: Redis) -> None:
    """A round trip; raises where there is nobody at the other end, or where there is something unread."""
    await _single(client).check()


def is_closed(client: Redis) -> bool:
    """Whether its connection was closed, by redis-py (one whose command was interrupted) or by the server."""
    return _single(client).is_closed()


def is_clean(client: Redis) -> bool:
    """Whether it is open, nothing holds its connection, and nothing is unread on it."""
    return _single(client).is_clean()


def reset(client: Redis) -> bool:
    """Whether it is clean: what is not is closed, as that takes no longer than to clean it."""
    return is_clean(client)


def _single(client: Redis) -> Single:
    return cast("Single", client.connection_pool)
