"""Fakes that behave: connections, pools, functions and HTTP answers that fail, stall or break on script.

A mock of ``unittest`` answers anything at once, and what it answers is often no async context manager at all
(``AsyncMock().acquire()`` raises a TypeError where a pool is meant). These fakes are awaited, entered and iterated as
the real things are, take time, refuse what real ones refuse, and write down every call::

    connection = FakeConnection([ok(1), slow(2.0), fail(TimeoutError()), break_after(3)])
    pool = FakePool(lambda: FakeConnection(), size=2)
    session = FakeClientSession([respond(503), respond(json={"id": 1})])
    client = httpx.AsyncClient(transport=httpx_transport([stall(), respond(text="hello")]))

Each takes a *script*: what happens at the first call, the second and so on. A call beyond its end raises
:class:`ScriptExhausted`, and ``check()`` at the end of a test raises when a script was left unfinished, or was exceeded
where the code under test has swallowed that. Without a script every call succeeds.

For whole programs, and where transports and protocols matter, see :mod:`loopwright.testing.net`.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import itertools
import json as json_module
import sys
import warnings
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from loopwright.testing.errors import ScriptExhausted

if TYPE_CHECKING:
    import httpx

__all__ = [
    "Call",
    "FakeClientSession",
    "FakeConnection",
    "FakeFunction",
    "FakePool",
    "FakeResponse",
    "ScriptExhausted",
    "Step",
    "always",
    "answer",
    "break_after",
    "fail",
    "httpx_transport",
    "ok",
    "respond",
    "slow",
    "stall",
    "times",
]


# Scripts


@dataclass(slots=True)
class Call:
    """One call that a fake got."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    time: float = 0.0
    """When, by the loop's clock."""
    outcome: str = "pending"
    """``pending``, ``ok``, ``failed`` or ``cancelled``."""

    def __str__(self) -> str:
        shown = [*map(repr, self.args), *(f"{key}={value!r}" for key, value in self.kwargs.items())]
        return f"{self.name}({', '.join(shown)})"


class Step:
    """What happens at one call; made by :func:`ok`, :func:`fail`, :func:`slow` and the like."""

    endless = False

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text

    async def play(self, call: Call) -> Any:
        """Answers the call."""
        raise NotImplementedError

    def expand(self) -> Iterator[Step]:
        """The steps that it stands for."""
        yield self


class _Ok(Step):
    def __init__(self, value: Any) -> None:
        super().__init__(f"ok({value!r})")
        self.value = value

    async def play(self, call: Call) -> Any:
        return self.value


class _Fail(Step):
    def __init__(self, error: BaseException | type[BaseException]) -> None:
        super().__init__(f"fail({error!r})")
        self.error = error

    async def play(self, call: Call) -> NoReturn:
        if isinstance(self.error, type):
            raise self.error
        try:
            error = copy.copy(self.error)  # a step may be played again; tracebacks would pile up on one object
        except Exception:
            error = self.error
        raise error.with_traceback(None)


class _Slow(Step):
    def __init__(self, seconds: float, then: Step) -> None:
        super().__init__(f"slow({seconds!r}, {then!r})")
        self.seconds = seconds
        self.then = then

    async def play(self, call: Call) -> Any:
        await asyncio.sleep(self.seconds)
        return await self.then.play(call)


class _Stall(Step):
    def __init__(self) -> None:
        super().__init__("stall()")

    async def play(self, call: Call) -> NoReturn:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody resolves this future")


class _Answer(Step):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(f"answer({getattr(function, '__name__', function)!s})")
        self.function = function

    async def play(self, call: Call) -> Any:
        value = self.function(*call.args, **call.kwargs)
        return await value if inspect.isawaitable(value) else value


class _Several(Step):
    def __init__(self, text: str, steps: Callable[[], Iterable[Step]], *, endless: bool) -> None:
        super().__init__(text)
        self._steps = steps
        self.endless = endless

    def expand(self) -> Iterator[Step]:
        for step in self._steps():
            yield from step.expand()


def ok(value: Any = None) -> Step:
    """The call returns ``value``."""
    return _Ok(value)


def fail(error: BaseException | type[BaseException]) -> Step:
    """The call raises ``error``. A ``ConnectionError`` also breaks a :class:`FakeConnection` for good."""
    if not (isinstance(error, BaseException) or (isinstance(error, type) and issubclass(error, BaseException))):
        raise TypeError(f"fail() takes an exception, not {error!r}")
    return _Fail(error)


