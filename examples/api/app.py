"""The application: items in PostgreSQL, a cache in Redis, and a list that is refreshed in the background."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
import redis.exceptions
from fastapi import FastAPI, HTTPException, Request, Response

from api.deadline import TURNED_AWAY, Deadline
from api.stats import page, picture
from loopwright import Background, Pool, timeout
from loopwright.integrations import asyncpg as postgres_pools
from loopwright.integrations import redis as redis_pools

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger("api")

CACHED = 5
"""Seconds that an item stays in the cache."""
CACHE_PATIENCE = 0.05
"""Seconds that the cache may take, all in all: a cache that is slower than the database is none."""
CONNECT_PATIENCE = 5.0
"""Seconds that a connect may take. It goes on when who asked for it has given up, and the next one has it: as short as
theirs, it would be begun again and again on a busy machine and never be done.
"""
DOWN = (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError)
"""How asyncpg says that there is no database to be had."""

Database: TypeAlias = "Pool[asyncpg.Connection[Any]]"
Cache: TypeAlias = "Pool[Redis]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What differs between places where it runs; see ``settings_from_environment``."""

    database: str
    cache: str
    host: str = "127.0.0.1"
    port: int = 8000
    deadline: float = 2.0
    """Seconds that a request may take."""
    pool_size: int = 8
    """Connections to PostgreSQL of this instance. All instances together have to fit into ``max_connections``."""
    pool_timeout: float = 1.0
    """Seconds that a request may wait for one: well below the deadline, or the rest is too short to be of use."""
    pool_waiting: int = 64
    """Requests that may wait for one; the next is turned away at once."""
    drain_delay: float = 1.0
    """Seconds from SIGTERM to the end of listening: two of the balancer's health checks, and a little."""
    grace: float = 20.0
    """Seconds from SIGTERM to the end of the process; more than ``drain_delay`` and ``deadline`` need together."""


@dataclass(slots=True)
class State:
    """What the routes use; ``request.app.state.it``."""

    database: Database
    cache: Cache
    jobs: Background
    began: float = field(default_factory=time.monotonic)
    best: list[dict[str, Any]] = field(default_factory=list)
    refreshed: float = 0.0


def create_app(settings: Settings) -> FastAPI:
    """The application. Its pools live as long as its lifespan, not at module level: they belong to one loop."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Entered from top to bottom and left from bottom to top: the refresher ends before the pools that it uses.
        async with (
            database_pool(settings) as database,
            cache_pool(settings) as cache,
            Background(on_error=_log_error) as jobs,
        ):
            app.state.it = state = State(database, cache, jobs)
            await database.warm()  # fails here and now when it cannot connect: nothing is served without a database
            await refresh(state)
            jobs.every(1.0, lambda: refresh(state), jitter=0.2, name="refresh")
            yield

    app = FastAPI(title="Items", lifespan=lifespan)
    app.add_middleware(Deadline, seconds=settings.deadline, unreachable=DOWN)
    app.add_api_route("/items/{number}", read, methods=["GET"])
    app.add_api_route("/items/{number}/buy", buy, methods=["POST"])
    app.add_api_route("/best", best, methods=["GET"])
    app.add_api_route("/report", report, methods=["GET"])
    app.add_api_route("/stats", stats, methods=["GET"])
    return app


def _log_error(error: BaseException, task: asyncio.Task[Any]) -> None:
    """A refresh that fails is a line in the log; the next one comes as ever, and the old list is served until then."""
    log.warning("%s failed: %r", task.get_name(), error)


def database_pool(settings: Settings) -> Database:
    return postgres_pools.pool(
        settings.database,
        driver_options={"server_settings": {"application_name": "example-api"}},
        name="database",
        min_size=2,
        max_size=settings.pool_size,
        timeout=settings.pool_timeout,
        connect_timeout=CONNECT_PATIENCE,
        max_waiting=settings.pool_waiting,
    )


def cache_pool(settings: Settings) -> Cache:
    return redis_pools.pool(
        settings.cache,
        driver_options={"client_name": "example-api"},
        name="cache",
        max_size=settings.pool_size,
        timeout=CACHE_PATIENCE,
        connect_timeout=CONNECT_PATIENCE,
        max_waiting=settings.pool_waiting,
    )


# The database


async def prepare(database: str, items: int = 200) -> None:
    """Makes the table, once, before any instance starts."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("DROP TABLE IF EXISTS items")
        await connection.execute(
            "CREATE TABLE items (number int PRIMARY KEY, name text NOT NULL, bought int NOT NULL DEFAULT 0)"
        )
        await connection.execute(
            "INSERT INTO items (number, name) SELECT n, 'item ' || n FROM generate_series(1, $1::int) n", items
        )
    finally:
        await connection.close()


