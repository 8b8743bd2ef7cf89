"""Fakes work where the guides' mocks raise, fail on script, and say what is wrong with the script itself."""

from __future__ import annotations

import asyncio
import gc
from typing import Any
from unittest.mock import AsyncMock

import pytest
from support import requires

from loopwright.testing import run
from loopwright.testing.errors import ScriptExhausted
from loopwright.testing.fakes import (
    FakeClientSession,
    FakeConnection,
    FakeFunction,
    FakePool,
    always,
    answer,
    break_after,
    fail,
    httpx_transport,
    ok,
    respond,
    slow,
    stall,
    times,
)


def now() -> float:
    return asyncio.get_running_loop().time()


# Scripts


def test_a_script_is_played_call_by_call() -> None:
    async def main() -> None:
        async def double(number: int) -> int:
            return number * 2

        function = FakeFunction(
            [ok(1), fail(KeyError("k")), slow(2.0, ok(2)), answer(double), answer(max), times(2, ok(3)), always(ok(4))]
        )
        assert await function() == 1
        with pytest.raises(KeyError, match="k"):
            await function()
        assert (await function(), now()) == (2, 2.0)
        assert await function(21) == 42
        assert await function(1, 7) == 7
        assert [await function() for _ in range(5)] == [3, 3, 4, 4, 4]
        assert [call.outcome for call in function.calls[:3]] == ["ok", "failed", "ok"]
        assert str(function.calls[4]) == "function(1, 7)"
        assert function.calls[3].time == 2.0
        function.check()

    run(main)


def test_a_stalled_call_ends_by_a_cancel_only() -> None:
    async def main() -> None:
        function = FakeFunction([stall()])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1e6):
                await function()
        assert function.calls[0].outcome == "cancelled"

    run(main)


def test_a_call_beyond_the_script_says_which() -> None:
    async def main() -> None:
        fetch = FakeFunction([ok(), ok()], name="fetch")
        await fetch("/a")
        with pytest.raises(AssertionError, match=r"was called 1 times and its script is not over; next: ok\(None\)"):
            fetch.check()
        await fetch("/b")
        fetch.check()
        with pytest.raises(ScriptExhausted, match=r"'fetch' got call 3, fetch\('/c'\), .* always\(ok\(\)\)"):
            await fetch("/c")
        with pytest.raises(ScriptExhausted, match="1 calls more than its script has steps"):
            fetch.check()  # also where the program has swallowed it

    run(main)


def test_a_script_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match=r"script\[1\] of FakeFunction 'function' is 5; .* write ok\(5\)"):
        FakeFunction([ok(), 5])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"write fail\(KeyError\(\)\)"):
        FakeFunction([KeyError()])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="takes an exception, not 'no'"):
        fail("no")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"slow\(\) is 5"):
        slow(1, 5)  # type: ignore[arg-type]


def test_an_error_played_twice_carries_no_old_traceback() -> None:
    async def main() -> None:
        function = FakeFunction([always(fail(ValueError("again")))])
        depths = []
        for _ in range(3):
            try:
                await function()
            except ValueError as error:
                depth, at = 0, error.__traceback__
                while at is not None:
                    depth, at = depth + 1, at.tb_next
                depths.append(depth)
        assert len(set(depths)) == 1

    run(main)


# Connections


def test_a_connection_is_awaited_entered_and_iterated() -> None:
    async def main() -> None:
        connection = FakeConnection([ok(1), ok(), ok([1, 2]), ok("done")])
        assert await connection.fetchval("select 1") == 1
        async with connection.transaction(isolation="serializable"):
            assert [row async for row in connection.cursor("select 2")] == [1, 2]
        assert await connection.execute("commit") == "done"
        assert [str(call) for call in connection.calls] == [
            "fetchval('select 1')",
            "transaction(isolation='serializable')",
            "cursor('select 2')",
            "execute('commit')",
        ]
        async with connection:
            pass
        assert connection.is_closed()
        with pytest.raises(ConnectionError, match=r"connection\.execute\(\): the connection is closed"):
            await connection.execute("late")

    run(main)


def test_a_connection_breaks_where_its_script_says() -> None:
    async def main() -> None:
        connection = FakeConnection([break_after(2, ok("row"))])
        assert [await connection.fetch(), await connection.fetch()] == ["row", "row"]
        with pytest.raises(ConnectionResetError):
            await connection.fetch()
        assert connection.is_closed()
        with pytest.raises(ConnectionError, match="broken by ConnectionResetError"):
            await connection.fetch()
        other = FakeConnection([fail(ValueError("bad SQL")), ok()])
        with pytest.raises(ValueError, match="bad SQL"):
            await other.fetch()
        assert not other.is_closed(), "an error of the application breaks nothing"

    run(main)


