"""One shared session per HTTP service: limits per host, breaker, deadline and retries around aiohttp or httpx.

Here is what holds for both clients: the order of things around a request, and that a response's body is always given
back. What differs between them is in ``_http_clients.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Generator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import urljoin, urlsplit

from loopwright import _trace
from loopwright._arguments import count, seconds
from loopwright._http_errors import is_transient
from loopwright._loopwright import RateLimiter, Semaphore
from loopwright.breakers import CircuitBreaker
from loopwright.cancellation import finish
from loopwright.errors import LoopMismatch
from loopwright.integrations._http_clients import CLIENTS, Client, status_of
from loopwright.keyed import Keyed
from loopwright.resilience import resilient
from loopwright.retries import Retry, http_errors

__all__ = ["Exchange", "Service", "ServiceStats", "is_down"]

REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
"""Methods that mean the same when they are sent twice (RFC 9110, 9.2.2)."""

_DEFAULT: Any = object()


def is_down(error: Exception) -> bool:
    """What a breaker counts as a failure: no answer at all, or a status of 500 and more.

    A status below 500 is an answer: also 429, which comes from who is up and busy.
    """
    status = status_of(error)
    return is_transient(error) if status is None else status >= 500  # noqa: PLR2004 (HTTP says so)


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """What a :class:`Service` looks like at one moment, and its totals since it was made."""

    name: str | None
    """The name of the service."""
    requests: int
    """Requests made, however many attempts each took. Total."""
    attempts: int
    """Attempts that were sent. Total."""
    failures: int
    """Requests that ended with an error, not counting those that were cancelled. Total."""
    in_flight: int
    """Requests under way, and answers whose body has not been given back. Gauge."""
    hosts: int
    """Hosts that there are limits and breakers for at this moment. Gauge."""


class Service:
    """One HTTP service, one session: it is asked politely, in bounded time, and left alone while it is down.

    ::

        async with Service("https://api.example.org", per_host=16, timeout=30) as api:
            response = await api.get("/users/1")  # read, and the connection given back
            async with api.get("/export") as response:  # to be read in pieces
                async for chunk in response.content.iter_chunked(1 << 16): ...

    From outside to inside: the total ``timeout``, the retries, and for each attempt the host's breaker, its limits, the
    attempt's timeout, the request (:func:`loopwright.resilient` says why in this order).

    **The body is always given back**, and with it the connection and the place in the host's limit: awaited, when the
    request is over; in a block, when the block is left, however: read or not, by ``break``, an error, a cancel, or a
    generator that is closed. What was not read to its end costs the connection, never the next user's answer.

    Args:
        base_url: what relative URLs are joined to; None: all are absolute.
        client: ``"aiohttp"`` or ``"httpx"``; the one session of it is made at the first request.
        per_host: how many requests to one host (scheme, name and port) may be under way; 1 or more.
        rate: requests per second to one host; None for no such limit. Or a function, called once for each host, that
            gives a :class:`RateLimiter` or something like it.
        breaker: a function, called once for each host, that gives a :class:`CircuitBreaker`; None for none. Not given:
            one that opens when half of the last 100 requests, at least 20, had no answer or a status of 500 and more.
        retry: a :class:`Retry`; None for none. Not given: three attempts, for
            :data:`loopwright.retries.http_errors`. Requests that may not be sent twice are not retried: methods that
            are not idempotent, unless a request says ``idempotent=True``, and bodies that are used up by the first
            attempt.
        timeout: seconds for a request with all that is around it, until its answer begins (in a block) or has been
            read (awaited). None: only the deadlines around the call.
        attempt_timeout: seconds for one attempt until its answer begins; None: what is left.
        read_timeout: seconds after which a connection on which nothing arrives is given up.
        ok: statuses of 400 and more that are answers. All others raise the client's own error
            (``aiohttp.ClientResponseError``, ``httpx.HTTPStatusError``).
        name: for logs, traces and metrics.
        options: for the client's session (``headers=``, ``auth=``, ``connector=``, ``transport=`` ...).

    Raises:
        ValueError, TypeError: an argument that makes no sense, named.
        ImportError: the client is not installed.

    It belongs to the event loop of its first request until it is closed.
    """

    def __init__(  # noqa: PLR0913 (each is a setting of its own)
        self,
        base_url: str | None = None,
        *,
        client: Literal["aiohttp", "httpx"] = "aiohttp",
        per_host: int = 32,
        rate: float | Callable[[str], AbstractAsyncContextManager[Any]] | None = None,
        breaker: Callable[[str], CircuitBreaker] | None = _DEFAULT,
        retry: Retry | None = _DEFAULT,
        timeout: float | None = 30.0,
        attempt_timeout: float | None = None,
        read_timeout: float = 30.0,
        ok: Collection[int] = (),
        name: str | None = None,
        **options: Any,
    ) -> None:
        if client not in CLIENTS:
            raise ValueError(f"Service(client=...) must be 'aiohttp' or 'httpx', got {client!r}")
        if base_url is not None and not urlsplit(base_url).netloc:
            raise ValueError(f"Service(base_url=...) must be a whole URL, got {base_url!r}: begin it with https://")
        places = count(per_host, "Service(per_host=...)")
        self.base_url, self.name = base_url, name
        self._ok = ok
        self._client: Client = CLIENTS[client](
            options, seconds(read_timeout, "Service(read_timeout=...)", positive=True)
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._places: Keyed[str, Semaphore] = Keyed(lambda _host: Semaphore(places))
        self._rates = _per_host(rate)
        if breaker is _DEFAULT:
            breaker = _breaker
        self._breakers: Keyed[str, CircuitBreaker] | None = None if breaker is None else Keyed(breaker)
        if retry is _DEFAULT:
            retry = Retry(http_errors, attempts=3, timeout=None, attempt_timeout=attempt_timeout, name=name)
        elif retry is not None and attempt_timeout is not None:
            raise ValueError("Service(attempt_timeout=...) stands beside a retry of its own: give it to the Retry")
        once = Retry(attempts=1, timeout=None, attempt_timeout=attempt_timeout, budget=None, name=name)
        guards: dict[str, Any] = {"limiter": _Request.place, "timeout": timeout}
        if self._breakers is not None:
            breakers = self._breakers
            guards["breaker"] = lambda request: breakers[request.host]
        self._once = resilient(self._attempt, retry=once, **guards)
        self._repeated = self._once if retry is None else resilient(self._attempt, retry=retry, **guards)
        self._requests = self._attempts = self._failures = self._in_flight = 0
        self._closing: set[asyncio.Task[None]] = set()

    # Requests

    def request(self, method: str, url: str, *, idempotent: bool | None = None, **options: Any) -> Exchange:
        """A request: awaited, or entered with ``async with``.

        Args:
            method: ``"GET"``, ``"POST"`` ...
            url: absolute, or relative to ``base_url``.
            idempotent: whether it may be sent twice. Not given: what HTTP says of the method.
            options: for the client's ``request`` (``params=``, ``json=``, ``headers=``, ``data=`` ...).

        Returns:
            Awaited: the client's response, read to its end, its connection given back. Entered: the response, to be
            read inside of the block.

        Raises:
            aiohttp.ClientError, httpx.HTTPError: as the client has them, and for a status of 400 and more.
            BreakerOpen: the host was down a moment ago. Nothing was sent.
            RateLimitExceeded, TimeoutError: there was no time left.
            CancelledError: the task was cancelled. Whatever had been opened is closed or given back.
        """
        request = _Request(self, method.upper(), url, idempotent, options)
        return Exchange(request, self._open(request))

    def get(self, url: str, **options: Any) -> Exchange:
        """``request("GET", url)``."""
        return self.request("GET", url, **options)

    def head(self, url: str, **options: Any) -> Exchange:
        """``request("HEAD", url)``."""
        return self.request("HEAD", url, **options)

    def post(self, url: str, **options: Any) -> Exchange:
        """``request("POST", url)``: not sent twice, unless you say ``idempotent=True``."""
        return self.request("POST", url, **options)

    def put(self, url: str, **options: Any) -> Exchange:
        """``request("PUT", url)``."""
        return self.request("PUT", url, **options)

    def patch(self, url: str, **options: Any) -> Exchange:
        """``request("PATCH", url)``: not sent twice, unless you say ``idempotent=True``."""
        return self.request("PATCH", url, **options)

    def delete(self, url: str, **options: Any) -> Exchange:
        """``request("DELETE", url)``."""
        return self.request("DELETE", url, **options)

    async def _open(self, request: _Request) -> None:
        """Sends a request, and reads the answer if that is wanted. In any other case than success all is given back."""
        self._requests += 1
        self._in_flight += 1
        request.counted = True
        try:
            if _trace.hook is None:
                await self._send(request)
            else:
                attributes: dict[str, object] = {
                    "http.request.method": request.method,
                    "server.address": request.host,
                    "loopwright.name": self.name or request.host,
                }
                with _trace.hook("loopwright.http", attributes):
                    await self._send(request)
        except BaseException as error:
            self._failures += isinstance(error, Exception)
            await request.give_back(error)
            raise

    async def _send(self, request: _Request) -> None:
        await (self._repeated if request.is_repeatable() else self._once)(request)

    async def _attempt(self, request: _Request) -> None:
        session = await self._session()
        self._attempts += 1
        try:
            request.response = response = await self._client.send(session, request.method, request.url, request.options)
            self._client.check(response, self._ok)
            if request.whole:
                await self._client.read(response)
        except BaseException as error:
            await request.give_back_response(error)
            raise

    # The session

    async def _session(self) -> Any:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed():
                raise LoopMismatch(
                    f"{self!r} has a session on another event loop: make one service per loop, or close it there first"
                )
            self._loop = loop
            self._client.forget()
        return self._client.session()

    async def aclose(self) -> None:
        """Closes the session and its connections. Requests under way end with the client's error.

        A cancel does not interrupt it; it is raised afterwards. The next request opens a new session.
        """
        self._loop = None
        await finish(self._close())

    async def _close(self) -> None:
        if self._closing:
            await asyncio.wait(self._closing)
        await self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # What it tells

    def breaker(self, url: str) -> CircuitBreaker | None:
        """The breaker of a URL's host; None without breakers."""
        return None if self._breakers is None else self._breakers[self._host(self._absolute(url))]

    def stats(self) -> ServiceStats:
        """
        Returns:
            A frozen :class:`ServiceStats` of this moment.
        """
        hosts = len(self._places)
        return ServiceStats(self.name, self._requests, self._attempts, self._failures, self._in_flight, hosts)

    def __repr__(self) -> str:
        return f"<Service {self.name or self.base_url or 'of any host'} in_flight={self._in_flight}>"

    def _absolute(self, url: str) -> str:
        if self.base_url is None:
            return url
        return urljoin(self.base_url.rstrip("/") + "/", url.lstrip("/") if not urlsplit(url).netloc else url)

    @staticmethod
    def _host(url: str) -> str:
        parts = urlsplit(url)
        if not parts.netloc:
            raise ValueError(f"a Service without base_url takes whole URLs, got {url!r}: begin it with https://")
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


