"""The example service, ``examples/api``: what its clients see while it is restarted, overloaded, or without a database.

The middleware is tested on the simulated loop; the service as it is run, in processes of its own over real servers.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from support import requires

from loopwright.testing import run

if TYPE_CHECKING:
    from support.servers import Postgres, Redis

requires.module("starlette")

from api.deadline import Deadline  # noqa: E402
from api.draining import Draining  # noqa: E402
from api.stats import Histogram, percentiles  # noqa: E402

from loopwright import CancelToken, PoolFull, PoolTimeout  # noqa: E402

# The middleware

App = Callable[..., Awaitable[None]]


async def ask(app: App, path: str = "/") -> tuple[int, dict[str, str]]:
    """The status and the headers of an answer."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    await app({"type": "http", "path": path, "method": "GET", "headers": []}, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


def raising(error: BaseException, *, begun: bool = False) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    return app


async def slow(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(60)


def test_a_request_that_is_not_done_in_time_is_504() -> None:
    async def main() -> float:
        assert (await ask(Deadline(slow, 2.0, (OSError,))))[0] == 504
        return asyncio.get_running_loop().time()

    assert run(main) == 2.0


@pytest.mark.parametrize("error", [PoolFull("full"), PoolTimeout("late"), ConnectionRefusedError("down")])
def test_a_request_that_was_turned_away_is_503_and_says_when_to_come_back(error: Exception) -> None:
    status, headers = run(lambda: ask(Deadline(raising(error), 2.0, (OSError,))))
    assert status == 503
    assert 1 <= int(headers["retry-after"]) <= 3


@pytest.mark.parametrize("error", [TimeoutError("somebody else's"), ValueError("a bug")])
def test_other_errors_are_the_frameworks(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        run(lambda: ask(Deadline(raising(error), 2.0)))


def test_half_an_answer_never_becomes_a_whole_one() -> None:
    with pytest.raises(PoolTimeout):
        run(lambda: ask(Deadline(raising(PoolTimeout("late"), begun=True), 2.0)))


def test_while_draining_all_is_served_and_every_answer_closes_its_connection() -> None:
    async def hello(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
        await send({"type": "http.response.body", "body": b"hello"})

    async def main() -> None:
        app = Draining(hello)
        assert await ask(app) == (200, {"x-own": "1"})
        assert (await ask(app, "/readyz"))[0] == 200
        app.draining = True
        assert await ask(app) == (200, {"x-own": "1", "connection": "close"})
        assert (await ask(app, "/readyz"))[0] == 503
        assert (await ask(app, "/healthz"))[0] == 200, "nobody has to restart it"
        assert (app.answers[200], app.in_flight) == (2, 0)

    run(main)


def test_percentiles_are_upper_bounds_within_a_class() -> None:
    histogram = Histogram()
    for milliseconds in range(1, 1001):
        histogram.add(milliseconds / 1000)
    found = percentiles(histogram.counts, Histogram.PER_OCTAVE)
    assert list(found) == ["p50", "p90", "p99", "p99.9"]
    for bound, exact in zip(found.values(), (0.5, 0.9, 0.99, 0.999), strict=True):
        assert exact <= bound < exact * 1.2
    assert percentiles([0] * 30) == {}


def test_the_load_notices_what_is_lost() -> None:
    """Its other tests are worth something: answers of 500 and above, and connections that are cut, are told."""
    load_module = requires.module("api.load")
    answers = itertools.cycle([b"HTTP/1.1 200 OK", b"HTTP/1.1 503 Service Unavailable", None])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        first = b"HTTP/1.1 200 OK" if b"/readyz" in request else next(answers)
        if first is not None:
            writer.write(first + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        stop = CancelToken()
        async with await asyncio.start_server(answer, "127.0.0.1") as server:
            address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            load = load_module.Load([address], rate=1000)
            running = asyncio.create_task(load.run(stop))
            await until(lambda: asyncio.sleep(0, load.outcome.requests() >= 30))
            stop.cancel()
            results = (await running).results
        assert set(results) == {"200", "503", "lost"}
        assert load.outcome.failed() == results["503"] + results["lost"] > results["200"]

    asyncio.run(main())


# The service


@asynccontextmanager
async def served(postgres: Postgres, redis_server: Redis, **settings: object) -> AsyncIterator[Callable[..., Any]]:
    """An instance; gives a function that asks it, for the status, the headers and the body."""
    aiohttp, demo = requires.module("aiohttp"), requires.module("api.demo")
    await requires.module("api.app").prepare(postgres.dsn)
    async with (
        demo.Instance(postgres.dsn, redis_server.url, drain_delay=0, **settings) as instance,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):

        async def get(path: str, **headers: str) -> tuple[int, Any, str]:
            async with session.get(instance.address + path, headers=headers) as response:
                return response.status, response.headers, await response.text()

        yield get
        assert await instance.stop() == 0


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110 (what is waited for is in another process)
            await asyncio.sleep(0.05)


@pytest.mark.default_only
@pytest.mark.parametrize("instances", [1, 2])
def test_a_restart_under_load_is_not_noticed(instances: int, postgres: Postgres, redis_server: Redis) -> None:
    """No answer of 500 or above, every request that was accepted is answered, every sale that was answered is in the
    database and no other, each instance ends with 0, and in the end no server sees a connection of ours. With a single
    instance the balancer holds back what comes meanwhile.
    """
    demo, rich = requires.module("api.demo"), requires.module("rich.console")
    # A busy machine is slow, and that is not the subject.
    patient = {"deadline": 20, "pool_timeout": 20, "drain_delay": 1.5, "grace": 60}
    load = {"instances": instances, "rate": 60, "pause": 0.7, "console": rich.Console(quiet=True)}
    verdict = asyncio.run(demo.Rehearsal(postgres.dsn, redis_server.url, **load, **patient).run())
    assert verdict.complaints() == [], verdict
    assert set(verdict.outcome.results) == {"200"}
    assert verdict.outcome.bought > 0
    assert verdict.exit_codes == [0] * (2 * instances)


@pytest.mark.default_only
def test_a_slow_query_meets_its_deadline_and_runs_on_for_nobody(postgres: Postgres, redis_server: Redis) -> None:
    async def main() -> None:
        async with served(postgres, redis_server, deadline=0.5) as get:
            status, _, body = await get("/report?seconds=60")
            assert (status, "0.5 s" in body) == (504, True)

            watcher = await requires.module("asyncpg").connect(postgres.dsn)
            running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep($1)%'"

            async def is_over() -> bool:
                return bool(await watcher.fetchval(f"{running} AND pid != pg_backend_pid()") == 0)

            await until(is_over)
            await watcher.close()
            assert (await get("/items/1"))[0] == 200

    asyncio.run(main())


@pytest.mark.default_only
def test_an_exhausted_pool_turns_away_at_once_what_cannot_wait(postgres: Postgres, redis_server: Redis) -> None:
    """Two connections, three places to wait: of twelve, two are served, three wait in vain, the rest is told first."""

    async def main() -> None:
        settings = {"pool_size": 2, "pool_waiting": 3, "pool_timeout": 0.5, "deadline": 30.0}
        async with served(postgres, redis_server, **settings) as get:
            ended: list[tuple[int, str]] = []

            async def one() -> None:
                status, headers, body = await get("/report?seconds=2")
                ended.append((status, body.split(":")[1].strip(' "') if status == 503 else ""))
                assert (status == 503) == ("Retry-After" in headers)

            await asyncio.gather(*(one() for _ in range(12)))
            kinds = list(dict.fromkeys(ended))
            assert kinds == [(503, "PoolFull"), (503, "PoolTimeout"), (200, "")]
            # The refresher may have had one of the places.
            assert ended.count((200, "")) in (1, 2)
            assert ended.count((503, "PoolTimeout")) in (2, 3)
            await until(lambda: _is(get("/report?seconds=0"), 200))

    asyncio.run(main())


async def _is(asked: Awaitable[tuple[int, Any, str]], status: int) -> bool:
    return (await asked)[0] == status


@pytest.mark.default_only
def test_without_its_database_it_says_so_at_once_and_recovers_by_itself(
    postgres: Postgres, redis_server: Redis
) -> None:
    async def main() -> None:
        async with served(postgres, redis_server) as get:
            await asyncio.to_thread(postgres.kill)
            try:
                await until(lambda: _is(get("/items/1"), 503))
                status, headers, _ = await get("/items/2")
                assert (status, "Retry-After" in headers) == (503, True)
                assert (await get("/best"))[0] == 200, "what needs no database is served"
                assert (await get("/readyz"))[0] == 200, "no other instance could do better"
            finally:
                await asyncio.to_thread(postgres.start)
            await until(lambda: _is(get("/items/1"), 200))

    asyncio.run(main())


@pytest.mark.default_only
def test_stats_are_json_for_machines_and_a_page_for_people(postgres: Postgres, redis_server: Redis) -> None:
    async def main() -> None:
        async with served(postgres, redis_server) as get:
            assert (await get("/items/9"))[1]["X-Cache"] == "miss"
            assert (await get("/items/9"))[1]["X-Cache"] == "hit"
            status, headers, body = await get("/stats")
            assert (status, headers["Content-Type"]) == (200, "application/json")
            found = json.loads(body)
            assert found["answers"] == {"200": 2}
            assert found["pools"]["database"]["in_use"] == found["pools"]["cache"]["in_use"] == 0
            assert found["pools"]["cache"]["opened"] >= 1
            assert found["pools"]["database"]["holds"]["p50"] > 0

            status, headers, body = await get("/stats", accept="text/html")
            assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
            assert "<svg" in body
            assert "<h2>database: 0 of 8 in use</h2>" in body

    asyncio.run(main())
