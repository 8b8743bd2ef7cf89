"""The leak checks are silent around other people's libraries that are used correctly.

What they find in those libraries' own suites: ``test_leaks_of_suites.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from support import loops, requires
from support.loops import Cell

from loopwright.testing import Leak, leak_checks

pytestmark = pytest.mark.filterwarnings("ignore")


def left_by(body: Any, cell: Cell) -> list[Leak]:
    with leak_checks(fail=False) as leaks:
        loops.run(body, cell)
    return leaks


def test_aiohttp_client_and_server(cell: Cell) -> None:
    aiohttp, web = requires.module("aiohttp"), requires.module("aiohttp.web")

    async def hello(request: Any) -> Any:
        return web.json_response({"path": request.path, "body": await request.text()})

    async def slow(_: Any) -> Any:
        await asyncio.sleep(3600)

    async def stream(request: Any) -> Any:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(3):
            await response.write(b"x" * 1000)
        await response.write_eof()
        return response

    async def echo(request: Any) -> Any:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    async def main() -> None:
        app = web.Application()
        routes = ("/hello", hello), ("/slow", slow), ("/stream", stream), ("/echo", echo)
        app.add_routes([web.route("*", path, handler) for path, handler in routes])
        # Without it, a handler whose client is gone runs on after the server's end; that is reported, rightly.
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            async with aiohttp.ClientSession() as session:
                for _ in range(3):
                    async with session.get(f"{url}/hello") as response:
                        assert response.status == 200
                        await response.json()
                async with session.post(f"{url}/hello", data=b"data") as response:
                    assert (await response.json())["body"] == "data"
                async with session.get(f"{url}/stream") as response:
                    async for _ in response.content.iter_chunked(100):
                        pass
                async with session.get(f"{url}/stream") as response:
                    await response.content.read(10)
                with contextlib.suppress(TimeoutError):
                    async with session.get(f"{url}/slow", timeout=aiohttp.ClientTimeout(0.05)):
                        pass
                task = asyncio.create_task(session.get(f"{url}/slow"))
                await asyncio.sleep(0.05)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                async with session.ws_connect(f"{url}/echo") as socket:
                    await socket.send_str("hello")
                    assert (await socket.receive()).data == "hello"
        finally:
            await runner.cleanup()

    assert left_by(main, cell) == []


def test_httpx_client(cell: Cell) -> None:
    httpx = requires.module("httpx")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                if b"/slow" in request:
                    await asyncio.sleep(0.2)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def main() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with httpx.AsyncClient(trust_env=False) as client:
                assert (await client.get(url)).text == "hello"
                responses = await asyncio.gather(*[client.get(url) for _ in range(5)])
                assert [response.text for response in responses] == ["hello"] * 5
                async with client.stream("GET", url) as response:
                    async for _ in response.aiter_bytes():
                        pass
                with contextlib.suppress(httpx.TimeoutException):
                    await client.get(f"{url}/slow", timeout=0.01)
                task = asyncio.create_task(client.get(f"{url}/slow"))
                await asyncio.sleep(0.02)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await asyncio.sleep(0.3)

    assert left_by(main, cell) == []


def test_httpx_and_starlette_without_a_network(cell: Cell) -> None:
    httpx, starlette = requires.module("httpx"), requires.module("starlette.applications")
    responses, routing = requires.module("starlette.responses"), requires.module("starlette.routing")

    async def home(_: Any) -> Any:
        async def numbers() -> Any:
            for number in range(10):
                yield str(number)

        return responses.StreamingResponse(numbers())

    def threaded(_: Any) -> Any:
        return responses.PlainTextResponse("from a thread")

    async def main() -> None:
        routes = [routing.Route("/", home), routing.Route("/threaded", threaded)]
        transport = httpx.ASGITransport(app=starlette.Starlette(routes=routes))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/")).text == "0123456789"
            assert (await client.get("/threaded")).text == "from a thread"

    assert left_by(main, cell) == []


def test_anyio(cell: Cell) -> None:
    anyio = requires.module("anyio")
    to_thread, from_thread = requires.module("anyio.to_thread"), requires.module("anyio.from_thread")

    async def waits(*, task_status: Any = anyio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        try:
            await anyio.sleep(3600)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(waits)
            await group.start(waits)
            group.cancel_scope.cancel()
        with anyio.move_on_after(0.01):
            await anyio.sleep(3600)
        with contextlib.suppress(TimeoutError), anyio.fail_after(0.01):
            async with anyio.create_task_group() as group:
                group.start_soon(waits)
                await waits()
        send, receive = anyio.create_memory_object_stream(10)
        async with send, receive:
            await send.send(1)
            assert await receive.receive() == 1
        assert await to_thread.run_sync(lambda: from_thread.run(anyio.sleep, 0)) is None
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with anyio.create_task_group() as group:

                async def handle(stream: Any) -> None:
                    async with stream:
                        await stream.send(await stream.receive())

                group.start_soon(listener.serve, handle)
                async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                    await stream.send(b"x")
                    assert await stream.receive() == b"x"
                group.cancel_scope.cancel()
        await anyio.run_process(["true"])
        lock, limiter = anyio.Lock(), anyio.CapacityLimiter(1)
        async with lock, limiter:
            pass

    assert left_by(main, cell) == []


def test_uvicorn(cell: Cell) -> None:
    uvicorn, httpx = requires.module("uvicorn"), requires.module("httpx")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    async def main() -> None:
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        server.install_signal_handlers = lambda: None
        task = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"http://127.0.0.1:{port}/")).text == "hello"
        server.should_exit = True
        await task

    assert left_by(main, cell) == []