class Exchange:
    """A request and its answer, made by :meth:`Service.request`: awaited once, or entered once."""

    def __init__(self, request: _Request, opening: Coroutine[Any, Any, None]) -> None:
        self._request, self._opening = request, opening

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._whole().__await__()

    async def _whole(self) -> Any:
        self._request.whole = True
        await self._opening
        await self._request.give_back(None)
        return self._request.response

    async def __aenter__(self) -> Any:
        await self._opening
        return self._request.response

    async def __aexit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        await self._request.give_back(error)


class _Request:
    """One request: what is sent, and what has to be given back afterwards."""

    def __init__(
        self, service: Service, method: str, url: str, idempotent: bool | None, options: dict[str, Any]
    ) -> None:
        self.service = service
        self.method, self.url, self.options = method, service._absolute(url), options
        self.host = service._host(self.url)
        self.idempotent = method in REPEATABLE if idempotent is None else idempotent
        self.whole = self.counted = False
        self.response: Any = None
        self.held: Semaphore | None = None

    def is_repeatable(self) -> bool:
        """Whether it may be sent twice, and can be: an iterator or a file is used up by the first time."""
        bodies = (self.options.get(name) for name in ("data", "content"))
        return self.idempotent and all(isinstance(body, (bytes, str, dict, type(None))) for body in bodies)

    def place(self) -> _Place:
        """The place that an attempt takes at its host."""
        return _Place(self)

    async def give_back_response(self, error: BaseException | None) -> None:
        """Gives the body back, and with it the connection; nothing keeps it from that."""
        if self.response is None or (error is None and self.whole):
            return  # there is none, or it was read to its end, which gives it back
        response, self.response = self.response, None
        closing = self.service._client.release(response)
        if closing is None:
            return
        if isinstance(error, GeneratorExit):  # nothing can be awaited here
            task = asyncio.ensure_future(closing)
            self.service._closing.add(task)
            task.add_done_callback(self.service._closing.discard)
        else:
            await finish(closing)

    async def give_back(self, error: BaseException | None) -> None:
        """Gives everything back. The second time nothing happens."""
        try:
            await self.give_back_response(error)
        finally:
            if (held := self.held) is not None:
                self.held = None
                held.release()
            if self.counted:
                self.counted = False
                self.service._in_flight -= 1


class _Place:
    """A place in a host's limits. It is kept when the attempt succeeds: until the body is given back."""

    def __init__(self, request: _Request) -> None:
        self._request = request

    async def __aenter__(self) -> None:
        request, service = self._request, self._request.service
        places = service._places[request.host]
        await places.acquire()
        request.held = places
        if service._rates is not None:
            try:
                async with service._rates[request.host]:
                    pass
            except BaseException:
                self._free()
                raise

    async def __aexit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is not None:
            self._free()

    def _free(self) -> None:
        held, self._request.held = self._request.held, None
        if held is not None:
            held.release()


def _breaker(host: str) -> CircuitBreaker:
    return CircuitBreaker(name=host, on=is_down)


def _per_host(rate: Any) -> Keyed[str, Any] | None:
    if rate is None:
        return None
    if callable(rate):
        return Keyed(rate)
    RateLimiter(rate)  # minds what makes no sense, now and not at the first request
    return Keyed(lambda _host: RateLimiter(rate))