def slow(seconds: float, then: Step | None = None) -> Step:
    """The call takes so many seconds, then ends as ``then`` says: by default it returns None."""
    return _Slow(seconds, _checked(ok() if then is None else then, "slow()"))


def stall() -> Step:
    """The call never ends, unless it is cancelled."""
    return _Stall()


def answer(function: Callable[..., Any]) -> Step:
    """The call returns what ``function`` makes of its arguments; an ``async def`` is awaited."""
    return _Answer(function)


def times(count: int, step: Step) -> Step:
    """The same ``count`` times."""
    _checked(step, "times()")
    return _Several(f"times({count}, {step!r})", lambda: itertools.repeat(step, count), endless=False)


def always(step: Step) -> Step:
    """The same from here on."""
    _checked(step, "always()")
    return _Several(f"always({step!r})", lambda: itertools.repeat(step), endless=True)


def break_after(calls: int, step: Step | None = None) -> Step:
    """So many calls go as ``step`` says (by default they return None), then the connection is reset: that call and all
    that follow raise ``ConnectionResetError``.
    """
    each = _checked(ok() if step is None else step, "break_after()")
    broken = fail(ConnectionResetError("the connection was reset, as its script says"))
    return _Several(
        f"break_after({calls})",
        lambda: itertools.chain(itertools.repeat(each, calls), itertools.repeat(broken)),
        endless=True,
    )


def _checked(step: Any, where: str) -> Step:
    if isinstance(step, Step):
        return step
    if isinstance(step, BaseException):
        raise TypeError(f"{where} is the exception {step!r}; write fail({step!r})")
    raise TypeError(f"{where} is {step!r}; a step is made by ok(), fail(), slow(), stall() ...: write ok({step!r})")


