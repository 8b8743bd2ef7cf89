"""aiohttp server: a middleware that gives each request an id, a deadline, fields for its log lines, one access line.

aiohttp serves all requests of a connection in one task, so what a handler binds would be seen by the next request: here
each one ends with the fields with which it began. What is sent after the handler (a ``Response``'s body) is after the
middleware too: the access line comes when the handler is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING

from loopwright.integrations._driver import load
from loopwright.integrations._requests import Access, FieldsOf, access_logger, deadline, request_id
from loopwright.logs import bind
from loopwright.timeouts import timeout as timeout_

if TYPE_CHECKING:
    from aiohttp.web import Application, Request, StreamResponse

__all__ = ["setup"]

Handler = Callable[["Request"], Awaitable["StreamResponse"]]


def setup(  # noqa: PLR0913 (each is a setting of its own)
    app: Application,
    *,
    timeout: float | Callable[[Request], float | None] | None = None,
    stream_timeout: float | None = None,
    header: str = "X-Request-ID",
    trust_header: bool = True,
    fields: FieldsOf | None = None,
    access: bool | str = True,
) -> None:
    """Puts the middleware around all that ``app`` serves: ``setup(app, timeout=30)``, before it runs.

    For the length of a handler ``request_id``, ``method`` and ``path`` are bound. One line is written for each request,
    by the logger ``loopwright.access``, when its handler is done: ``status``, ``outcome`` (``ok``, ``error``,
    ``timeout``, ``cancelled``), ``duration`` in seconds, ``size`` of the body in bytes where it is known then.
    aiohttp's own access log may be switched off (``access_log=None``).

    Parameters:
        app: the application. Its middlewares that are there already run inside of this one.
        timeout: seconds that a handler may take; or a function of the request that says so; None: no deadline. It is
            :func:`loopwright.timeout`'s. One that is not done then is cancelled, and the client is answered 504; if the
            response had begun, the connection is closed.
        stream_timeout: the deadline of a handler that sends its response itself (a ``StreamResponse``, a websocket), in
            seconds from the response's beginning, in place of ``timeout``. None: none.
        header: the header in which a client or a proxy may send the request's id, and which goes back with the
            response. What is not up to 128 letters, digits and ``._:+/=@-`` is replaced.
        trust_header: False: no id is taken from outside.
        fields: ``fields(request)`` gives more fields to bind.
        access: False: no access line. A string: the logger's name.

    Raises:
        ImportError: aiohttp is not installed.
        ValueError: a number of seconds is not above 0.
    """
    web = load("aiohttp.web", extra="aiohttp")
    limit = timeout if callable(timeout) else deadline(timeout, "setup(timeout=...)")
    stream_limit = deadline(stream_timeout, "setup(stream_timeout=...)")
    log = access_logger(access)

    @web.middleware  # type: ignore[untyped-decorator, unused-ignore]
    async def middleware(request: Request, handler: Handler) -> StreamResponse:
        identity = request_id(request.headers.get(header) if trust_header else None)
        more = {} if fields is None else dict(fields(request))
        with bind(**more | {"request_id": identity, "method": request.method, "path": request.path}):
            exchange = _Exchange(Access(log, "request", {}), identity)
            token = _current.set(exchange)
            try:
                response = await _serve(request, handler, exchange)
            except web.HTTPException as answer:  # a response that is raised
                exchange.ends_with(answer, header)
                raise
            except BaseException as error:
                exchange.access.end(error)
                raise
            finally:
                _current.reset(token)
            exchange.ends_with(response, header)
            return response

    async def _serve(request: Request, handler: Handler, exchange: _Exchange) -> StreamResponse:
        seconds = deadline(limit(request) if callable(limit) else limit, "setup(timeout=...)")
        block = exchange.limit = timeout_(seconds)
        try:
            async with block:
                return await handler(request)
        except TimeoutError:
            if not block.expired():
                raise
            exchange.access.outcome = "timeout"
            if exchange.begun:
                raise
            raise web.HTTPGatewayTimeout(text="The request took too long.\n") from None

    async def on_prepare(request: Request, response: StreamResponse) -> None:
        """A response begins while its handler runs; others, after the middleware, are none of ours any more."""
        exchange = _current.get()
        if exchange is None:
            return
        response.headers[header] = exchange.identity
        exchange.begun = True
        exchange.access.status = response.status
        if not isinstance(response, web.Response):
            exchange.access.fields["streams"] = True
            if exchange.limit.when() is not None or stream_limit is not None:
                now = asyncio.get_running_loop().time()
                exchange.limit.reschedule(None if stream_limit is None else now + stream_limit)

    app.middlewares.insert(0, middleware)
    app.on_response_prepare.append(on_prepare)


class _Exchange:
    """One request, from the beginning of its handler to its end."""

    __slots__ = ("access", "begun", "identity", "limit")

    def __init__(self, access: Access, identity: str) -> None:
        self.access = access
        self.identity = identity
        self.begun = False
        self.limit = timeout_(None)

    def ends_with(self, response: StreamResponse, header: str) -> None:
        """The handler is done."""
        if not response.prepared:
            response.headers[header] = self.identity
        self.access.status = response.status
        self.access.size = None if self.begun else response.content_length
        code = getattr(response, "close_code", None)
        if code is not None:
            self.access.fields["code"] = code
        self.access.end()


_current: ContextVar[_Exchange | None] = ContextVar("loopwright.integrations.aiohttp", default=None)
