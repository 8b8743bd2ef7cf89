"""Transports, protocols and streams over real sockets and pipes."""

from __future__ import annotations

import asyncio
import os
import socket

from corpus.guarantees import real


class _Log(asyncio.Protocol):
    """Notes what is called, data as one."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.data = b""
        self.lost = asyncio.get_running_loop().create_future()

    def _note(self, call: str) -> None:
        if self.calls[-1:] != [call]:
            self.calls.append(call)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._note("made")

    def data_received(self, data: bytes) -> None:
        self._note("data")
        self.data += data

    def eof_received(self) -> None:
        self._note("eof")

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self._note("lost")
        self.lost.set_result(exc)


async def _pair() -> tuple[asyncio.Transport, _Log, asyncio.Transport, _Log]:
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    one, first = await loop.create_connection(_Log, sock=left)
    other, second = await loop.create_connection(_Log, sock=right)
    return one, first, other, second


@real
async def made_data_eof_lost() -> None:
    """Docs: "start -> connection_made [-> data_received]* [-> eof_received]? -> connection_lost -> end" """
    one, first, _, second = await _pair()
    one.write(b"hello")
    one.write_eof()
    await second.lost
    await first.lost
    assert second.calls == ["made", "data", "eof", "lost"]
    assert first.calls[0] == "made"
    assert first.calls[-1] == "lost"


@real
async def made_before_data_that_is_already_there() -> None:
    """Docs: "Connection callbacks are called on all protocols, exactly once per a successful connection. All other
    protocol callbacks can only be called between those two methods."
    """
    left, right = socket.socketpair()
    with right:
        right.sendall(b"early")
        right.shutdown(socket.SHUT_WR)
        _, protocol = await asyncio.get_running_loop().create_connection(_Log, sock=left)
        await protocol.lost
    assert protocol.calls == ["made", "data", "eof", "lost"]


@real
async def close_flushes_first() -> None:
    """BaseTransport.close(): "Buffered data will be flushed asynchronously. No more data will be received. After all
    buffered data is flushed, the protocol's connection_lost() method will be called."
    """
    one, first, _, second = await _pair()
    for chunk in (b"a" * 1000, b"b" * 1000, b"c" * 1000):
        one.write(chunk)
    one.close()
    assert first.calls == ["made"]
    await first.lost
    await second.lost
    assert second.data == b"a" * 1000 + b"b" * 1000 + b"c" * 1000


@real
async def writelines_is_writing_each() -> None:
    """writelines(): "functionally equivalent to calling write() on each element yielded by the iterable" """
    one, _, _, second = await _pair()
    one.writelines([b"a", b"b"])
    one.write(b"c")
    one.writelines([b"d"])
    one.close()
    await second.lost
    assert second.data == b"abcd"


@real
async def abort_ends_in_lost() -> None:
    """abort(): "The protocol's connection_lost() method will eventually be called with None as its argument." """
    one, first, other, second = await _pair()
    other.write(b"data")
    one.abort()
    assert await first.lost is None
    assert first.calls[-1] == "lost"
    await second.lost


@real
async def pause_and_resume_in_pairs() -> None:
    """Docs: "pause_writing() and resume_writing() calls are paired" """
    one, first, other, second = await _pair()
    one.set_write_buffer_limits(high=0)
    other.pause_reading()
    one.write(b"x" * 500_000)
    other.resume_reading()
    one.write_eof()
    await second.lost
    await first.lost
    flow = [call for call in first.calls if call in ("pause", "resume")]
    assert flow == ["pause", "resume"] * (len(flow) // 2)
    assert len(second.data) == 500_000


@real
async def a_pipe_is_made_and_lost_too() -> None:
    """Docs: "start -> connection_made [-> data_received]* [-> eof_received]? -> connection_lost -> end", of a pipe."""
    read, write = os.pipe()
    os.write(write, b"hello")
    os.close(write)
    with os.fdopen(read, "rb", 0) as pipe:
        transport, protocol = await asyncio.get_running_loop().connect_read_pipe(_Log, pipe)
        await protocol.lost
        transport.close()
    assert protocol.calls == ["made", "data", "eof", "lost"]
    assert protocol.data == b"hello"


@real
async def lines_in_order() -> None:
    """readline(): "Read one line, where 'line' is a sequence of bytes ending with \\n." """
    left, right = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=left)
    other, answer = await asyncio.open_connection(sock=right)

    async def write() -> None:
        for number in range(5):
            writer.write(b"line %d\n" % number)
            await writer.drain()
        writer.write_eof()

    async def read() -> list[bytes]:
        return [line async for line in other]

    _, lines = await asyncio.gather(write(), read())
    assert lines == [b"line %d\n" % number for number in range(5)]
    answer.close()
    assert await reader.read() == b""
    writer.close()


@real
async def a_server_answers_each_client() -> None:
    """start_server(): "client_connected_cb [is] called whenever a new client connection is established" """

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(3))
        writer.close()
        await writer.wait_closed()

    async def ask(port: int, text: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(text)
        answer = await reader.read()
        writer.close()
        return answer

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await asyncio.gather(ask(port, b"abc"), ask(port, b"def")) == [b"abc", b"def"]
    server.close()


async def a_reader_fed_by_callbacks() -> None:
    """readline(): "If EOF is received and \\n was not found, the method returns partially read data." Fed by callbacks,
    which run "in the order in which they are registered".
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    for chunk in (b"one\nt", b"wo\nth", b"ree"):
        loop.call_soon(reader.feed_data, chunk)
    loop.call_soon(reader.feed_eof)
    assert [line async for line in reader] == [b"one\n", b"two\n", b"three"]


class _Buffered(asyncio.BufferedProtocol):
    """Notes what is called."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.buffer = bytearray(16)
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.calls.append("made")

    def get_buffer(self, sizehint: int) -> bytearray:
        self.calls.append("get")
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.calls.append("updated")

    def eof_received(self) -> None:
        self.calls.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        self.lost.set_result(exc)


@real
async def a_buffer_is_got_then_updated() -> None:
    """Docs: "start -> connection_made [-> get_buffer [-> buffer_updated]?]* [-> eof_received]? -> connection_lost ->
    end"
    """
    left, right = socket.socketpair()
    with right:
        right.sendall(b"hello")
        right.shutdown(socket.SHUT_WR)
        _, protocol = await asyncio.get_running_loop().create_connection(_Buffered, sock=left)
        await protocol.lost
    assert protocol.calls in (
        ["made", "get", "updated", "get", "eof", "lost"],
        ["made", "get", "updated", "eof", "lost"],
    )
