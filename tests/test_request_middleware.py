"""The middlewares for ASGI and aiohttp: whatever becomes of a request, one line, its fields, and no trace of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from support import requires
from support.cancels import EVERY_STEP

from loopwright import bind, bound, configure_logging, get_logger, time_left, unbind
from loopwright.integrations.asgi import RequestMiddleware
from loopwright.testing import Play, cancel_sweep
from loopwright.testing import run as simulated
from loopwright.testing.net import SimNet

PATIENCE = 30.0


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    raw: list[str] = []
    sink = configure_logging(raw.append, format="json", level="debug")

    def read() -> list[dict[str, Any]]:
        assert sink.flush(PATIENCE)
        return [json.loads(line) for line in raw]

    yield read
    configure_logging()
    unbind()


Message = dict[str, Any]


class Client:
    """One request to an ASGI application, by hand: what is sent to it, what it sends."""

    def __init__(self, app: Any, kind: str = "http", headers: dict[str, str] | None = None, path: str = "/x") -> None:
        self.app = app
        self.sent: list[Message] = []
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        self.scope: dict[str, Any] = {
            "type": kind,
            "path": path,
            "query_string": b"secret=1",
            "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
        }
        if kind == "http":
            self.scope["method"] = "GET"
            self.incoming.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        else:
            self.incoming.put_nowait({"type": "websocket.connect"})

    async def send(self, message: Message) -> None:
        await asyncio.sleep(0)
        self.sent.append(dict(message))

    async def go(self) -> Client:
        await self.app(self.scope, self.incoming.get, self.send)
        return self

    @property
    def status(self) -> int | None:
        return next((message["status"] for message in self.sent if "status" in message), None)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    def header(self, name: bytes) -> list[bytes]:
        return [value for message in self.sent for key, value in message.get("headers", ()) if key.lower() == name]


Run = Callable[[Any, Any, Any], Awaitable[None]]


async def answer(send: Any, *parts: bytes, status: int = 200, headers: Any = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    for number, part in enumerate(parts):
        await send({"type": "http.response.body", "body": part, "more_body": number + 1 < len(parts)})


def test_one_access_line_with_the_fields_and_an_id_that_goes_back(lines: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        bind(user=7)
        get_logger("app").info("inside")
        await asyncio.create_task(inner())
        await answer(send, b"hello", headers=[(b"x-request-id", b"the app's own")])

    async def inner() -> None:
        get_logger("app").info("in a task")

    async def main() -> Client:
        with bind(server="s"):
            client = await Client(RequestMiddleware(app), headers={"X-Request-ID": "abc-1"}).go()
            assert bound() == {"server": "s"}
        return client

    client = simulated(main)
    assert client.header(b"x-request-id") == [b"abc-1"]
    inside, task, access = lines()
    for line in (inside, task, access):
        assert (line["request_id"], line["method"], line["path"]) == ("abc-1", "GET", "/x")
    assert task["user"] == 7
    assert (access["logger"], access["event"], access["level"]) == ("loopwright.access", "request", "info")
    assert (access["status"], access["outcome"], access["size"]) == (200, "ok", 5)
    assert access["duration"] >= 0
    assert "secret" not in json.dumps(lines())


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, 'quote"', "new\nline", "é"])
def test_an_id_that_is_missing_or_odd_is_replaced(given: str | None, lines: Any) -> None:
    async def main() -> Client:
        client = Client(RequestMiddleware(lambda scope, receive, send: answer(send, b"")))
        if given is not None:
            client.scope["headers"] = [(b"x-request-id", given.encode())]
        return await client.go()

    (identity,) = simulated(main).header(b"x-request-id")
    assert len(identity) == 32
    assert lines()[0]["request_id"] == identity.decode()


def test_an_id_from_outside_can_be_refused_and_more_fields_bound(lines: Any) -> None:
    middleware = RequestMiddleware(
        lambda scope, receive, send: answer(send, b""),
        trust_header=False,
        fields=lambda scope: {"tenant": "t", "request_id": "not this"},
        access="web",
    )
    simulated(lambda: Client(middleware, headers={"X-Request-ID": "abc"}).go())
    (line,) = lines()
    assert len(line["request_id"]) == 32
    assert (line["tenant"], line["logger"]) == ("t", "web")


def test_no_access_line_where_none_is_wanted(lines: Any) -> None:
    simulated(lambda: Client(RequestMiddleware(lambda scope, receive, send: answer(send, b""), access=False)).go())
    assert lines() == []


def test_a_failure_leaves_as_it_is_and_is_in_the_line(lines: Any) -> None:
    error = LookupError("no such order")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        bind(user=7)
        raise error

    async def main() -> None:
        with pytest.raises(LookupError) as caught:
            await Client(RequestMiddleware(app, timeout=10)).go()
        assert caught.value is error
        assert bound() == {}

    simulated(main)
    (line,) = lines()
    assert (line["level"], line["outcome"], line["status"]) == ("error", "error", None)
    assert "LookupError: no such order" in line["exception"]


def test_an_answer_of_5xx_is_an_error_and_4xx_is_not(lines: Any) -> None:
    for status in (404, 503):
        app = RequestMiddleware(lambda scope, receive, send, status=status: answer(send, b"", status=status))
        simulated(lambda app=app: Client(app).go())
    assert [(line["status"], line["level"], line["outcome"]) for line in lines()] == [
        (404, "info", "ok"),
        (503, "error", "ok"),
    ]


def test_a_deadline_is_our_timeouts_and_answers_504(lines: Any) -> None:
    left: list[float | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        left.append(time_left())
        await asyncio.sleep(100)

    async def main() -> Client:
        return await Client(RequestMiddleware(app, timeout=lambda scope: 5.0)).go()

    client = simulated(main)
    assert (client.status, left) == (504, [5.0])
    assert client.header(b"x-request-id") != []
    (line,) = lines()
    assert (line["outcome"], line["status"], line["level"]) == ("timeout", 504, "error")


def test_a_response_that_had_begun_is_cut_and_never_looks_whole(lines: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(100)

    async def main() -> Client:
        client = Client(RequestMiddleware(app, timeout=5))
        with pytest.raises(TimeoutError):
            await client.go()
        return client

    assert [message["type"] for message in simulated(main).sent] == ["http.response.start"]
    assert (lines()[0]["outcome"], lines()[0]["status"]) == ("timeout", 200)


def test_an_applications_own_timeout_error_is_not_ours(lines: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise TimeoutError("its own")

    async def main() -> None:
        with pytest.raises(TimeoutError, match="its own"):
            await Client(RequestMiddleware(app, timeout=5)).go()

    simulated(main)
    assert lines()[0]["outcome"] == "error"


def test_a_stream_outlives_the_deadline_and_has_one_line_at_its_end(lines: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(10):
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
            assert lines() == []
            await asyncio.sleep(10)
        await send({"type": "http.response.body"})

    client = simulated(lambda: Client(RequestMiddleware(app, timeout=5)).go())
    assert client.body == b"part" * 10
    assert [(line["outcome"], line["size"], line["streams"]) for line in lines()] == [("ok", 40, True)]


def test_a_stream_that_takes_too_long_is_cut(lines: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
            await asyncio.sleep(10)

    async def main() -> Client:
        client = Client(RequestMiddleware(app, timeout=5, stream_timeout=25))
        with pytest.raises(TimeoutError):
            await client.go()
        return client

    assert simulated(main).body == b"part" * 3
    assert (lines()[0]["outcome"], lines()[0]["size"]) == ("timeout", 12)


def test_work_after_the_response_is_not_under_its_deadline(lines: Any) -> None:
    done: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"ok")
        await asyncio.sleep(100)
        get_logger("app").info("behind")
        done.append(True)

    simulated(lambda: Client(RequestMiddleware(app, timeout=5)).go())
    assert done == [True]
    access, behind = lines()
    assert access["event"] == "request"
    assert access["request_id"] == behind["request_id"]


def test_a_client_that_goes_is_seen(lines: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"

    async def main() -> None:
        client = Client(RequestMiddleware(app))
        client.incoming.put_nowait({"type": "http.disconnect"})
        await client.go()

    simulated(main)
    assert (lines()[0]["outcome"], lines()[0]["status"]) == ("disconnected", None)


async def chat(scope: Any, receive: Any, send: Any) -> None:
    """A websocket that echoes."""
    await receive()
    await send({"type": "websocket.accept", "headers": []})
    while (message := await receive())["type"] == "websocket.receive":
        get_logger("app").info("message")
        await send({"type": "websocket.send", "text": message["text"]})


def test_a_websocket_is_one_line_at_its_end(lines: Any) -> None:
    async def main() -> Client:
        client = Client(RequestMiddleware(chat, timeout=5), "websocket")
        task = asyncio.create_task(client.go())
        for _ in range(3):
            await asyncio.sleep(10)  # longer than the deadline, which is for the opening
            client.incoming.put_nowait({"type": "websocket.receive", "text": "hé"})
        client.incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})
        return await task

    client = simulated(main)
    assert client.header(b"x-request-id") != []
    *messages, access = lines()
    assert len(messages) == 3
    assert (access["event"], access["status"], access["outcome"], access["code"], access["size"]) == (
        "websocket",
        101,
        "ok",
        1001,
        9,
    )


def test_a_websocket_that_is_not_accepted_in_time_is_closed(lines: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(100)

    client = simulated(lambda: Client(RequestMiddleware(app, timeout=5), "websocket").go())
    assert [message["type"] for message in client.sent] == ["websocket.close"]
    assert lines()[0]["outcome"] == "timeout"


def test_lifespan_passes_untouched(lines: Any) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, receive, send, bound()))

    async def main() -> None:
        arguments = ({"type": "lifespan"}, object(), object())
        await RequestMiddleware(app)(*arguments)  # type: ignore[arg-type]
        assert seen == [(*arguments, {})]

    simulated(main)
    assert lines() == []


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), True, "5"])
def test_a_deadline_that_makes_no_sense_is_refused(seconds: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    with pytest.raises(ValueError, match="timeout"):
        RequestMiddleware(app, timeout=seconds)
    with pytest.raises(ValueError, match="stream_timeout"):
        RequestMiddleware(app, stream_timeout=seconds)


@pytest.mark.parametrize("kind", ["plain", "stream", "websocket"])
def test_a_cancel_at_any_step_passes_leaves_one_line_and_no_field(kind: str, lines: Any) -> None:
    async def plain(scope: Any, receive: Any, send: Any) -> None:
        bind(user=7)
        await receive()
        await asyncio.sleep(0.01)
        await answer(send, b"hello")

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        bind(user=7)
        await answer(send, b"a", b"b", b"c")

    async def socket(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "x"})
        await send({"type": "websocket.close", "code": 1000})

    app = {"plain": plain, "stream": stream, "websocket": socket}[kind]

    async def scenario(play: Play) -> None:
        before = len(lines())
        started: list[bool] = []
        client = Client(RequestMiddleware(app, timeout=1), "websocket" if kind == "websocket" else "http")

        async def victim() -> None:
            bind(task=True)
            started.append(True)
            try:
                await client.go()
            finally:
                assert bound() == {"task": True}

        play.spawn(victim(), name="victim")
        await play.finished()
        new = lines()[before:]
        assert len(new) == len(started)
        for line in new:
            assert line["outcome"] in {"ok", "cancelled"}
            whole = bool(client.sent) and client.sent[-1].get("more_body") is False
            assert line["outcome"] == "cancelled" or whole or kind == "websocket"

    assert cancel_sweep(scenario, victims="victim", **EVERY_STEP).count("cancel") > 3


def test_starlettes_responses_background_tasks_and_websockets(lines: Any) -> None:
    requires.module("starlette")
    from starlette.applications import Starlette  # noqa: PLC0415
    from starlette.background import BackgroundTask  # noqa: PLC0415
    from starlette.middleware import Middleware  # noqa: PLC0415
    from starlette.responses import PlainTextResponse, StreamingResponse  # noqa: PLC0415
    from starlette.routing import Route  # noqa: PLC0415

    async def later() -> None:
        get_logger("app").info("later")

    async def plain(request: Any) -> Any:
        bind(user=7)
        return PlainTextResponse("hello", background=BackgroundTask(later))

    async def stream(request: Any) -> Any:
        async def parts() -> AsyncIterator[str]:
            for number in range(3):
                get_logger("app").info("part")
                yield str(number)
                await asyncio.sleep(10)

        return StreamingResponse(parts())

    async def slow(request: Any) -> Any:
        await asyncio.sleep(100)

    async def broken(request: Any) -> Any:
        raise LookupError("x")

    routes = [Route(f"/{function.__name__}", function) for function in (plain, stream, slow, broken)]
    app = Starlette(routes=routes, middleware=[Middleware(RequestMiddleware, timeout=5)])

    async def main() -> list[Client]:
        clients = []
        for path in ("/plain", "/stream", "/slow", "/broken"):
            client = Client(app, path=path)
            clients.append(client)
            try:
                await client.go()
            except LookupError:
                assert path == "/broken"
            assert bound() == {}
        return clients

    clients = simulated(main)
    assert [client.status for client in clients] == [200, 200, 504, 500]
    assert [client.body for client in clients[:2]] == [b"hello", b"012"]
    read = lines()
    assert [line["event"] for line in read] == ["request", "later", "part", "part", "part", *["request"] * 3]
    access = [line for line in read if line["event"] == "request"]
    assert [(line["path"], line["outcome"], line["status"]) for line in access] == [
        ("/plain", "ok", 200),
        ("/stream", "ok", 200),
        ("/slow", "timeout", 504),
        ("/broken", "error", None),
    ]
    assert read[0]["request_id"] == read[1]["request_id"]
    assert len({line["request_id"] for line in read}) == 4


# aiohttp, on the simulated network


def serve_aiohttp(handlers: dict[str, Any], talk: Any, **options: Any) -> None:
    """Serves with aiohttp on the simulated network, and lets ``talk(session)`` be its client."""
    aiohttp, web = requires.module("aiohttp"), requires.module("aiohttp.web")
    from loopwright.integrations import aiohttp as ours  # noqa: PLC0415

    async def serve() -> None:
        app = web.Application()
        ours.setup(app, **options)
        for path, handler in handlers.items():
            app.router.add_get(path, handler)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, port=80).start()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def main() -> None:
        async with SimNet(latency=0.001) as net:
            net.host("web").run(serve)
            await asyncio.sleep(0.01)
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
                await talk(session)

    simulated(main)


def test_aiohttp_one_line_for_each_request_and_no_field_for_the_next(lines: Any) -> None:
    web = requires.module("aiohttp.web")

    async def plain(request: Any) -> Any:
        assert set(bound()) == {"request_id", "method", "path"}
        bind(user=7)
        get_logger("app").info("inside")
        return web.Response(text="hello")

    async def missing(request: Any) -> Any:
        assert set(bound()) == {"request_id", "method", "path"}, "the connection's task kept fields"
        bind(more=1)
        raise web.HTTPNotFound

    async def broken(request: Any) -> Any:
        assert set(bound()) == {"request_id", "method", "path"}
        raise LookupError("x")

    async def stream(request: Any) -> Any:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(3):
            await response.write(b"part")
            await asyncio.sleep(10)
        return response

    async def slow(request: Any) -> Any:
        await asyncio.sleep(100)

    async def talk(session: Any) -> None:
        wanted = {"/plain": 200, "/missing": 404, "/broken": 500, "/stream": 200, "/slow": 504, "/none": 404}
        for path, status in wanted.items():
            async with session.get(f"http://web{path}", headers={"X-Request-ID": path}) as response:
                assert response.status == status, path
                if path != "/broken":  # aiohttp makes that answer after all middlewares
                    assert response.headers["X-Request-ID"] == path
                if path == "/stream":
                    assert await response.read() == b"part" * 3

    handlers = {"/plain": plain, "/missing": missing, "/broken": broken, "/stream": stream, "/slow": slow}
    serve_aiohttp(handlers, talk, timeout=5)
    inside, *access = lines()
    assert (inside["event"], inside["request_id"]) == ("inside", "/plain")
    assert [(line["path"], line["outcome"], line["status"]) for line in access] == [
        ("/plain", "ok", 200),
        ("/missing", "ok", 404),
        ("/broken", "error", None),
        ("/stream", "ok", 200),
        ("/slow", "timeout", 504),
        ("/none", "ok", 404),
    ]
    assert access[0]["size"] == 5
    assert (access[3]["size"], access[3]["streams"]) == (None, True), "what is sent later is not known yet"
    assert "LookupError" in access[2]["exception"]


def test_aiohttp_a_stream_that_takes_too_long_is_cut(lines: Any) -> None:
    aiohttp, web = requires.module("aiohttp"), requires.module("aiohttp.web")

    async def stream(request: Any) -> Any:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"part")
            await asyncio.sleep(10)

    async def talk(session: Any) -> None:
        async with session.get("http://web/stream") as response:
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()

    serve_aiohttp({"/stream": stream}, talk, timeout=5, stream_timeout=25)
    assert [(line["outcome"], line["status"]) for line in lines()] == [("timeout", 200)]


def test_aiohttp_websockets_outlive_the_deadline(lines: Any) -> None:
    web = requires.module("aiohttp.web")

    async def socket(request: Any) -> Any:
        response = web.WebSocketResponse()
        await response.prepare(request)
        async for message in response:
            await response.send_str(message.data)
        return response

    async def talk(session: Any) -> None:
        async with session.ws_connect("http://web/socket") as connection:
            for _ in range(3):
                await asyncio.sleep(10)
                await connection.send_str("hello")
                assert (await connection.receive_str()) == "hello"

    serve_aiohttp({"/socket": socket}, talk, timeout=5)
    (line,) = lines()
    assert (line["outcome"], line["status"], line["code"]) == ("ok", 101, 1000)


def test_aiohttp_a_cancel_at_any_step_passes_leaves_one_line_and_no_field(lines: Any) -> None:
    web, utils = requires.module("aiohttp.web"), requires.module("aiohttp.test_utils")
    from loopwright.integrations import aiohttp as ours  # noqa: PLC0415

    async def handler(request: Any) -> Any:
        bind(user=7)
        await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        return web.Response(text="hello")

    async def scenario(play: Play) -> None:
        before = len(lines())
        started: list[bool] = []
        app = web.Application()
        ours.setup(app, timeout=1)
        (middleware,) = app.middlewares

        async def victim() -> None:
            bind(task=True)
            started.append(True)
            try:
                await middleware(utils.make_mocked_request("GET", "/x", app=app), handler)
            finally:
                assert bound() == {"task": True}

        play.spawn(victim(), name="victim")
        await play.finished()
        new = lines()[before:]
        assert len(new) == len(started)
        assert {line["outcome"] for line in new} <= {"ok", "cancelled"}

    assert cancel_sweep(scenario, victims="victim", **EVERY_STEP).count("cancel") > 3