async def refresh(state: State) -> None:
    """What many ask for and is dear to compute, once a second instead of once a request."""
    async with state.database.acquire() as connection:
        rows = await connection.fetch("SELECT number, name, bought FROM items ORDER BY bought DESC, number LIMIT 10")
    state.best = [dict(row) for row in rows]
    state.refreshed = time.monotonic()


# The cache


async def cached(state: State, *command: Any) -> Any:
    """The answer of the cache to one command; None when there is none in time, whatever the reason.

    A cache is there to make answers quick. That it is slow, full or down is worth a line in the statistics, and no
    error to anybody.
    """
    try:
        async with timeout(CACHE_PATIENCE), state.cache.acquire() as client:
            return await client.execute_command(*command)
    except (TimeoutError, OSError, redis.exceptions.RedisError, *TURNED_AWAY):
        return None


# The routes


def _state(request: Request) -> State:
    state: State = request.app.state.it
    return state


async def read(request: Request, number: int) -> Response:
    """An item: from the cache, else from the database."""
    state = _state(request)
    if (found := await cached(state, "GET", f"item:{number}")) is not None:
        return Response(found, media_type="application/json", headers={"x-cache": "hit"})
    async with state.database.acquire() as connection:
        row = await connection.fetchrow("SELECT number, name, bought FROM items WHERE number = $1", number)
    # The connection is back by now: nothing below holds one while it waits for something else.
    if row is None:
        raise HTTPException(404, f"there is no item {number}")
    body = json.dumps(dict(row)).encode()
    await cached(state, "SET", f"item:{number}", body, "EX", CACHED)
    return Response(body, media_type="application/json", headers={"x-cache": "miss"})


async def buy(request: Request, number: int) -> dict[str, int]:
    """One more of an item is sold. What the answer says has been committed."""
    state = _state(request)
    async with state.database.acquire() as connection, connection.transaction():
        bought = await connection.fetchval(
            "UPDATE items SET bought = bought + 1 WHERE number = $1 RETURNING bought", number
        )
    if bought is None:
        raise HTTPException(404, f"there is no item {number}")
    await cached(state, "DEL", f"item:{number}")
    return {"number": number, "bought": bought}


async def best(request: Request) -> dict[str, Any]:
    """What sells best, as of the last refresh: no connection is needed."""
    state = _state(request)
    return {"age": round(time.monotonic() - state.refreshed, 3), "items": state.best}


async def report(request: Request, seconds: float = 0.05) -> dict[str, float]:
    """A query that takes its time. The deadline ends it at the server too: no query runs on for nobody."""
    async with _state(request).database.acquire() as connection:
        await connection.fetchval("SELECT pg_sleep($1)", seconds)
    return {"seconds": seconds}


async def stats(request: Request) -> Response:
    """The state of the instance: JSON, or a page where a browser asks."""
    state = _state(request)
    requests = request.app.state.requests
    now = picture(
        uptime=time.monotonic() - state.began,
        requests=requests,
        pools={"database": state.database, "cache": state.cache},
        jobs=state.jobs,
        tasks=len(asyncio.all_tasks()),
    )
    if "text/html" in request.headers.get("accept", ""):
        return Response(page(now), media_type="text/html; charset=utf-8")
    return Response(json.dumps(now), media_type="application/json")
