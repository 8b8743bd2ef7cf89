"""What differs between aiohttp and httpx: the session, how an answer is checked, read and given back."""

from __future__ import annotations

from collections.abc import Collection, Coroutine
from typing import Any, ClassVar

from loopwright._http_errors import _status as status_of
from loopwright.integrations._driver import load

__all__ = ["CLIENTS", "Client", "status_of"]

REFUSED = 400
"""Statuses from here on are errors."""


class Client:
    """One client library, and the one session of it."""

    module: ClassVar[str]

    def __init__(self, options: dict[str, Any], read_timeout: float) -> None:
        self._library = load(self.module, extra=self.module)
        self._options, self._read_timeout = options, read_timeout
        self._session: Any = None

    def session(self) -> Any:
        """The session; made, in the running loop, if there is none."""
        if self._session is None:
            self._session = self.new_session()
        return self._session

    def forget(self) -> None:
        """The loop of the session was closed: nothing of it can be used or closed any more."""
        self._session = None

    async def close(self) -> None:
        """Closes the session, if there is one."""
        session, self._session = self._session, None
        if session is not None:
            await self.close_session(session)

    def new_session(self) -> Any:
        raise NotImplementedError

    async def close_session(self, session: Any) -> None:
        raise NotImplementedError

    async def send(self, session: Any, method: str, url: str, options: dict[str, Any]) -> Any:
        """Sends a request; the answer's head has arrived, its body has not been read."""
        raise NotImplementedError

    def check(self, response: Any, ok: Collection[int]) -> None:
        """Raises the client's own error for a status that is none of ``ok``."""
        status = status_of(response)
        if status is not None and status >= REFUSED and status not in ok:
            response.raise_for_status()

    async def read(self, response: Any) -> None:
        """Reads the body to its end, which gives the connection back."""
        raise NotImplementedError

    def release(self, response: Any) -> Coroutine[Any, Any, None] | None:
        """Gives the connection back, or closes it where the body was not read to its end; None: it is done."""
        raise NotImplementedError


class Aiohttp(Client):
    module = "aiohttp"

    def new_session(self) -> Any:
        options = dict(self._options)
        # Hosts are limited here, not by the connector: its line knows no deadline, and begins behind the breaker.
        options.setdefault("connector", None)
        if options["connector"] is None:
            options["connector"] = self._library.TCPConnector(limit=0)
        timeout = self._library.ClientTimeout(total=None, sock_read=self._read_timeout)
        return self._library.ClientSession(**{"timeout": timeout, **options})

    async def close_session(self, session: Any) -> None:
        await session.close()

    async def send(self, session: Any, method: str, url: str, options: dict[str, Any]) -> Any:
        return await session.request(method, url, **options)

    async def read(self, response: Any) -> None:
        await response.read()

    def release(self, response: Any) -> None:
        response.release()  # closes the connection when the body is not at its end


class Httpx(Client):
    module = "httpx"

    def new_session(self) -> Any:
        limits = self._library.Limits(max_connections=None, max_keepalive_connections=None)
        timeout = self._library.Timeout(None, read=self._read_timeout)
        return self._library.AsyncClient(**{"timeout": timeout, "limits": limits, **self._options})

    async def close_session(self, session: Any) -> None:
        await session.aclose()

    async def send(self, session: Any, method: str, url: str, options: dict[str, Any]) -> Any:
        sending = {name: options[name] for name in ("auth", "follow_redirects") if name in options}
        making = {name: value for name, value in options.items() if name not in sending}
        return await session.send(session.build_request(method, url, **making), stream=True, **sending)

    async def read(self, response: Any) -> None:
        await response.aread()

    def release(self, response: Any) -> Coroutine[Any, Any, None] | None:
        return None if response.is_closed else response.aclose()


CLIENTS: dict[str, type[Client]] = {"aiohttp": Aiohttp, "httpx": Httpx}