def test_a_call_cancelled_midway_leaves_a_connection_dirty() -> None:
    async def main() -> None:
        connection = FakeConnection([slow(10), ok()])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await connection.execute("update")
        assert connection.dirty
        assert repr(connection) == "<FakeConnection connection dirty calls=1>"

    run(main)


def test_one_connection_serves_one_call_at_a_time() -> None:
    async def main() -> None:
        connection = FakeConnection([slow(1), ok()])
        task = asyncio.create_task(_awaited(connection.execute("a")))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match=r"another call is under way on this connection: execute\('a'\)"):
            await connection.execute("b")
        await task

    run(main)


async def _awaited(call: Any) -> Any:
    return await call


def test_a_call_never_awaited_warns_and_does_nothing() -> None:
    connection = FakeConnection()
    with pytest.warns(RuntimeWarning, match=r"connection\.execute\(\) was never awaited"):
        connection.execute("forgotten")
        gc.collect()
    assert connection.calls == []


# Pools


def test_a_pool_works_where_a_mock_raises() -> None:
    async def main() -> None:
        mocked = AsyncMock().acquire()
        with pytest.raises(TypeError, match="coroutine"):
            async with mocked:
                pass
        mocked.close()
        pool = FakePool(lambda: FakeConnection([ok(1), ok(2), ok(3)]), size=2)
        async with pool.acquire() as connection:
            assert await connection.fetchval("select 1") == 1
        connection = await pool.acquire()
        assert await connection.fetchval("select 2") == 2
        await pool.release(connection)
        assert await pool.fetchval("select 3") == 3
        assert (pool.opened, pool.peak, pool.out) == (1, 1, [])
        pool.check()
        async with pool:
            pass
        assert connection.is_closed()
        with pytest.raises(RuntimeError, match="is closed"):
            await pool.acquire()

    run(main)


def test_a_pool_is_limited_and_first_come_first_served() -> None:
    async def main() -> None:
        pool = FakePool(size=2)
        order = []

        async def user(number: int) -> None:
            async with pool.acquire():
                order.append(number)
                await asyncio.sleep(1)

        await asyncio.gather(*map(user, range(6)))
        assert order == list(range(6))
        assert (now(), pool.peak, pool.opened) == (3.0, 2, 2)

    run(main)


def test_a_pool_loses_no_room_to_cancels_and_failures() -> None:
    async def main() -> None:
        pool = FakePool(size=1, script=[fail(OSError("refused")), slow(5), ok(), ok(), ok()])
        with pytest.raises(OSError, match="refused"):
            await pool.acquire()
        with pytest.raises(TimeoutError):
            await pool.acquire(timeout=1)
        held = await pool.acquire()
        waiting = asyncio.create_task(_awaited(pool.acquire()))
        next_in_line = asyncio.create_task(_awaited(pool.acquire()))
        await asyncio.sleep(0)
        await pool.release(held)
        waiting.cancel()  # in the very tick of its turn
        assert await next_in_line is held
        with pytest.raises(asyncio.CancelledError):
            await waiting
        pool.release(held)
        pool.check()

    run(main)


def test_a_pool_drops_broken_connections_and_names_who_kept_one() -> None:
    async def main() -> None:
        pool = FakePool(lambda: FakeConnection([break_after(0)]))
        connection = await pool.acquire()
        with pytest.raises(AssertionError, match=r"1 connections were not released; acquired at .*test_fakes\.py:\d+"):
            pool.check()
        with pytest.raises(ConnectionResetError):
            await connection.fetch()
        pool.release(connection)
        assert pool.idle == []
        with pytest.raises(ValueError, match="released before, or is not of this pool"):
            pool.release(connection)

    run(main)


# HTTP, aiohttp


def test_an_aiohttp_session_answers_on_script() -> None:
    aiohttp = requires.module("aiohttp")

    async def main() -> None:
        session = FakeClientSession(
            [
                respond(json={"id": 1}, headers={"X-Trace": "t"}),
                respond(503, text="down"),
                fail(aiohttp.ClientConnectionError("refused")),
                slow(2, respond(text="late")),
                respond(text="not json"),
            ]
        )
        async with session:
            async with session.get("http://api/1", params={"a": 1}) as response:
                assert response.status == 200
                assert response.headers["x-trace"] == "t"
                assert await response.json() == {"id": 1}
            response = await session.post("http://api/2", json={})
            assert await response.text() == "down"
            with pytest.raises(aiohttp.ClientResponseError, match="503"):
                response.raise_for_status()
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.get("http://api/3")
            async with session.get("http://api/4") as response:
                assert await response.read() == b"late"
            assert now() == 2
            async with session.get("http://api/5") as response:
                with pytest.raises(aiohttp.ContentTypeError):
                    await response.json()
            assert [str(call) for call in session.calls[:2]] == [
                "GET('http://api/1', params={'a': 1})",
                "POST('http://api/2', json={})",
            ]
            session.check()
        with pytest.raises(RuntimeError, match="Session is closed"):
            await session.get("http://api/6")

    run(main)