class _Script:
    """The steps still to come, and the calls so far."""

    def __init__(self, owner: str, steps: Iterable[Step] | None) -> None:
        self.owner = owner
        listed = [always(ok())] if steps is None else list(steps)
        for index, step in enumerate(listed):
            _checked(step, f"script[{index}] of {owner}")
        self._steps = listed
        self._coming = ((one, step.endless) for step in listed for one in step.expand())
        self._ahead: tuple[Step, bool] | None = None
        self.calls: list[Call] = []
        self.beyond: list[Call] = []

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call, Step]:
        """Writes a call down and takes its step."""
        call = Call(name, args, kwargs, asyncio.get_running_loop().time())
        self.calls.append(call)
        step = self._take()
        if step is None:
            call.outcome = "failed"
            self.beyond.append(call)
            raise ScriptExhausted(
                f"{self.owner} got call {len(self.calls)}, {call}, and its script has no step left: {self._steps!r}. "
                "Add a step, or let it end with always(ok())"
            )
        return call, step

    def _peek(self) -> tuple[Step, bool] | None:
        if self._ahead is None:
            self._ahead = next(self._coming, None)
        return self._ahead

    def _take(self) -> Step | None:
        coming, self._ahead = self._peek(), None
        return None if coming is None else coming[0]

    def check(self) -> None:
        if self.beyond:
            raise ScriptExhausted(
                f"{self.owner} got {len(self.beyond)} calls more than its script has steps, first {self.beyond[0]}"
            )
        coming = self._peek()
        if coming is not None and not coming[1]:
            raise AssertionError(
                f"{self.owner} was called {len(self.calls)} times and its script is not over; next: {coming[0]!r}"
            )

    async def play(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call, step = self.call(name, args, kwargs)
        return await self.finish(call, step)

    async def finish(self, call: Call, step: Step) -> Any:
        try:
            value = await step.play(call)
        except asyncio.CancelledError:
            call.outcome = "cancelled"
            raise
        except BaseException:
            call.outcome = "failed"
            raise
        call.outcome = "ok"
        return value


class _Pending:
    """A call of a fake: awaited, entered with ``async with`` or iterated with ``async for``, whatever its real twin is.

    Nothing happens before that; one that is dropped warns, as a coroutine does.
    """

    def __init__(self, name: str, run: Callable[[], Any], leave: Callable[[Any], None] | None = None) -> None:
        self._name = name
        self._run: Callable[[], Any] | None = run
        self._leave = leave
        self._value: Any = None

    def _start(self) -> Any:
        run, self._run = self._run, None
        if run is None:
            raise RuntimeError(f"{self._name}() was awaited already: call it again")
        return run()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._start().__await__()  # type: ignore[no-any-return]

    async def __aenter__(self) -> Any:
        self._value = await self._start()
        return self._value

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._leave is not None:
            self._leave(self._value)

    async def __aiter__(self) -> AsyncIterator[Any]:
        for item in await self._start():
            yield item

    def __del__(self) -> None:
        if self._run is not None:
            warnings.warn(f"{self._name}() was never awaited", RuntimeWarning, source=self, stacklevel=2)


class FakeFunction:
    """An async function with a script: a ``connect``, a request, anything that is awaited.

    ``fetch = FakeFunction([fail(TimeoutError()), ok("page")])``; then ``await fetch("/index")``.
    """

    def __init__(self, script: Iterable[Step] | None = None, *, name: str = "function") -> None:
        self.__name__ = name
        self._script = _Script(f"FakeFunction {name!r}", script)

    def __repr__(self) -> str:
        return f"<FakeFunction {self.__name__} calls={len(self.calls)}>"

    @property
    def calls(self) -> list[Call]:
        """Every call so far."""
        return self._script.calls

    def check(self) -> None:
        """Raises when the script was not played to its end, or was exceeded."""
        self._script.check()

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return await self._script.play(self.__name__, args, kwargs)


class FakeConnection:
    """A connection with a script. Any method may be called on it, and takes the next step::

        rows = await connection.fetch("select 1")
        async with connection.transaction(): ...
        async for row in connection.cursor("select 1"): ...

    As with a real one, only one call at a time is under way; a call that is cancelled midway leaves it ``dirty``; a
    ``ConnectionError`` breaks it, and a broken or closed one raises at every call.

    Args:
        script: what happens at the first call, the second and so on; None: every call returns None.
        name: for messages.
    """

    def __init__(self, script: Iterable[Step] | None = None, *, name: str = "connection") -> None:
        self._script = _Script(f"FakeConnection {name!r}", script)
        self._name = name
        self._busy: Call | None = None
        self.closed = False
        """Whether it was closed, by either side."""
        self.broken: BaseException | None = None
        """What broke it."""
        self.dirty = False
        """A call was cancelled midway: whether it took effect, nobody knows."""

    def __repr__(self) -> str:
        state = "closed" if self.closed else "dirty" if self.dirty else "busy" if self._busy else "open"
        return f"<FakeConnection {self._name} {state} calls={len(self.calls)}>"

    @property
    def calls(self) -> list[Call]:
        """Every call so far."""
        return self._script.calls

    def check(self) -> None:
        """Raises when the script was not played to its end, or was exceeded."""
        self._script.check()

    def is_closed(self) -> bool:
        """Whether it was closed or is broken."""
        return self.closed

    async def close(self) -> None:
        """Closes it; not a step of the script."""
        self.closed = True

    def abort(self) -> None:
        """Closes it at once."""
        self.closed = True

    async def __aenter__(self) -> FakeConnection:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True

    def __getattr__(self, name: str) -> Callable[..., _Pending]:
        if name.startswith("_"):
            raise AttributeError(name)

        def method(*args: Any, **kwargs: Any) -> _Pending:
            return _Pending(f"{self._name}.{name}", lambda: self._call(name, args, kwargs))

        return method

    async def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._busy is not None:
            raise RuntimeError(f"{self._name}.{name}(): another call is under way on this connection: {self._busy}")
        if self.closed:
            reason = f"broken by {self.broken!r}" if self.broken is not None else "closed"
            raise ConnectionError(f"{self._name}.{name}(): the connection is {reason}")
        call, step = self._script.call(name, args, kwargs)
        self._busy = call
        try:
            return await self._script.finish(call, step)
        except asyncio.CancelledError:
            self.dirty = True
            raise
        except ConnectionError as error:
            self.broken, self.closed = error, True
            raise
        finally:
            self._busy = None


class FakePool:
    """A pool of fake connections, of limited size, first come first served::

        async with pool.acquire() as connection: ...
        connection = await pool.acquire()
        await pool.release(connection)
        rows = await pool.fetch("select 1")  # on a connection of its own

    Args:
        connect: makes a connection; by default one whose calls all succeed.
        size: how many may be out at once; the next caller waits.
        script: what happens at each acquire, besides waiting for its turn: ``fail``, ``slow``, ``stall``; what ``ok``
            returns is not used. None: each succeeds.
        name: for messages.
    """

    def __init__(
        self,
        connect: Callable[[], Any] = FakeConnection,
        *,
        size: int = 10,
        script: Iterable[Step] | None = None,
        name: str = "pool",
    ) -> None:
        if size < 1:
            raise ValueError(f"size is {size}: a pool without connections gives none")
        self._connect = connect
        self._script = _Script(f"FakePool {name!r}", script)
        self._name = name
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._out: dict[int, tuple[Any, str]] = {}
        self._reserved = 0
        self.size = size
        self.idle: list[Any] = []
        """Connections that wait to be used again, the last one returned first."""
        self.opened = 0
        """How many connections it has made."""
        self.peak = 0
        """How many were out at once, at most."""
        self.closed = False

    def __repr__(self) -> str:
        return f"<FakePool {self._name} out={len(self._out)}/{self.size} idle={len(self.idle)}>"

    @property
    def calls(self) -> list[Call]:
        """Every acquire so far."""
        return self._script.calls

    @property
    def out(self) -> list[Any]:
        """The connections that were acquired and not released."""
        return [connection for connection, _ in self._out.values()]

    def check(self) -> None:
        """Raises when a connection was not released, or the script was not played to its end, or was exceeded."""
        if self._out:
            where = ", ".join(line for _, line in self._out.values())
            raise AssertionError(f"{self!r}: {len(self._out)} connections were not released; acquired at {where}")
        self._script.check()

    def acquire(self, **kwargs: Any) -> Any:
        """A connection: ``await`` it and release it, or use it with ``async with``."""
        caller = sys._getframe(1)
        line = f"{caller.f_code.co_filename}:{caller.f_lineno}"
        return _Pending(f"{self._name}.acquire", lambda: self._acquire(kwargs, line), self._release)

    async def _acquire(self, kwargs: dict[str, Any], line: str) -> Any:
        if self.closed:
            raise RuntimeError(f"{self!r} is closed")
        call, step = self._script.call("acquire", (), kwargs)
        async with asyncio.timeout(kwargs.get("timeout")):
            await self._turn(call)
            try:
                await self._script.finish(call, step)
                while self.idle:
                    connection = self.idle.pop()
                    if not connection.is_closed():
                        break
                else:
                    connection = self._connect()
                    connection = await connection if inspect.isawaitable(connection) else connection
                    self.opened += 1
                self._out[id(connection)] = connection, line
                self.peak = max(self.peak, len(self._out))
            finally:
                self._reserved -= 1
                self._wake()
        return connection

    async def _turn(self, call: Call) -> None:
        """Waits until there is room, and takes it."""
        if self._waiters or len(self._out) + self._reserved >= self.size:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                call.outcome = "cancelled"
                if waiter.done() and not waiter.cancelled():
                    self._reserved -= 1  # it had been given room
                    self._wake()
                else:
                    self._waiters.remove(waiter)
                raise
        else:
            self._reserved += 1

    def _wake(self) -> None:
        while self._waiters and len(self._out) + self._reserved < self.size:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._reserved += 1
                waiter.set_result(None)

    def release(self, connection: Any) -> Any:
        """Gives a connection back; may be awaited, and need not be."""
        self._release(connection)
        return _Released()

    def _release(self, connection: Any) -> None:
        if self._out.pop(id(connection), None) is None:
            raise ValueError(f"{connection!r} is not out of {self!r}: it was released before, or is not of this pool")
        if not connection.is_closed() and not self.closed:
            self.idle.append(connection)
        self._wake()

    async def close(self) -> None:
        """Closes the idle connections, and those that are out when they come back."""
        self.closed = True
        for connection in self.idle:
            await connection.close()
        self.idle.clear()

    async def __aenter__(self) -> FakePool:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __getattr__(self, name: str) -> Callable[..., _Pending]:
        if name.startswith("_"):
            raise AttributeError(name)

        async def on_a_connection(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            async with self.acquire() as connection:
                return await getattr(connection, name)(*args, **kwargs)

        def method(*args: Any, **kwargs: Any) -> _Pending:
            return _Pending(f"{self._name}.{name}", lambda: on_a_connection(args, kwargs))

        return method


class _Released:
    """Awaitable, and nobody minds when it is not awaited."""

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


# HTTP


@dataclass(frozen=True, slots=True)
class _Respond:
    """An answer before it is known which library asks."""

    status: int
    body: bytes
    headers: dict[str, str]
    break_after: int | None
    stall_after: int | None

    def pieces(self) -> tuple[bytes, str]:
        """The bytes that arrive, and what happens after them: ``end``, ``break`` or ``stall``."""
        if self.break_after is not None:
            return self.body[: self.break_after], "break"
        if self.stall_after is not None:
            return self.body[: self.stall_after], "stall"
        return self.body, "end"


def respond(  # noqa: PLR0913 (each is a choice of its own)
    status: int = 200,
    *,
    json: Any = None,
    text: str | None = None,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    break_after: int | None = None,
    stall_after: int | None = None,
) -> Step:
    """An HTTP answer.

    Args:
        status: its status.
        json: its body, as JSON; or
        text: as text; or
        body: as bytes.
        headers: in addition to ``Content-Type``.
        break_after: the connection is lost after so many bytes of the body.
        stall_after: nothing comes any more after so many bytes of the body.
    """
    given = {"json": json, "text": text, "body": body}
    if sum(value is not None for value in given.values()) > 1:
        raise TypeError("respond() takes one of json=, text= and body=")
    kind = "application/octet-stream"
    if json is not None:
        body, kind = json_module.dumps(json).encode(), "application/json"
    elif text is not None:
        body, kind = text.encode(), "text/plain; charset=utf-8"
    made = _Respond(status, body or b"", {"Content-Type": kind, **(headers or {})}, break_after, stall_after)
    step = _Ok(made)
    step._text = f"respond({status})"
    return step


def _as_response(value: Any, owner: str) -> _Respond:
    if isinstance(value, _Respond):
        return value
    if value is None:
        return _Respond(200, b"", {}, None, None)
    raise TypeError(f"a step of {owner} answered {value!r}; an HTTP answer is made by respond()")


def _routes(owner: str, script: Any) -> dict[str, _Script]:
    """One script for all requests, under the name "", or one for each ``"METHOD url"``."""
    if isinstance(script, Mapping):
        return {route: _Script(f"{owner} {route!r}", steps) for route, steps in script.items()}
    return {"": _Script(owner, [always(respond())] if script is None else script)}


def _route(owner: str, routes: dict[str, _Script], method: str, url: str) -> _Script:
    for route in ("", f"{method} {url}", f"{method} {url.partition('?')[0]}"):
        if route in routes:
            return routes[route]
    raise ScriptExhausted(f"{owner} was asked for {method} {url} and has no script for it; it has {sorted(routes)}")


class FakeResponse:
    """What a :class:`FakeClientSession` answers: the part of ``aiohttp.ClientResponse`` that programs use."""

    def __init__(self, made: _Respond, method: str, url: Any, total: float | None) -> None:
        from multidict import CIMultiDict, CIMultiDictProxy  # noqa: PLC0415 (only who uses it needs aiohttp)

        self.status = made.status
        self.method = method
        self.url = url
        self.headers = CIMultiDictProxy(CIMultiDict(made.headers))
        self.released = False
        """Whether its connection was given back: by reading all of it, ``release()``, or the end of ``async with``."""
        self._made = made
        self._deadline = total
        self._body: bytes | None = None

    def __repr__(self) -> str:
        return f"<FakeResponse {self.method} {self.url} [{self.status}]>"

    @property
    def ok(self) -> bool:
        """A status below 400."""
        return self.status < 400  # noqa: PLR2004

    @property
    def reason(self) -> str:
        """The status in words."""
        from http import HTTPStatus  # noqa: PLC0415

        return HTTPStatus(self.status).phrase

    @property
    def content_type(self) -> str:
        """The Content-Type without its parameters."""
        return str(self.headers.get("Content-Type", "application/octet-stream")).split(";")[0]

    @property
    def content(self) -> FakeResponse:
        """The body as a stream; the response itself."""
        return self

    def raise_for_status(self) -> None:
        """Raises ``aiohttp.ClientResponseError`` for a status of 400 and above."""
        if not self.ok:
            import aiohttp  # noqa: PLC0415

            self.release()
            request: Any = aiohttp.RequestInfo(self.url, self.method, self.headers, self.url)
            raise aiohttp.ClientResponseError(
                request, (), status=self.status, message=self.reason, headers=self.headers
            )

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """The body, in pieces of at most ``size`` bytes."""
        data, end = self._made.pieces()
        if self._body is not None:
            data, end = self._body, "end"
        for at in range(0, len(data), size):
            await asyncio.sleep(0)
            yield data[at : at + size]
        await self._end(end)
        self.release()

    async def iter_any(self) -> AsyncIterator[bytes]:
        """The body, as it comes."""
        async for piece in self.iter_chunked(1 << 16):
            yield piece

    async def _end(self, end: str) -> None:
        if end == "break":
            import aiohttp  # noqa: PLC0415

            self.release()
            raise aiohttp.ClientPayloadError("Response payload is not completed: the script breaks it off")
        if end == "stall":
            async with asyncio.timeout_at(self._deadline):
                await asyncio.get_running_loop().create_future()

    async def read(self) -> bytes:
        """The body."""
        if self._body is None:
            if self.released:
                import aiohttp  # noqa: PLC0415

                raise aiohttp.ClientConnectionError("Connection closed")
            data, end = self._made.pieces()
            await self._end(end)
            self._body = data
            self.release()
        return self._body

    async def text(self, encoding: str = "utf-8") -> str:
        """The body as text."""
        return (await self.read()).decode(encoding)

    async def json(self, *, content_type: str | None = "application/json") -> Any:
        """The body as JSON; raises ``aiohttp.ContentTypeError`` when the answer says that it is something else."""
        body = await self.read()
        if content_type is not None and content_type != self.content_type:
            import aiohttp  # noqa: PLC0415

            request: Any = aiohttp.RequestInfo(self.url, self.method, self.headers, self.url)
            message = f"Attempt to decode JSON with unexpected mimetype: {self.content_type}"
            raise aiohttp.ContentTypeError(request, (), status=self.status, message=message, headers=self.headers)
        return json_module.loads(body) if body.strip() else None

    def release(self) -> None:
        """Gives the connection back."""
        self.released = True

    def close(self) -> None:
        """Closes the connection."""
        self.released = True

    async def __aenter__(self) -> FakeResponse:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()


class FakeClientSession:
    """In place of ``aiohttp.ClientSession``; needs aiohttp, whose errors it raises::

        async with FakeClientSession([respond(503), slow(2, respond(json=[1]))]) as session:
            async with session.get("http://api/items") as response:
                response.raise_for_status()

    Args:
        script: what happens at the first request, the second and so on; or one script for each ``"GET http://..."``.
        timeout: the session's ``aiohttp.ClientTimeout``; its total counts, aiohttp's default being 300 s.
        raise_for_status: as aiohttp's.
    """

    def __init__(
        self,
        script: Iterable[Step] | Mapping[str, Iterable[Step]] | None = None,
        *,
        timeout: Any = None,
        raise_for_status: bool = False,
    ) -> None:
        self._routes = _routes("FakeClientSession", script)
        self._timeout = timeout
        self._raise = raise_for_status
        self.responses: list[FakeResponse] = []
        """Every answer so far."""
        self.closed = False

    def __repr__(self) -> str:
        return f"<FakeClientSession requests={len(self.calls)}{' closed' if self.closed else ''}>"

    @property
    def calls(self) -> list[Call]:
        """Every request so far: ``GET('http://...', params=...)``."""
        return sorted((call for script in self._routes.values() for call in script.calls), key=lambda call: call.time)

    def check(self) -> None:
        """Raises when an answer was not released, or a script was not played to its end, or was exceeded."""
        held = [response for response in self.responses if not response.released]
        if held:
            raise AssertionError(
                f"{len(held)} answers were neither read nor released, the first one {held[0]!r}: each keeps a "
                "connection; use `async with session.get(...)`"
            )
        for script in self._routes.values():
            script.check()

    def request(self, method: str, url: Any, **kwargs: Any) -> Any:
        """A request: ``async with`` it, or ``await`` it."""
        return _Pending(
            f"session.{method.lower()}", lambda: self._request(method.upper(), url, kwargs), lambda r: r.release()
        )

    async def _request(self, method: str, url: Any, kwargs: dict[str, Any]) -> FakeResponse:
        import yarl  # noqa: PLC0415

        if self.closed:
            raise RuntimeError("Session is closed")
        script = _route("FakeClientSession", self._routes, method, str(url))
        limit = kwargs.get("timeout", self._timeout)
        total = 300.0 if limit is None else getattr(limit, "total", limit)
        deadline = None if not total else asyncio.get_running_loop().time() + total
        async with asyncio.timeout_at(deadline):
            made = _as_response(await script.play(method, (str(url),), kwargs), "FakeClientSession")
        response = FakeResponse(made, method, yarl.URL(str(url)), deadline)
        self.responses.append(response)
        if kwargs.get("raise_for_status", self._raise):
            response.raise_for_status()
        return response

    def get(self, url: Any, **kwargs: Any) -> Any:
        """A GET request."""
        return self.request("GET", url, **kwargs)

    def post(self, url: Any, **kwargs: Any) -> Any:
        """A POST request."""
        return self.request("POST", url, **kwargs)

    def put(self, url: Any, **kwargs: Any) -> Any:
        """A PUT request."""
        return self.request("PUT", url, **kwargs)

    def patch(self, url: Any, **kwargs: Any) -> Any:
        """A PATCH request."""
        return self.request("PATCH", url, **kwargs)

    def delete(self, url: Any, **kwargs: Any) -> Any:
        """A DELETE request."""
        return self.request("DELETE", url, **kwargs)

    def head(self, url: Any, **kwargs: Any) -> Any:
        """A HEAD request."""
        return self.request("HEAD", url, **kwargs)

    def options(self, url: Any, **kwargs: Any) -> Any:
        """An OPTIONS request."""
        return self.request("OPTIONS", url, **kwargs)

    async def close(self) -> None:
        """Closes the session."""
        self.closed = True

    async def __aenter__(self) -> FakeClientSession:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True


def httpx_transport(script: Iterable[Step] | Mapping[str, Iterable[Step]] | None = None) -> Any:
    """A transport for ``httpx.AsyncClient(transport=...)``; the client and its answers are httpx's own.

    httpx's timeouts hold: a ``stall()`` ends in ``httpx.ReadTimeout`` after the client's read timeout, 5 s by default.
    The transport has ``calls`` and ``check()`` as the other fakes do.

    Args:
        script: what happens at the first request, the second and so on; or one script for each ``"GET http://..."``.
    """
    import httpx  # noqa: PLC0415 (only who uses it needs it)

    class Body(httpx.AsyncByteStream):
        def __init__(self, made: _Respond, request: httpx.Request) -> None:
            self._made = made
            self._request = request

        async def __aiter__(self) -> AsyncIterator[bytes]:
            data, end = self._made.pieces()
            if data:
                yield data
            if end == "break":
                raise httpx.ReadError("the script breaks the answer off", request=self._request)
            if end == "stall":
                await _within(_read_timeout(self._request), _stalled(), self._request)

    class Transport(httpx.AsyncBaseTransport):
        def __init__(self) -> None:
            self._routes = _routes("httpx_transport", script)

        @property
        def calls(self) -> list[Call]:
            calls = [call for script in self._routes.values() for call in script.calls]
            return sorted(calls, key=lambda call: call.time)

        def check(self) -> None:
            for one in self._routes.values():
                one.check()

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            content = await request.aread()
            one = _route("httpx_transport", self._routes, request.method, str(request.url))
            details: dict[str, Any] = {"content": content} if content else {}
            playing = one.play(request.method, (str(request.url),), details)
            made = _as_response(await _within(_read_timeout(request), playing, request), "httpx_transport")
            headers = {**made.headers, "Content-Length": str(len(made.body))}
            return httpx.Response(made.status, headers=headers, stream=Body(made, request), request=request)

    return Transport()


def _read_timeout(request: httpx.Request) -> float | None:
    seconds: float | None = request.extensions.get("timeout", {}).get("read")
    return seconds


async def _stalled() -> NoReturn:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody resolves this future")


async def _within(seconds: float | None, awaitable: Any, request: httpx.Request) -> Any:
    import httpx  # noqa: PLC0415

    try:
        async with asyncio.timeout(seconds) as limit:
            return await awaitable
    except TimeoutError as error:
        if limit.expired():
            raise httpx.ReadTimeout("the script answers too late", request=request) from error
        raise
