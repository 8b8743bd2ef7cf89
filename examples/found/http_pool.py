"""httpcore 1.0.9: a pool of one that a cancel shrinks to none.

    python examples/found/http_pool.py

A request that is cancelled between getting its connection and using it, or while it gives it back, leaves that
connection to nobody: it is neither idle nor closed, and it counts against `max_connections` for ever. Whoever waits for
a connection is not woken. The project knows: encode/httpcore#1093.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore

from loopwright.testing import Play, SweepFailure, cancel_sweep

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Stream(httpcore.AsyncNetworkStream):
    """A server that answers each request with "ok", a turn of the loop later."""

    def __init__(self) -> None:
        self.answers = 0

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await asyncio.sleep(0)
        self.answers += b"\r\n\r\n" in buffer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        await asyncio.sleep(0)
        if not self.answers:
            return b""
        self.answers -= 1
        return ANSWER

    async def aclose(self) -> None:
        pass

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        raise NotImplementedError

    def get_extra_info(self, info: str) -> Any:
        return None


class Network(httpcore.AsyncNetworkBackend):
    """Connecting takes a turn of the loop."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        await asyncio.sleep(0)
        return Stream()


async def one_connection_for_two(play: Play) -> None:
    """Two requests share a pool of one; whatever is cancelled, a third has to be answered afterwards."""
    pool = httpcore.AsyncConnectionPool(max_connections=1, network_backend=Network())

    async def request() -> None:
        answer = await pool.request("GET", "http://service/")
        assert answer.content == b"ok"

    play.spawn(request(), name="first")
    play.spawn(request(), name="second")
    await play.finished()
    try:
        await pool.request("GET", "http://service/", extensions={"timeout": {"pool": 5}})
    except httpcore.PoolTimeout:
        raise AssertionError(f"no connection for the third request: {pool!r}") from None


def main() -> None:
    try:
        cancel_sweep(one_connection_for_two, waves=["cancel"], show="failing")
    except SweepFailure as failure:
        print(failure)


if __name__ == "__main__":
    main()