def test_an_answer_that_is_not_released_is_found() -> None:
    requires.module("aiohttp")

    async def main() -> None:
        session = FakeClientSession()
        response = await session.get("http://api/")
        with pytest.raises(AssertionError, match="neither read nor released"):
            session.check()
        response.release()
        session.check()

    run(main)


def test_aiohttps_timeout_holds_for_a_stalled_server_and_a_stalled_body() -> None:
    aiohttp = requires.module("aiohttp")

    async def main() -> None:
        limit = aiohttp.ClientTimeout(total=3)
        session = FakeClientSession([stall(), respond(text="half of it", stall_after=4), stall()], timeout=limit)
        with pytest.raises(TimeoutError):
            await session.get("http://api/")
        assert now() == 3
        with pytest.raises(TimeoutError):
            async with session.get("http://api/") as response:
                await response.text()
        assert now() == 6
        with pytest.raises(TimeoutError):
            await session.get("http://api/", timeout=aiohttp.ClientTimeout(total=1))
        assert now() == 7

    run(main)


def test_a_body_breaks_off() -> None:
    aiohttp, httpx = requires.module("aiohttp"), requires.module("httpx")

    async def main() -> None:
        session = FakeClientSession([respond(body=b"x" * 100, break_after=60)])
        pieces = []
        with pytest.raises(aiohttp.ClientPayloadError):
            async with session.get("http://api/") as response:
                async for piece in response.content.iter_chunked(50):
                    pieces.append(len(piece))
        assert pieces == [50, 10]
        async with httpx.AsyncClient(transport=httpx_transport([respond(body=b"x" * 100, break_after=60)])) as client:
            with pytest.raises(httpx.ReadError):
                await client.get("http://api/")

    run(main)


def test_scripts_by_route() -> None:
    requires.module("aiohttp")

    async def main() -> None:
        session = FakeClientSession({"GET http://a/": [always(respond(text="a"))], "POST http://b/": [respond(201)]})
        assert await (await session.get("http://a/?page=2")).text() == "a"
        assert (await session.post("http://b/")).status == 201
        with pytest.raises(ScriptExhausted, match="was asked for GET http://c/ and has no script for it"):
            await session.get("http://c/")

    run(main)


def test_a_step_that_is_no_answer_is_named() -> None:
    requires.module("aiohttp")

    async def main() -> None:
        with pytest.raises(TypeError, match=r"answered 5; an HTTP answer is made by respond\(\)"):
            await FakeClientSession([ok(5)]).get("http://a/")
        with pytest.raises(TypeError, match="one of json=, text= and body="):
            respond(json=1, text="1")

    run(main)


# HTTP, httpx


def test_an_httpx_client_gets_its_answers_from_a_script() -> None:
    httpx = requires.module("httpx")

    async def main() -> None:
        transport = httpx_transport(
            [respond(json=[1, 2]), respond(404), fail(httpx.ConnectError("refused")), stall(), respond(stall_after=0)]
        )
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get("http://api/1")).json() == [1, 2]
            with pytest.raises(httpx.HTTPStatusError, match="404"):
                (await client.post("http://api/2", content=b"body")).raise_for_status()
            with pytest.raises(httpx.ConnectError, match="refused"):
                await client.get("http://api/3")
            with pytest.raises(httpx.ReadTimeout):
                await client.get("http://api/4")
            assert now() == 5, "httpx's default"
            with pytest.raises(httpx.ReadTimeout):
                await client.get("http://api/5", timeout=1)
            assert now() == 6
        assert str(transport.calls[1]) == "POST('http://api/2', content=b'body')"
        assert [call.outcome for call in transport.calls] == ["ok", "ok", "failed", "cancelled", "ok"]
        transport.check()

    run(main)


def test_a_retry_loop_is_tested_in_no_time() -> None:
    """What the fakes are for: 40 seconds of backing off, checked to the tick."""

    async def main() -> None:
        fetch = FakeFunction([times(3, fail(ConnectionError("flaky"))), ok("page")])
        for attempt in range(5):
            try:
                page = await fetch()
                break
            except ConnectionError:
                await asyncio.sleep(10 * 2**attempt)
        assert (page, now(), len(fetch.calls)) == ("page", 70.0, 4)
        fetch.check()

    run(main)
