"""ASGI: a middleware that gives each request of FastAPI, Starlette or any other application an id, a deadline, fields
for its log lines, and one access line.

It is plain ASGI, without a task, a queue or a body of its own in between: what the application sends is sent at once, a
cancel reaches it where it waits, and an exception leaves as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from loopwright.integrations._requests import Access, FieldsOf, access_logger, deadline, request_id
from loopwright.logs import bind
from loopwright.timeouts import Timeout, timeout

__all__ = ["RequestMiddleware"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_TIMED_OUT = 504
_BODY = b"The request took too long.\n"


class RequestMiddleware:
    """Around an ASGI application: ``app.add_middleware(RequestMiddleware, timeout=30)`` for FastAPI and Starlette,
    ``app = RequestMiddleware(app, timeout=30)`` for any other.

    For the length of a request ``request_id``, ``method`` and ``path`` are bound, and all that the request's code and
    its tasks log carries them. Whatever it binds or unbinds itself is undone at the end, however that comes.

    One line is written for each request, by the logger ``loopwright.access``, when the last byte of the response is
    handed to the server (work that goes on in the background then is not in it), or else when the application ends:
    ``status``, ``outcome`` (``ok``, ``error``, ``timeout``, ``cancelled``, ``disconnected``), ``duration`` in seconds,
    ``size`` of the body in bytes. It is an error when the application failed, was too slow, or answered 5xx; the
    exception is in it. A websocket's line comes when it ends, with its close ``code``.

    Parameters:
        app: the application.
        timeout: seconds that a request may take, response included; or a function of the scope that says so; None: no
            deadline. It is :func:`loopwright.timeout`'s, so what the request calls knows how much is left
            (:func:`loopwright.time_left`). An application that is not done then is cancelled, and the client is
            answered 504; if the response had begun, ``TimeoutError`` goes to the server, which closes the connection: a
            response that was cut must not look whole. Websockets have this long until they are accepted.
        stream_timeout: the deadline of a response that is sent in parts and of a websocket, in seconds from its
            beginning, in place of ``timeout``. None: none.
        header: the header in which a client or a proxy may send the request's id, and which goes back with the
            response. What is not up to 128 letters, digits and ``._:+/=@-`` is replaced.
        trust_header: False: no id is taken from outside.
        fields: ``fields(scope)`` gives more fields to bind.
        access: False: no access line. A string: the logger's name.

    Raises:
        ValueError: a number of seconds is not above 0.

    The query string is in no line: it may hold secrets.
    """

    def __init__(  # noqa: PLR0913 (each is a setting of its own)
        self,
        app: Application,
        *,
        timeout: float | Callable[[Scope], float | None] | None = None,
        stream_timeout: float | None = None,
        header: str = "x-request-id",
        trust_header: bool = True,
        fields: FieldsOf | None = None,
        access: bool | str = True,
    ) -> None:
        self.app = app
        self._timeout = timeout if callable(timeout) else deadline(timeout, "RequestMiddleware(timeout=...)")
        self._stream_timeout = deadline(stream_timeout, "RequestMiddleware(stream_timeout=...)")
        self._header = header.lower().encode("latin-1")
        self._trust = trust_header
        self._fields = fields
        self._log = access_logger(access)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection scope; ``lifespan`` and unknown kinds pass untouched."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        identity = self._identity(scope)
        fields = {"request_id": identity, "method": scope.get("method", "WEBSOCKET"), "path": scope.get("path", "")}
        with bind(**fields, **self._more(scope)):
            exchange = _Exchange(self, scope, receive, send, identity)
            try:
                await self._serve(scope, exchange)
            except BaseException as error:
                exchange.access.end(error)
                raise
            exchange.access.end()

    async def _serve(self, scope: Scope, exchange: _Exchange) -> None:
        seconds = self._timeout(scope) if callable(self._timeout) else self._timeout
        limit = timeout(deadline(seconds, "RequestMiddleware(timeout=...)"))
        try:
            async with limit:
                exchange.limit = limit
                await self.app(scope, exchange.receive, exchange.send)
        except TimeoutError:
            if not limit.expired():
                raise
            exchange.access.outcome = "timeout"
            if exchange.begun:
                raise
            await exchange.give_up()

    def _identity(self, scope: Scope) -> str:
        if self._trust:
            for name, value in scope.get("headers", ()):
                if name.lower() == self._header:
                    return request_id(value.decode("latin-1"))
        return request_id(None)

    def _more(self, scope: Scope) -> Mapping[str, Any]:
        more = {} if self._fields is None else dict(self._fields(scope))
        for name in ("request_id", "method", "path"):
            more.pop(name, None)
        return more


class _Exchange:
    """One request as it passes: what was received and sent."""

    __slots__ = ("_identity", "_middleware", "_receive", "_send", "_websocket", "access", "begun", "limit")

    def __init__(
        self, middleware: RequestMiddleware, scope: Scope, receive: Receive, send: Send, identity: str
    ) -> None:
        self._middleware = middleware
        self._receive = receive
        self._send = send
        self._websocket = scope["type"] == "websocket"
        self._identity = (middleware._header, identity.encode("latin-1"))
        self.access = Access(middleware._log, "websocket" if self._websocket else "request", {})
        self.begun = False
        self.limit: Timeout | None = None

    async def receive(self) -> Message:
        message = await self._receive()
        kind = message["type"]
        if kind == "websocket.disconnect":
            self.access.fields["code"] = message.get("code")
        elif kind == "http.disconnect" and not self.access.written:
            self.access.outcome = "disconnected"
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in {"http.response.start", "websocket.accept", "websocket.http.response.start"}:
            message = {**message, "headers": [*self._others(message.get("headers", ())), self._identity]}
            self.begun = True
            self.access.status = message.get("status", 101)
            if kind == "websocket.accept":
                self._begin_stream()
        elif kind == "http.response.body":
            self.access.grows(len(message.get("body", b"")))
            if message.get("more_body", False):
                self._begin_stream()
        elif kind == "websocket.close":
            self.begun = True
            self.access.fields["code"] = message.get("code", 1000)
        elif kind == "websocket.send":
            self.access.grows(len(message.get("bytes") or (message.get("text") or "").encode()))
        await self._send(message)
        if kind == "http.response.body" and not message.get("more_body", False):
            if self.access.outcome == "disconnected":
                self.access.outcome = "ok"  # it went when it had all
            self.access.end()
            if self.limit is not None and not self.limit.expired():
                self._reschedule(None)  # what goes on in the background now is not the request

    async def give_up(self) -> None:
        """Answers in place of an application that was too slow."""
        if self._websocket:
            await self.send({"type": "websocket.close", "code": 1013, "reason": "timeout"})
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(_BODY)).encode())]
        await self.send({"type": "http.response.start", "status": _TIMED_OUT, "headers": headers})
        await self.send({"type": "http.response.body", "body": _BODY})

    def _others(self, headers: Any) -> list[Any]:
        return [header for header in headers if bytes(header[0]).lower() != self._identity[0]]

    def _begin_stream(self) -> None:
        if self.limit is not None and "streams" not in self.access.fields:
            self.access.fields["streams"] = True
            self._reschedule(self._middleware._stream_timeout)

    def _reschedule(self, seconds: float | None) -> None:
        assert self.limit is not None
        if self.limit.when() is None and seconds is None:
            return
        when = None if seconds is None else asyncio.get_running_loop().time() + seconds
        self.limit.reschedule(when)
