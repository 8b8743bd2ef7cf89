"""integrations.http: the body is given back whatever the caller does; hosts are asked politely, and not while down."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from support import requires

from loopwright import BreakerOpen, CircuitBreaker, LoopMismatch, RateLimiter, Retry, finish, timeout
from loopwright.integrations.http import Service, is_down

each_client = pytest.mark.parametrize("client", ["aiohttp", "httpx"])


class Site:
    """A server of HTTP/1.1 on loopback that does what the path says."""

    def __init__(self) -> None:
        self.open = self.peak = self.requests = 0
        self.statuses: list[int] = []
        self.headers: dict[str, str] = {}
        self.gate = asyncio.Event()
        self.arrived = asyncio.Condition()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.peak = max(self.peak, self.open)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                await reader.readexactly(int(length[1]) if length else 0)
                if b"chunked" in head:
                    await reader.readuntil(b"0\r\n\r\n")
                self.requests += 1
                async with self.arrived:
                    self.arrived.notify_all()
                await self.answer(head.split()[1].decode(), reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()
            async with self.arrived:
                self.arrived.notify_all()

    async def answer(self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        status, size, more = 200, 5, 0
        if path.endswith("/status"):
            status = self.statuses.pop(0) if self.statuses else 200
        elif path.endswith("/held"):
            await self.gate.wait()
        elif path.endswith("/large"):
            size, more = 1 << 16, 1 << 22
        elif path.endswith("/endless"):
            size, more = 5, 1 << 22
        headers = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {size + more}\r\n{headers}\r\n".encode() + b"x" * size)
        if path.endswith("/large"):
            writer.write(b"x" * more)
        elif path.endswith("/endless"):
            await reader.read()  # until the client hangs up
        await writer.drain()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with self.arrived:
            await asyncio.wait_for(self.arrived.wait_for(condition), 60)


@contextlib.asynccontextmanager
async def site(host: str = "127.0.0.1") -> AsyncIterator[tuple[Site, str]]:
    serving = Site()
    sock = socket.socket()
    sock.bind((host, 0))
    sessions: set[asyncio.Task[None]] = set()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = asyncio.ensure_future(serving.serve(reader, writer))
        sessions.add(session)
        session.add_done_callback(sessions.discard)

    server = await asyncio.start_server(serve, sock=sock, backlog=4096)
    try:
        yield serving, f"http://{host}:{sock.getsockname()[1]}"
    finally:
        server.close()
        for session in tuple(sessions):
            session.cancel()
        if sessions:
            await asyncio.wait(sessions)


def status_error(client: str) -> type[Exception]:
    library = requires.module(client)
    error: type[Exception] = library.ClientResponseError if client == "aiohttp" else library.HTTPStatusError
    return error


def status(response: Any) -> int:
    code: int = getattr(response, "status", None) or response.status_code
    return code


def text(response: Any) -> bytes:
    body: bytes = response.content if hasattr(response, "status_code") else response._body
    return body


# ------------------------------------------------------------------------------- bodies


async def reads_nothing(api: Service) -> None:
    async with api.get("/large") as response:
        assert status(response) == 200


async def reads_all(api: Service) -> None:
    async with api.get("/large") as response:
        await (response.read() if hasattr(response, "read") and not hasattr(response, "aread") else response.aread())


async def reads_the_beginning(api: Service) -> None:
    async with api.get("/endless") as response:
        chunks = response.content.iter_any() if not hasattr(response, "aiter_raw") else response.aiter_raw()
        async for chunk in chunks:
            assert chunk == b"xxxxx"
            break


async def fails_in_the_block(api: Service) -> None:
    with pytest.raises(LookupError):
        async with api.get("/endless"):
            raise LookupError


async def is_cancelled_in_the_block(api: Service) -> None:
    inside = asyncio.Event()

    async def caller() -> None:
        async with api.get("/endless"):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(caller())
    await inside.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def is_cancelled_twice_while_it_leaves(api: Service) -> None:
    inside = asyncio.Event()

    async def caller() -> None:
        async with api.get("/endless"):
            inside.set()

    task = asyncio.create_task(caller())
    await inside.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([task])


async def is_cancelled_while_it_is_read(api: Service) -> None:
    with pytest.raises(TimeoutError):
        async with timeout(0.05):
            await api.get("/endless")


async def is_cancelled_before_the_answer(api: Service) -> None:
    with pytest.raises(TimeoutError):
        async with timeout(0.05):
            await api.get("/held")


async def leaves_a_generator_behind(api: Service) -> None:
    async def stream() -> AsyncIterator[int]:
        async with api.get("/endless") as response:
            yield status(response)

    numbers = stream()
    async for number in numbers:
        assert number == 200
        break
    await numbers.aclose()  # type: ignore[attr-defined]


async def drops_the_task(api: Service) -> None:
    async def stream() -> AsyncIterator[int]:
        async with api.get("/endless") as response:
            yield status(response)

    async for _ in stream():
        break
    gc.collect()  # the loop closes it


async def gets_an_error_status(api: Service) -> None:
    with pytest.raises(Exception, match="404"):
        async with api.get("/status"):
            raise AssertionError("not entered")


async def only_awaits(api: Service) -> None:
    response = await api.get("/large")
    assert len(text(response)) == (1 << 22) + (1 << 16)


CALLERS = [
    reads_nothing,
    reads_all,
    reads_the_beginning,
    fails_in_the_block,
    is_cancelled_in_the_block,
    is_cancelled_twice_while_it_leaves,
    is_cancelled_while_it_is_read,
    is_cancelled_before_the_answer,
    leaves_a_generator_behind,
    drops_the_task,
    gets_an_error_status,
    only_awaits,
]


@pytest.mark.default_only
@each_client
@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.__name__)
def test_the_body_is_given_back_whatever_the_caller_does(
    client: Any, caller: Callable[[Service], Awaitable[None]]
) -> None:
    requires.module(client)

    async def main() -> None:
        async with site() as (server, url), Service(url, client=client, per_host=1, retry=None) as api:
            for _ in range(3):
                server.statuses = [404]
                await caller(api)
                server.gate.set()
                server.statuses = []
                async with asyncio.timeout(60):  # the one place of the host is free again
                    response = await api.get("/")
                assert text(response) == b"xxxxx"
                server.gate.clear()
                assert api.stats().in_flight == 0
                await server.until(lambda: server.open <= 1)  # no connection is left behind

    asyncio.run(main())


@pytest.mark.default_only
@each_client
def test_a_cancel_at_any_moment_of_a_request_loses_no_place(client: Any) -> None:
    requires.module(client)

    async def main() -> None:
        async with site() as (server, url), Service(url, client=client, per_host=1, retry=None) as api:
            await api.get("/")
            for turns in range(60):
                task = asyncio.create_task(finish(_whole(api)) if turns % 7 == 6 else _whole(api))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                assert api.stats().in_flight == 0
            async with asyncio.timeout(60):
                await api.get("/")
            if client == "aiohttp":  # httpcore can leave one open that was being opened (encode/httpcore#1093)
                await server.until(lambda: server.open <= 1)

    asyncio.run(main())


async def _whole(api: Service) -> Any:
    return await api.get("/large")


# ------------------------------------------------------------------------------- many connections


@pytest.mark.default_only
@pytest.mark.timeout(300)
def test_five_thousand_connections_on_loopback() -> None:
    requires.module("aiohttp")
    resource = requires.module("resource")
    many = 5_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * many + 500  # both ends are in this process
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"the limit of open files is {hard}, and 5,000 connections take {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))

    async def main() -> None:
        settings: dict[str, Any] = {"per_host": many, "timeout": None, "read_timeout": 240, "retry": None}
        async with site("127.0.0.17") as (server, url), Service(url, **settings) as api:
            tasks = []
            for first in range(0, many, 500):  # a listening socket's queue is shorter than that crowd
                tasks += [asyncio.create_task(_held(api)) for _ in range(500)]
                await server.until(lambda arrived=first + 500: server.requests >= arrived)  # type: ignore[misc]
            assert (server.open, api.stats().in_flight) == (many, many)
            for task in tasks[::5]:
                task.cancel()
            server.gate.set()
            await asyncio.wait(tasks)
            assert sum(task.cancelled() for task in tasks) == many // 5
            assert all(task.result() == 200 for task in tasks if not task.cancelled())
            assert api.stats().in_flight == 0
            assert api.stats().failures == 0
        await server.until(lambda: server.open == 0)

    try:
        asyncio.run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _held(api: Service) -> int:
    return status(await api.get("/held"))


# ------------------------------------------------------------------------------- politeness


@pytest.mark.default_only
@each_client
def test_no_more_requests_to_a_host_than_agreed(client: Any) -> None:
    requires.module(client)

    async def main() -> None:
        async with (
            site() as (one, first),
            site() as (two, second),
            Service(client=client, per_host=3, retry=None) as api,
        ):
            tasks = [asyncio.create_task(_get(api, f"{url}/held")) for url in (first, second) for _ in range(10)]
            await one.until(lambda: one.requests == 3)
            await two.until(lambda: two.requests == 3)
            assert api.stats().in_flight == 20
            one.gate.set()
            two.gate.set()
            await asyncio.gather(*tasks)
            assert (one.peak, two.peak, one.requests, two.requests) == (3, 3, 10, 10)
            assert api.stats().hosts == 2

    asyncio.run(main())


async def _get(api: Service, url: str) -> Any:
    return await api.get(url)


@pytest.mark.default_only
@each_client
def test_what_is_down_is_left_alone_and_what_answers_is_not(client: Any) -> None:
    requires.module(client)
    made: list[str] = []

    def breaker(host: str) -> CircuitBreaker:
        made.append(host)
        return CircuitBreaker(min_calls=4, open_for=3600, on=is_down, name=host)

    async def main() -> None:
        settings: dict[str, Any] = {"client": client, "breaker": breaker, "retry": None}
        async with site() as (server, url), site() as (other, fine), Service(**settings) as api:
            server.statuses = [404] * 10 + [429] * 10
            for _ in range(20):
                with pytest.raises(status_error(client)):
                    await api.get(f"{url}/status")
            server.statuses = [500] * 100
            for _ in range(100):
                with pytest.raises((status_error(client), BreakerOpen)):
                    await api.get(f"{url}/status")
            down = api.breaker(f"{url}/status")
            assert down is not None and down.state == "open"
            assert server.requests < 60
            assert status(await api.get(fine)) == 200
            assert made == [url, fine]
            assert other.requests == 1

    asyncio.run(main())


@pytest.mark.default_only
@each_client
def test_retries_what_may_be_sent_twice(client: Any) -> None:
    requires.module(client)

    async def main() -> None:
        async with site() as (server, url), Service(url, client=client, breaker=None, per_host=1) as api:
            server.statuses = [503, 503]
            assert status(await api.get("/status")) == 200
            assert (server.requests, api.stats().attempts, api.stats().requests) == (3, 3, 1)
            server.statuses = [503, 200]
            with pytest.raises(status_error(client)):
                await api.post("/status")
            assert server.statuses == [200]
            server.statuses = [503, 200]
            assert status(await api.post("/status", idempotent=True)) == 200
            server.statuses = [500, 200]
            with pytest.raises(status_error(client)):  # not this request: nothing to be repeated
                await api.put("/status")

            async def body() -> AsyncIterator[bytes]:
                yield b"once"

            server.statuses = [503, 200]
            with pytest.raises(status_error(client)):
                await api.put("/status", **{"data" if client == "aiohttp" else "content": body()})
            server.headers = {"Retry-After": "3600"}
            server.statuses = [503, 200]
            async with timeout(30):
                with pytest.raises(status_error(client)):  # it asked for more time than there is
                    await api.get("/status")
            assert api.stats().in_flight == 0

    asyncio.run(main())


@pytest.mark.default_only
@each_client
def test_statuses_that_are_answers(client: Any) -> None:
    requires.module(client)

    async def main() -> None:
        async with site() as (server, url), Service(url, client=client, ok=range(400, 600)) as api:
            server.statuses = [404, 503]
            assert [status(await api.get("/status")) for _ in range(2)] == [404, 503]
            async with api.request("get", "status") as response:
                assert status(response) == 200
            assert server.requests == 3

    asyncio.run(main())


@pytest.mark.default_only
@each_client
def test_a_request_has_an_end(client: Any) -> None:
    requires.module(client)

    async def main() -> None:
        async with site() as (_, url), Service(url, client=client, timeout=0.05, breaker=None) as api:
            for path in ("/held", "/endless"):
                with pytest.raises(TimeoutError):
                    await api.get(path)
            assert api.stats().in_flight == 0

    asyncio.run(main())


@pytest.mark.default_only
def test_a_rate_for_each_host() -> None:
    requires.module("aiohttp")
    made: list[str] = []

    def rate(host: str) -> RateLimiter:
        made.append(host)
        return RateLimiter(1e-3, burst=2)

    async def main() -> None:
        async with site() as (_, url), Service(url, rate=rate, timeout=0.5, retry=None) as api:
            for _ in range(2):
                await api.get("/")
            with pytest.raises(TimeoutError, match="RateLimiter"):  # at once: it would take 1,000 s
                await api.get("/")
            assert (made, api.stats().attempts, api.stats().in_flight) == ([url], 2, 0)

    asyncio.run(main())


# ------------------------------------------------------------------------------- the object


def test_misuse_names_the_value_and_the_fix() -> None:
    requires.module("aiohttp")
    requires.module("httpx")
    for wrong, message in [
        ({"base_url": "example.org"}, "whole URL, got 'example.org': begin it with https://"),
        ({"client": "requests"}, "must be 'aiohttp' or 'httpx', got 'requests'"),
        ({"per_host": 0}, r"Service\(per_host=...\)"),
        ({"read_timeout": 0}, r"Service\(read_timeout=...\)"),
        ({"rate": -1}, r"rate=...\) must be more than 0"),
        ({"retry": Retry(), "attempt_timeout": 1}, "give it to the Retry"),
    ]:
        with pytest.raises(ValueError, match=message):
            Service(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="takes whole URLs, got '/users'"):
        Service().get("/users")


def test_stats_and_repr_tell_the_state() -> None:
    requires.module("aiohttp")
    api = Service("https://api.example.org", name="billing")
    assert dataclasses.asdict(api.stats()) == {
        "name": "billing",
        "requests": 0,
        "attempts": 0,
        "failures": 0,
        "in_flight": 0,
        "hosts": 0,
    }
    assert repr(api) == "<Service billing in_flight=0>"


def test_a_request_that_is_not_awaited_warns() -> None:
    requires.module("aiohttp")
    with pytest.warns(RuntimeWarning, match="was never awaited"):
        Service("https://api.example.org").get("/")
        gc.collect()


@pytest.mark.default_only
@each_client
def test_one_service_serves_one_loop_at_a_time(client: Any) -> None:
    requires.module(client)

    async def main(api: Service) -> None:
        async with site() as (_, url), api:
            await api.get(url)

    api = Service(client=client)
    asyncio.run(main(api))
    asyncio.run(main(api))  # closed there, opened here

    async def elsewhere() -> None:
        async with site() as (_, url):
            await api.get(url)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(elsewhere())
    with pytest.raises(LoopMismatch, match="one service per loop"):
        asyncio.run(elsewhere())
    loop.run_until_complete(api.aclose())
    loop.close()
