"""The simulated network: unmodified programs run on it, each fault is what it says, the same seed is the same run."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import math
import os
import random
import socket
import ssl
import subprocess
import sys
import types
import unittest
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from support import requires

from loopwright.testing import Deadlock, SimLoop, cancel_sweep, explore, leak_checks, run
from loopwright.testing.net import SimNet, exponential, normal, uniform

TLS = Path(__file__).parent / "support" / "tls"
LATENCY = 0.05


def simulated(main: Callable[[SimNet], Awaitable[Any]], *, schedule: int | None = None, **options: Any) -> Any:
    """Runs a test on a network of its own."""
    options.setdefault("latency", LATENCY)

    async def on_a_network() -> Any:
        async with SimNet(**options) as net:
            return await main(net)

    return run(on_a_network, seed=schedule)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def server(
    handler: Callable[..., Any] = echo, port: int = 80, **options: Any
) -> Callable[[], Coroutine[Any, Any, None]]:
    async def serve() -> None:
        async with await asyncio.start_server(handler, port=port, **options) as listening:
            await listening.serve_forever()

    return serve


async def started(net: SimNet, name: str = "web", program: Callable[..., Any] | None = None) -> None:
    net.host(name).run(program or server())
    await asyncio.sleep(0.001)


def seconds(net: SimNet, since: float = 0.0) -> float:
    return round(net.now() - since, 6)


class Recorder(asyncio.Protocol):
    """Writes down what a transport calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.data = b""
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self.keep_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self.calls.append("data")
        self.data += data

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        self.lost.set_result(exc)


async def pair(net: SimNet, port: int = 80) -> tuple[Recorder, Recorder]:
    """A connection with a Recorder at both ends: the client's and the server's."""
    accepted: asyncio.Future[Recorder] = asyncio.get_running_loop().create_future()

    def factory() -> Recorder:
        recorder = Recorder()
        accepted.set_result(recorder)
        return recorder

    loop = asyncio.get_running_loop()
    with net.host("web"):
        await loop.create_server(factory, port=port)
    _, client = await loop.create_connection(Recorder, "web", port)
    peer = await accepted
    await asyncio.sleep(0.001)
    return client, peer


# Time


def test_a_round_trip_takes_two_latencies() -> None:
    async def main(net: SimNet) -> None:
        await started(net)
        began = net.now()
        reader, writer = await asyncio.open_connection("web", 80)
        assert seconds(net, began) == 2 * LATENCY
        writer.write(b"hello")
        assert await reader.read(100) == b"hello"
        assert seconds(net, began) == 4 * LATENCY
        writer.close()
        await writer.wait_closed()

    simulated(main)


def test_a_host_reaches_itself_without_delay() -> None:
    async def main(net: SimNet) -> None:
        with net.host("web"):
            listening = await asyncio.start_server(echo, "127.0.0.1", 80)
            reader, writer = await asyncio.open_connection("localhost", 80)
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            writer.close()
        assert net.now() == 0
        with pytest.raises(ConnectionRefusedError):  # bound to the loopback: nobody else gets there
            await asyncio.open_connection("web", 80)
        listening.close()

    simulated(main)


def test_bandwidth_is_bytes_a_second() -> None:
    async def main(net: SimNet) -> None:
        client, peer = await pair(net)
        net.link("main", "web", bandwidth=100_000)
        began = net.now()
        client.transport.write(b"x" * 50_000)
        client.transport.close()
        await peer.lost
        assert len(peer.data) == 50_000
        assert seconds(net, began) == pytest.approx(0.5 + LATENCY, abs=0.001)
        assert peer.calls.count("data") > 1, "it trickles in"

    simulated(main)


@pytest.mark.parametrize("latency", [uniform(0.01, 0.09), normal(0.05, 0.02), exponential(0.01, 0.05)])
def test_latency_may_vary_and_a_stream_keeps_its_order(latency: Any) -> None:
    async def main(net: SimNet) -> None:
        client, peer = await pair(net)
        for number in range(200):
            client.transport.write(b"%03d" % number)
            await asyncio.sleep(0.001)
        client.transport.close()
        await peer.lost
        assert peer.data == b"".join(b"%03d" % number for number in range(200))

    simulated(main, latency=latency, jitter=0.01)


# Protocols and transports


@pytest.mark.parametrize("schedule", range(20))
def test_made_before_data_before_eof_before_lost_whatever_the_schedule(schedule: int) -> None:
    async def main(net: SimNet) -> None:
        client, peer = await pair(net)
        client.transport.write(b"a")
        client.transport.writelines([b"b", b"c"])
        client.transport.write_eof()
        assert await peer.lost is None
        assert await client.lost is None
        for recorder in (client, peer):
            first, *middle, last = recorder.calls
            assert (first, last) == ("made", "lost")
            assert "eof" not in middle[:-1]
        assert peer.data == b"abc"

    simulated(main, schedule=schedule, latency=0.0 if schedule % 2 else LATENCY)


def test_half_closed_both_ways() -> None:
    """After its peer's end of stream a protocol may still write, when eof_received() says so."""

    async def main(net: SimNet) -> None:
        client, peer = await pair(net)
        peer.keep_open = True
        client.transport.write_eof()
        with pytest.raises(RuntimeError, match="write_eof"):
            client.transport.write(b"no")
        await asyncio.sleep(1)
        assert peer.calls == ["made", "eof"]
        peer.transport.write(b"answer")
        peer.transport.close()
        assert await client.lost is None
        assert client.data == b"answer"

    simulated(main)


def test_a_slow_reader_makes_the_writer_wait() -> None:
    async def main(net: SimNet) -> None:
        net.host("web", window=10_000)
        client, peer = await pair(net)
        peer.transport.pause_reading()
        client.transport.set_write_buffer_limits(high=5_000)
        client.transport.write(b"x" * 12_000)
        assert client.calls == ["made"], "what the window takes is sent; the rest is within the limit"
        client.transport.write(b"x" * 8_000)
        assert client.calls == ["made", "pause"]
        assert client.transport.get_write_buffer_size() == 10_000
        await asyncio.sleep(10)
        assert client.calls == ["made", "pause"]
        began = net.now()
        peer.transport.resume_reading()
        await asyncio.sleep(1)
        assert client.calls == ["made", "pause", "resume"]
        assert len(peer.data) == 20_000
        assert began > 10

    simulated(main)


def test_a_reader_with_a_rate_slows_the_writer_down() -> None:
    async def main(net: SimNet) -> None:
        net.host("web", window=1_000, read_rate=2_000)
        received = 0

        async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal received
            while data := await reader.read(65536):
                received += len(data)
            writer.close()

        await started(net, program=server(sink))
        reader, writer = await asyncio.open_connection("web", 80)
        writer.transport.set_write_buffer_limits(high=0)
        began = net.now()
        for _ in range(20):
            writer.write(b"x" * 1_000)
            await writer.drain()
        assert 8 < seconds(net, began) < 12
        net.host("web", read_rate=math.inf)
        writer.close()
        await reader.read()
        await asyncio.sleep(1)
        assert received == 20_000

    simulated(main, latency=0.001)


def test_close_sends_what_was_written_and_abort_does_not() -> None:
    async def main(net: SimNet) -> None:
        net.host("web", window=1_000)
        client, peer = await pair(net)
        client.transport.write(b"x" * 5_000)
        client.transport.close()
        client.transport.write(b"late")
        await peer.lost
        assert peer.data.startswith(b"x" * 5_000)
        client, peer = await pair(net, 81)
        client.transport.write(b"x" * 5_000)
        client.transport.abort()
        assert await client.lost is None
        await peer.lost
        assert len(peer.data) == 1_000
        assert client.transport.is_closing()

    simulated(main)


def test_writing_to_a_closed_connection_is_answered_by_a_reset() -> None:
    async def main(net: SimNet) -> None:
        client, peer = await pair(net)
        client.keep_open = True
        peer.transport.close()
        await peer.lost
        await asyncio.sleep(1)
        assert client.calls == ["made", "eof"]
        client.transport.write(b"anybody there?")
        await asyncio.sleep(1)
        client.transport.write(b"hello?")
        assert isinstance(await client.lost, ConnectionResetError)

    simulated(main)


def test_closing_with_unread_data_resets() -> None:
    """As on Linux; it is how an early answer to an upload gets lost."""

    async def main(net: SimNet) -> None:
        client, peer = await pair(net)
        peer.transport.pause_reading()
        client.transport.write(b"upload")
        await asyncio.sleep(1)
        peer.transport.write(b"413")
        peer.transport.close()
        assert isinstance(await client.lost, ConnectionResetError)

    simulated(main)


def test_buffered_protocols_work() -> None:
    class Buffered(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.buffer = bytearray(4)
            self.data = b""
            self.lost = asyncio.get_running_loop().create_future()

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.data += self.buffer[:nbytes]

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost.set_result(exc)

    async def main(net: SimNet) -> None:
        async def hello(_: Any, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello, world")
            writer.close()

        await started(net, program=server(hello))
        _, protocol = await asyncio.get_running_loop().create_connection(Buffered, "web", 80)
        assert await protocol.lost is None
        assert protocol.data == b"hello, world"

    simulated(main)


def test_an_error_in_a_protocol_ends_its_connection_and_is_reported() -> None:
    class Broken(Recorder):
        def data_received(self, data: bytes) -> None:
            raise ZeroDivisionError("in the protocol")

    async def main(net: SimNet) -> None:
        reported: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context))
        await started(net)
        transport, protocol = await loop.create_connection(Broken, "web", 80)
        transport.write(b"x")
        assert isinstance(await protocol.lost, ZeroDivisionError)
        assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]

    simulated(main)


def test_a_parser_that_takes_one_write_for_one_read_is_found_out() -> None:
    async def main(net: SimNet) -> None:
        client, peer = await pair(net)
        for _ in range(20):
            client.transport.write(b"message")
            await asyncio.sleep(1)
        assert peer.data == b"message" * 20
        assert peer.calls.count("data") > 20

    simulated(main, fragment=0.5)


# Connecting


def test_who_listens_where() -> None:
    async def main(net: SimNet) -> None:
        await started(net)
        with net.host("web"):
            with pytest.raises(OSError, match="address already in use") as caught:
                await asyncio.start_server(echo, port=80)
            assert caught.value.errno == 98
            with pytest.raises(OSError, match=r"host 'web' has 10\.0\.0\.2"):
                await asyncio.start_server(echo, "10.0.0.1", 80)
            other = await asyncio.start_server(echo, port=0)
        port = other.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("10.0.0.2", port)
        assert writer.get_extra_info("peername") == ("10.0.0.2", port)
        assert writer.get_extra_info("sockname")[0] == "10.0.0.1"
        assert writer.get_extra_info("socket").family == socket.AF_INET
        writer.close()
        began = net.now()
        with pytest.raises(ConnectionRefusedError, match="Connect call failed"):
            await asyncio.open_connection("web", 81)
        assert seconds(net, began) == 2 * LATENCY
        with pytest.raises(OSError, match="no host of this SimNet"):
            await asyncio.open_connection("10.9.9.9", 80)
        other.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("web", port)
        with net.host("web"):
            (await asyncio.start_server(echo, port=port)).close()  # the port is free again

    simulated(main)


def test_connecting_into_silence_times_out() -> None:
    async def main(net: SimNet) -> None:
        await started(net)
        net.partition("web")
        with pytest.raises(TimeoutError, match="nobody answered"):
            await asyncio.open_connection("web", 80)
        assert seconds(net) == pytest.approx(127, abs=0.01)
        assert net.stats().connect_timeouts == 1
        net.at(net.now() + 5, net.heal)
        began = net.now()
        _, writer = await asyncio.open_connection("web", 80)
        assert seconds(net, began) == pytest.approx(7 + 2 * LATENCY), "tries go out after 1, 3, 7 seconds"
        writer.close()

    simulated(main)


@pytest.mark.parametrize("tenth", range(1, 4))
def test_a_connect_cancelled_midway_leaves_nothing(tenth: int) -> None:
    async def main(net: SimNet) -> None:
        await started(net)
        tasks = len(asyncio.all_tasks())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(tenth * LATENCY / 2):
                await asyncio.open_connection("web", 80)
        await asyncio.sleep(1)
        assert net.connections() == []
        assert len(asyncio.all_tasks()) == tasks

    simulated(main)


def test_a_connect_cancelled_in_the_tick_it_succeeds_leaves_nothing() -> None:
    async def main(net: SimNet) -> None:
        await started(net)
        connecting = asyncio.ensure_future(asyncio.open_connection("web", 80))
        while not net.connections():
            await asyncio.sleep(LATENCY / 10)
            if net.connections():
                break
        connecting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            _, writer = await connecting
            writer.close()
        await asyncio.sleep(1)
        assert net.connections() == []

    simulated(main)


def test_a_full_backlog_makes_connects_wait() -> None:
    async def main(net: SimNet) -> None:
        await started(net, program=server(backlog=3))
        net.freeze("web")
        connecting = [asyncio.ensure_future(asyncio.open_connection("web", 80)) for _ in range(2)]
        await asyncio.gather(*connecting)
        await asyncio.sleep(1)
        third = asyncio.ensure_future(asyncio.open_connection("web", 80))
        await asyncio.sleep(1)
        fourth = asyncio.ensure_future(asyncio.open_connection("web", 80))
        await asyncio.sleep(10)
        assert third.done()
        assert not fourth.done()
        net.thaw("web")
        await fourth
        transport, _, there = await datagrams(net)
        net.freeze("peer")
        transport.sendto(b"kept by the kernel")
        await asyncio.sleep(1)
        assert there.got == []
        net.thaw("peer")
        await asyncio.sleep(0)
        assert [data for data, _ in there.got] == [b"kept by the kernel"]
        assert seconds(net) > 12

    simulated(main)


# Faults


def test_a_partition_is_silence_and_healing_brings_everything() -> None:
    async def main(net: SimNet) -> None:
        client, peer = await pair(net)
        net.partition({"main"}, {"web"})
        client.transport.write(b"into the void")
        peer.transport.write(b"likewise")
        await asyncio.sleep(60)
        assert client.calls == peer.calls == ["made"]
        net.heal()
        await asyncio.sleep(120)  # TCP tries again rarely after a while
        assert (client.data, peer.data) == (b"likewise", b"into the void")
        assert net.stats().stalls == 2

    simulated(main)


def test_after_a_quarter_of_an_hour_of_silence_the_sender_gives_up() -> None:
    async def main(net: SimNet) -> None:
        client, peer = await pair(net)
        net.partition("web")
        began = net.now()
        client.transport.write(b"x")
        assert isinstance(await client.lost, TimeoutError)
        assert seconds(net, began) == pytest.approx(924.6)
        assert peer.calls == ["made"], "who only reads never learns of it"
        net.heal()
        peer.transport.write(b"y")
        assert isinstance(await peer.lost, ConnectionResetError)

    simulated(main)


def test_a_one_way_partition_lets_the_other_way_through() -> None:
    async def main(net: SimNet) -> None:
        client, peer = await pair(net)
        net.partition("web", "main", one_way=True)
        client.transport.write(b"arrives")
        await asyncio.sleep(1)
        assert peer.data == b"arrives"
        peer.transport.write(b"does not")
        await asyncio.sleep(100)
        assert client.data == b""
        assert isinstance(await client.lost, TimeoutError), "its bytes arrived, but nobody said so"

    simulated(main)


def test_other_hosts_do_not_notice_a_partition() -> None:
    async def main(net: SimNet) -> None:
        for name in ("a", "b", "c"):
            await started(net, name)
        net.partition({"main", "a"}, {"b", "c"})
        _, writer = await asyncio.open_connection("a", 80)
        writer.close()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.open_connection("b", 80)
        with net.host("b"):
            _, writer = await asyncio.open_connection("c", 80)
            writer.close()
        net.heal({"main"}, {"b"})
        _, writer = await asyncio.open_connection("b", 80)
        writer.close()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.open_connection("c", 80)

    simulated(main)


def test_loss_delays_a_stream_and_takes_datagrams() -> None:
    async def main(net: SimNet) -> None:
        client, peer = await pair(net)
        net.link("main", loss=0.3)
        for number in range(100):
            client.transport.write(bytes([number]))
            await asyncio.sleep(0.01)
        client.transport.close()
        await peer.lost
        assert peer.data == bytes(range(100))
        assert net.stats().lost > 10
        assert net.now() > 1.3

    simulated(main)


def test_a_reset_reaches_both_ends() -> None:
    async def main(net: SimNet) -> None:
        client, peer = await pair(net)
        assert net.reset("web") == 1
        assert isinstance(await client.lost, ConnectionResetError)
        assert isinstance(await peer.lost, ConnectionResetError)
        assert net.reset("web") == 0

    simulated(main)


def test_a_half_open_connection_is_silent_and_new_ones_work() -> None:
    async def main(net: SimNet) -> None:
        await started(net)
        reader, writer = await asyncio.open_connection("web", 80)
        assert net.half_open("main", "web") == 1
        writer.write(b"x")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(600):
                await reader.read(1)
        reader2, writer2 = await asyncio.open_connection("web", 80)
        writer2.write(b"x")
        assert await reader2.read(1) == b"x"
        writer2.close()
        with pytest.raises(TimeoutError, match="timed out"):
            await reader.read(1)
        writer.close()

    simulated(main)


def test_a_crash_is_said_and_a_power_cut_is_not() -> None:
    async def main(net: SimNet) -> None:
        await started(net)
        reader, writer = await asyncio.open_connection("web", 80)
        net.crash("web")
        assert await reader.read() == b""
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("web", 80)
        net.restart("web")
        await asyncio.sleep(0.001)

        reader, writer = await asyncio.open_connection("web", 80)
        net.crash("web", silent=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await reader.read()
        with pytest.raises(TimeoutError, match="nobody answered"):
            await asyncio.open_connection("web", 80)
        net.restart("web")
        writer.write(b"do you know me?")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()

    simulated(main)


def test_what_ran_on_a_crashed_host_has_no_network_any_more() -> None:
    async def main(net: SimNet) -> None:
        seen: list[Any] = []
        await started(net, "other")

        async def program() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                try:
                    await asyncio.open_connection("other", 80)
                except OSError as error:
                    seen.append(error)

        task = net.host("web").run(program)
        child = net.host("web").spawn(program)
        await asyncio.sleep(1)
        net.crash("web")
        await asyncio.wait([task, child])
        assert task.cancelled() and child.cancelled()
        assert [str(error) for error in seen] == [
            "[Errno 100] host 'web' has crashed; what ran on it has no network any more"
        ] * 2
        net.restart("web")
        await asyncio.sleep(1)
        assert [host.up for host in net.hosts()] == [True, True, True]

    simulated(main)


def test_tasks_started_by_a_hosts_server_are_on_that_host() -> None:
    async def main(net: SimNet) -> None:
        where: list[str] = []

        async def handler(_: Any, writer: asyncio.StreamWriter) -> None:
            where.append(net.here().name)
            await asyncio.create_task(nested())
            writer.close()

        async def nested() -> None:
            where.append(net.here().name)

        await started(net, program=server(handler))
        reader, writer = await asyncio.open_connection("web", 80)
        await reader.read()
        writer.close()
        assert (where, net.here().name) == (["web", "web"], "main")

    simulated(main)


def test_a_script_runs_at_its_times() -> None:
    async def main(net: SimNet) -> None:
        await started(net)
        net.at(10, net.partition, "web")
        net.at(20, net.heal)
        reader, writer = await asyncio.open_connection("web", 80)
        answered = []
        for _ in range(30):
            writer.write(b"x")
            await reader.read(1)
            answered.append(round(net.now()))
            await asyncio.sleep(1)
        gaps = [b - a for a, b in itertools.pairwise(answered)]
        assert max(gaps) > 9
        with pytest.raises(ValueError, match="already"):
            net.at(1, net.heal)
        writer.close()

    simulated(main)


# Names


def test_names_are_resolved_on_the_network() -> None:
    async def main(net: SimNet) -> None:
        loop = asyncio.get_running_loop()
        for name in ("db1", "db2"):
            net.host(name)

        async def first(name: str) -> str:
            found = await loop.getaddrinfo(name, 5432, type=socket.SOCK_STREAM)
            return str(found[0][4][0])

        net.dns("db", "db1", "db2")
        assert [await first("db") for _ in range(3)] == ["10.0.0.2", "10.0.0.3", "10.0.0.2"]
        net.dns("db", "db2", latency=0.5)
        began = net.now()
        assert await first("db") == "10.0.0.3"
        assert seconds(net, began) == 0.5
        assert await loop.getnameinfo(("10.0.0.3", 80)) == ("db2", "80")
        for failure, number, takes in [
            ("temporary", socket.EAI_AGAIN, 0),
            ("timeout", socket.EAI_AGAIN, 10),
            ("unknown", socket.EAI_NONAME, 0),
        ]:
            net.dns("db1", failure=failure)
            began = net.now()
            with pytest.raises(socket.gaierror) as caught:
                await first("db1")
            assert (caught.value.errno, seconds(net, began)) == (number, takes)
        net.dns("db1")
        assert await first("db1") == "10.0.0.2"
        with pytest.raises(socket.gaierror, match="'nowhere' is neither a host"):
            await first("nowhere")

    simulated(main)


# Datagrams


class Received(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: list[tuple[bytes, Any]] = []
        self.errors: list[Exception] = []

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.got.append((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)


async def datagrams(net: SimNet) -> tuple[Any, Received, Received]:
    loop = asyncio.get_running_loop()
    with net.host("peer"):
        _, there = await loop.create_datagram_endpoint(Received, local_addr=("0.0.0.0", 53))
    transport, here = await loop.create_datagram_endpoint(Received, remote_addr=("peer", 53))
    return transport, here, there


def test_datagrams_arrive_whole_late_twice_or_never() -> None:
    async def main(net: SimNet) -> None:
        transport, _, there = await datagrams(net)
        for number in range(100):
            transport.sendto(bytes([number]))
            await asyncio.sleep(0.01)
        await asyncio.sleep(1)
        got = [data[0] for data, _ in there.got]
        assert 50 < len(set(got)) < 95, "some are lost"
        assert len(got) > len(set(got)), "some come twice"
        assert got != sorted(got), "some overtake others"
        assert net.stats().datagrams == len(got)
        transport.close()

    simulated(main, latency=uniform(0.01, 0.1), loss=0.2, duplicate=0.2)


def test_a_datagram_nobody_waits_for_is_an_error_to_a_connected_sender() -> None:
    async def main(net: SimNet) -> None:
        net.host("peer")
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(Received, remote_addr=("peer", 53))
        transport.sendto(b"x")
        await asyncio.sleep(1)
        assert [type(error) for error in protocol.errors] == [ConnectionRefusedError]
        with pytest.raises(ValueError, match="Invalid address"):
            transport.sendto(b"x", ("10.0.0.1", 1))
        transport.close()
        with net.host("peer"):
            one, _ = await loop.create_datagram_endpoint(Received, local_addr=("0.0.0.0", 53))
            with pytest.raises(OSError, match="already in use"):
                await loop.create_datagram_endpoint(Received, local_addr=("0.0.0.0", 53))
            one.close()

    simulated(main)


# Unix sockets, sockets of others, and what is not simulated


@pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
def test_unix_sockets_stay_on_their_host() -> None:
    async def main(net: SimNet) -> None:
        with net.host("web"):
            listening = await asyncio.start_unix_server(echo, "/run/app.sock")
            reader, writer = await asyncio.open_unix_connection("/run/app.sock")
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            assert writer.get_extra_info("peername") == "/run/app.sock"
            writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_unix_connection("/run/app.sock")
        listening.close()

    simulated(main)


def test_sockets_that_a_library_makes_are_connected_on_the_network() -> None:
    """As aiohappyeyeballs does for aiohttp: a real, unconnected socket stands for the simulated connection."""

    async def main(net: SimNet) -> None:
        await started(net)
        loop = asyncio.get_running_loop()
        with socket.socket() as one:
            one.setblocking(False)
            await loop.sock_connect(one, ("10.0.0.2", 80))
            assert one.getpeername() == ("10.0.0.2", 80)
            await loop.sock_sendall(one, b"hello")
            assert await loop.sock_recv(one, 100) == b"hello"
            buffer = bytearray(10)
            await loop.sock_sendall(one, b"again")
            assert await loop.sock_recv_into(one, buffer) == 5
        await asyncio.sleep(1)
        assert net.connections() == [], "closing the socket closes the connection"
        two = socket.socket()
        two.setblocking(False)
        await loop.sock_connect(two, ("web", 80))
        reader, writer = await asyncio.open_connection(sock=two)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        writer.close()
        await writer.wait_closed()
        assert two.fileno() == -1
        del one, two
        await asyncio.sleep(1)
        assert net.connections() == []

    simulated(main)


def test_sockets_connected_elsewhere_keep_working() -> None:
    async def main(net: SimNet) -> None:
        one, other = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=one)
        other.send(b"real")
        assert await reader.read(4) == b"real"
        writer.close()
        await writer.wait_closed()
        other.close()

    simulated(main)


def test_the_loop_gets_its_own_network_back() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with SimNet(seed=1) as net:
            assert loop.net is net  # type: ignore[attr-defined]
            with pytest.raises(RuntimeError, match="already has a network"):
                SimNet().install()
            net.host("web").run(server())
            await asyncio.sleep(0)
            _, writer = await asyncio.open_connection("web", 80)
        assert "create_connection" not in vars(loop)
        assert not hasattr(loop, "net")
        assert len(asyncio.all_tasks()) == 1
        with pytest.raises(RuntimeError, match="installed before"):
            net.install()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    run(main)


def test_any_loop_will_do() -> None:
    async def main() -> float:
        async with SimNet(latency=0.001) as net:
            await started(net)
            reader, writer = await asyncio.open_connection("web", 80)
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            writer.close()
            return net.now()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(main()) > 0


def test_wrong_values_are_named() -> None:
    with pytest.raises(ValueError, match="loss is 2; it has to be a share between 0 and 1"):
        SimNet(loss=2)
    with pytest.raises(ValueError, match="bandwidth is 0"):
        SimNet(bandwidth=0)
    net = SimNet()
    with pytest.raises(ValueError, match="latency is -1"):
        net.link("main", latency=-1)
    with pytest.raises(TypeError, match="a link has no 'speed'"):
        net.link("main", speed=1)
    with pytest.raises(ValueError, match="there is no host 'db'; make it first"):
        net.partition("db")
    with pytest.raises(ValueError, match=r"10\.0\.0\.1 is the address of host 'main'"):
        net.host("other", address="10.0.0.1")
    with pytest.raises(ValueError, match="failure is 'bad'"):
        net.dns("x", failure="bad")
    with pytest.raises(RuntimeError, match="cannot crash"):
        net.crash("main")
    with pytest.raises(RuntimeError, match="is up"):
        net.restart("main")


# TLS


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
    return serving, ssl.create_default_context(cafile=TLS / "cert.pem")


def test_tls_is_real() -> None:
    async def main(net: SimNet) -> None:
        serving, trusting = contexts()
        await started(net, program=server(port=443, ssl=serving))
        reader, writer = await asyncio.open_connection("web", 443, ssl=trusting)
        writer.write(b"secret" * 100_000)
        assert await reader.readexactly(600_000) == b"secret" * 100_000
        assert writer.get_extra_info("cipher") is not None
        writer.close()
        await writer.wait_closed()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("web", 443, ssl=ssl.create_default_context())
        net.dns("impostor", "web")
        with pytest.raises(ssl.SSLCertVerificationError, match="impostor"):
            await asyncio.open_connection("impostor", 443, ssl=trusting)

    simulated(main)


def test_a_handshake_that_stalls_times_out() -> None:
    async def main(net: SimNet) -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        await started(net, program=server(silent))
        _, trusting = contexts()
        began = net.now()
        with pytest.raises(ConnectionAbortedError, match="SSL handshake is taking longer"):
            await asyncio.open_connection("web", 80, ssl=trusting, ssl_handshake_timeout=5)
        assert seconds(net, began) == pytest.approx(5 + 2 * LATENCY)

    simulated(main)


def test_a_connection_can_be_upgraded_to_tls() -> None:
    async def main(net: SimNet) -> None:
        serving, trusting = contexts()

        async def mail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert await reader.readline() == b"STARTTLS\n"
            writer.write(b"go\n")
            await writer.drain()
            await writer.start_tls(serving)
            writer.write(await reader.readline())
            writer.close()

        await started(net, program=server(mail))
        reader, writer = await asyncio.open_connection("web", 80)
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"go\n"
        await writer.start_tls(trusting, server_hostname="web")
        writer.write(b"private\n")
        assert await reader.readline() == b"private\n"
        writer.close()
        await writer.wait_closed()

    simulated(main)


# Libraries, as they are


def web_app(tls: ssl.SSLContext | None = None) -> Callable[[], Coroutine[Any, Any, None]]:
    web = requires.module("aiohttp.web")

    async def answer(request: Any) -> Any:
        return web.json_response({"from": request.remote, "size": len(await request.read())})

    async def serve() -> None:
        app = web.Application()
        app.router.add_route("*", "/", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, port=80).start()
            if tls is not None:
                await web.TCPSite(runner, port=443, ssl_context=tls).start()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    return serve


@pytest.mark.parametrize("schedule", [None, 1, 2])
def test_aiohttp_works_unmodified(schedule: int | None) -> None:
    aiohttp = requires.module("aiohttp")

    async def main(net: SimNet) -> None:
        serving, trusting = contexts()
        await started(net, program=web_app(serving))
        net.host("web2")
        net.dns("site", "web2", "web", rotate=False)  # nobody listens on the first: Happy Eyeballs goes on
        async with aiohttp.ClientSession() as session:
            async with session.get("http://web/") as response:
                assert await response.json() == {"from": "10.0.0.1", "size": 0}
            async with session.post("http://site/", data=b"x" * 1_000_000) as response:
                assert (await response.json())["size"] == 1_000_000
            async with session.get("https://web/", ssl=trusting) as response:
                assert response.status == 200
            net.partition("web")
            with pytest.raises(TimeoutError):
                async with session.get("http://web/", timeout=aiohttp.ClientTimeout(total=30)):
                    pass
            net.heal()
            with pytest.raises(aiohttp.ClientConnectorDNSError):
                await session.get("http://nowhere/")

    simulated(main, schedule=schedule)


@pytest.mark.parametrize("schedule", [None, 1, 2])
def test_httpx_works_unmodified(schedule: int | None) -> None:
    httpx = requires.module("httpx")

    async def main(net: SimNet) -> None:
        serving, trusting = contexts()
        await started(net, program=web_app(serving))
        async with httpx.AsyncClient(verify=trusting) as client:
            began = net.now()
            for _ in range(3):
                assert (await client.get("http://web/")).json() == {"from": "10.0.0.1", "size": 0}
            assert seconds(net, began) == pytest.approx(8 * LATENCY), "one connect: the connection is kept"
            assert (await client.post("https://web/", content=b"x" * 100_000)).json()["size"] == 100_000
            with pytest.raises(httpx.ConnectError):
                await client.get("http://web:81/")
            net.half_open("main", "web")
            with pytest.raises(httpx.ReadTimeout):
                await client.get("http://web/", timeout=10)
            assert (await client.get("http://web/")).status_code == 200

    simulated(main, schedule=schedule)


def test_aiohttps_own_test_server_works() -> None:
    """It binds a real socket, which lends its address."""
    web, utils = requires.module("aiohttp.web"), requires.module("aiohttp.test_utils")

    async def main(net: SimNet) -> None:
        async def hello(request: Any) -> Any:
            return web.Response(text="hello")

        app = web.Application()
        app.router.add_get("/", hello)
        async with utils.TestClient(utils.TestServer(app)) as client:
            assert await (await client.get("/")).text() == "hello"
        assert net.stats().connects == 1
        await asyncio.sleep(1)
        assert net.connections() == []

    simulated(main)


def test_a_connection_closed_while_idle_is_seen_by_httpcore() -> None:
    """It polls the socket's file descriptor, which has to tell the truth."""
    httpx = requires.module("httpx")

    async def main(net: SimNet) -> None:
        await started(net, program=web_app())
        async with httpx.AsyncClient() as client:
            await client.get("http://web/")
            net.crash("web")
            net.restart("web")
            await asyncio.sleep(1)
            assert (await client.get("http://web/")).status_code == 200

    simulated(main)


def test_uvicorn_serves_unmodified() -> None:
    uvicorn, httpx = requires.module("uvicorn"), requires.module("httpx")

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(scope["client"]).encode()})

    async def main(net: SimNet) -> None:
        config = uvicorn.Config(app, host="0.0.0.0", port=8000, log_level="error", lifespan="off")
        serving = uvicorn.Server(config)
        task = net.host("api").run(serving.serve)
        await asyncio.sleep(1)
        async with httpx.AsyncClient() as client:
            assert (await client.get("http://api:8000/")).text == "('10.0.0.1', 49152)"
        serving.should_exit = True
        await task

    simulated(main)


# CPython's own tests, where both sides are asyncio's


class Plain(socket.socket):
    """Connects as the loop does: CPython's tests of sendfile() use the blocking call."""

    loop: asyncio.AbstractEventLoop

    def connect(self, address: Any) -> None:
        self.setblocking(False)
        self.loop.run_until_complete(self.loop.sock_connect(self, address))


def cpython_cases() -> list[Any]:
    try:
        events = importlib.import_module("test.test_asyncio.test_events")
        sendfile = importlib.import_module("test.test_asyncio.test_sendfile")
        servers = importlib.import_module("test.test_asyncio.test_server")
    except ImportError:
        return [pytest.param(None, id="none", marks=pytest.mark.skip("this CPython comes without its tests"))]

    class Simulated:
        def create_event_loop(self) -> SimLoop:
            loop = Plain.loop = SimLoop()
            SimNet().install(loop)
            return loop

    class Events(Simulated, events.EventLoopTestsMixin, events.test_utils.TestCase):  # type: ignore[misc,name-defined]
        pass

    class Sendfile(Simulated, sendfile.SendfileTestsBase, events.test_utils.TestCase):  # type: ignore[misc,name-defined]
        def setUp(self) -> None:
            shim = types.ModuleType("socket")
            vars(shim).update(vars(socket), socket=Plain)
            patched = mock.patch.object(sendfile, "socket", shim)
            patched.start()
            self.addCleanup(patched.stop)  # type: ignore[attr-defined]
            super().setUp()

    no_native = {"test_sendfile_force_unsupported_native", "test_sendfile_prevents_bare_write"}
    cases = [
        case for case in unittest.defaultTestLoader.loadTestsFromTestCase(Sendfile) if _name(case) not in no_native
    ]
    wanted = (
        "ssl",
        "datagram",
        "addr_in_use",
        "reuse_port",
        "connect_accepted",
        "prompt_cancel",
        "nomatch",
        "skip_diff",
    )
    real = (
        "test_create_ssl_",
        "test_create_connection_local_addr_in_use",
    )  # the server is in a thread, with real sockets
    for case in unittest.defaultTestLoader.loadTestsFromTestCase(Events):
        name = _name(case)
        if any(part in name for part in wanted) and not name.startswith(real):
            cases.append(case)
    if hasattr(servers, "TestServer2"):  # 3.12
        kind = type("Servers", (servers.TestServer2,), {"setUp": _simulated_runner})
        cases += unittest.defaultTestLoader.loadTestsFromTestCase(kind)
    return [pytest.param(case, id=_name(case)) for case in cases]


def _name(case: Any) -> str:
    return str(case.id().split(".")[-1])


def _simulated_runner(case: Any) -> None:
    case.loop_factory = lambda: SimNet().install(SimLoop()).loop


@pytest.mark.default_only
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", cpython_cases())
def test_cpythons_own_tests(case: unittest.TestCase) -> None:
    result = unittest.TestResult()
    unittest.TestSuite([case]).run(result)  # with the fixtures of its class
    assert [text for _, text in [*result.errors, *result.failures]] == []


# Drivers in the style of redis and asyncpg


async def redis(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server of RESP's GET and SET."""
    store: dict[bytes, bytes] = {}
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            match words:
                case [b"SET", key, value]:
                    store[key] = value
                    writer.write(b"+OK\r\n")
                case [b"GET", key]:
                    value = store.get(key, b"")
                    writer.write(b"$%d\r\n%b\r\n" % (len(value), value))
            await writer.drain()
    writer.close()


async def resp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *words: bytes) -> bytes:
    writer.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))
    line = await reader.readline()
    return line[1:-2] if line[:1] == b"+" else (await reader.readexactly(int(line[1:]) + 2))[:-2]


def test_a_redis_style_driver_over_streams() -> None:
    async def main(net: SimNet) -> None:
        await started(net, "cache", server(redis, 6379))
        reader, writer = await asyncio.open_connection("cache", 6379)
        assert await resp(reader, writer, b"SET", b"k", b"v" * 10_000) == b"OK"
        assert await resp(reader, writer, b"GET", b"k") == b"v" * 10_000
        net.crash("cache", silent=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await resp(reader, writer, b"GET", b"k")
        writer.close()

    simulated(main, fragment=1.0)


class Wire(asyncio.Protocol):
    """A client in asyncpg's style: messages of one letter, a length and a body, cut out of whatever comes."""

    def __init__(self) -> None:
        self.buffer = b""
        self.waiters: list[asyncio.Future[tuple[bytes, bytes]]] = []
        self.error: BaseException | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while len(self.buffer) >= 5 and len(self.buffer) >= 1 + (size := int.from_bytes(self.buffer[1:5], "big")):
            message, self.buffer = self.buffer[: 1 + size], self.buffer[1 + size :]
            self.waiters.pop(0).set_result((message[:1], message[5:]))

    def connection_lost(self, exc: Exception | None) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(ConnectionError(f"connection was closed in the middle of operation: {exc}"))

    def ask(self, kind: bytes, body: bytes) -> asyncio.Future[tuple[bytes, bytes]]:
        waiter: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        self.transport.write(kind + (len(body) + 4).to_bytes(4, "big") + body)
        return waiter


def test_an_asyncpg_style_driver_over_a_protocol() -> None:
    async def backend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readexactly(5)
                body = await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
                writer.write(b"D" + (len(body) + 4).to_bytes(4, "big") + body.upper())
        writer.close()

    async def main(net: SimNet) -> None:
        await started(net, "db", server(backend, 5432))
        _, wire = await asyncio.get_running_loop().create_connection(Wire, "db", 5432)
        answers = await asyncio.gather(*[wire.ask(b"Q", b"select %d" % number) for number in range(10)])
        assert answers == [(b"D", b"SELECT %d" % number) for number in range(10)]
        pending = wire.ask(b"Q", b"never answered")
        net.reset("db")
        with pytest.raises(ConnectionError, match="in the middle of operation"):
            await pending

    simulated(main, fragment=0.7, latency=uniform(0.01, 0.02))


# With the rest of the kit


def test_a_cancel_at_every_await_point_of_a_client_leaves_nothing_on_the_network() -> None:
    async def scenario(play: Any) -> None:
        serving, trusting = contexts()
        async with SimNet(latency=LATENCY) as net:
            net.host("web").run(server(port=443, ssl=serving))
            net.host("web2")
            net.dns("site", "web2", "web", latency=0.01)
            await asyncio.sleep(0.001)

            async def client() -> None:
                _, writer = await asyncio.open_connection("site", 443, ssl=trusting, server_hostname="web")
                try:
                    writer.write(b"x" * 1_000_000)
                    await writer.drain()
                finally:
                    writer.transport.abort()

            play.spawn(client(), name="client")
            await play.finished()
            await asyncio.sleep(5)
            assert net.connections() == []

    report = cancel_sweep(scenario, victims="client", waves=("cancel", "again", "early"))
    assert len(report.points) > 4


@pytest.mark.parametrize("level", ["timing", "task", "chaos"])
def test_no_schedule_breaks_a_stream(level: str) -> None:
    async def main() -> None:
        async with SimNet(latency=0.0, fragment=0.5) as net:
            client, peer = await pair(net)
            for number in range(50):
                client.transport.write(b"%02d" % number)
            client.transport.write_eof()
            await peer.lost
            assert peer.data == b"".join(b"%02d" % number for number in range(50))
            assert (peer.calls[0], peer.calls[-2:]) == ("made", ["eof", "lost"])

    explore(main, strategy="random", level=level, seeds=30)


def test_a_stuck_client_is_a_deadlock_at_once() -> None:
    async def main(net: SimNet) -> None:
        async def silent(reader: asyncio.StreamReader, _: Any) -> None:
            await reader.read()

        await started(net, program=server(silent))
        reader, _ = await asyncio.open_connection("web", 80)
        await reader.readline()

    with pytest.raises(Deadlock):
        simulated(main)


def test_what_a_test_leaves_open_is_found_by_the_leak_checks() -> None:
    async def main() -> None:
        async with leak_checks(fail=False) as leaks, SimNet() as net:
            await started(net)
            await asyncio.start_server(echo, port=80)
            _, kept = await asyncio.open_connection("web", 80)
            _, closed = await asyncio.open_connection("web", 80)
            closed.close()
            await closed.wait_closed()
        assert kept.is_closing()
        found = sorted((leak.kind, leak.what) for leak in leaks)
        assert found == [
            ("sockets", "unclosed server <Server host=main sockets=(<SimSocket ('0.0.0.0', 80)>,)>"),
            ("sockets", "unclosed transport <StreamTransport main:49152 > web:80 open>"),
        ]
        assert {leak.created.file for leak in leaks if leak.created} == {__file__}

    run(main)


def test_a_network_can_be_put_over_what_others_have_put_on_the_loop() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        seen: list[str] = []
        own = loop.getaddrinfo

        async def watched(host: str, port: int, **options: Any) -> Any:
            seen.append(host)
            return await own(host, port, **options)

        loop.getaddrinfo = watched
        async with SimNet():
            await loop.getaddrinfo("main", 80)
        assert loop.getaddrinfo is watched
        await loop.getaddrinfo("127.0.0.1", 80)
        assert seen == ["127.0.0.1"]

    run(main)


# Random trouble


class Judge(Recorder):
    """Holds a transport to asyncio's contract: made, data, at most one end of stream, lost; pauses in pairs."""

    def __init__(self, others: list[Judge]) -> None:
        super().__init__()
        self.sent = b""
        self.paused = False
        others.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert self.calls == []
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        assert data
        assert self.calls[-1] in ("made", "data")  # and so all before it
        super().data_received(data)

    def eof_received(self) -> bool:
        assert self.calls[-1] in ("made", "data")  # and so all before it
        return super().eof_received()

    def pause_writing(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_writing(self) -> None:
        assert self.paused
        self.paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        assert "made" in self.calls
        super().connection_lost(exc)


def trouble(net: SimNet, dice: random.Random) -> None:
    """Something goes wrong, or right again."""
    name = dice.choice(["a", "b"])
    with contextlib.suppress(RuntimeError):  # is down already, or up
        match dice.randrange(9):
            case 0:
                net.partition(name)
            case 1:
                net.partition(*dice.sample([name, "main"], 2), one_way=True)
            case 2:
                net.heal()
            case 3:
                net.reset(name)
            case 4:
                net.half_open(name)
            case 5:
                net.crash(name, silent=dice.random() < 0.5)
                net.at(net.now() + dice.random() * 30, net.restart, name)
            case 6:
                net.freeze(name)
            case 7:
                net.thaw(name)
            case 8:
                net.link(name, latency=dice.random() / 5, loss=dice.random() / 2)


async def meddle(judge: Judge, dice: random.Random) -> None:
    """Does something with a transport that may be done with it."""
    transport = judge.transport
    match dice.randrange(12):
        case 0 | 1:
            transport.pause_reading()
        case 2 | 3 | 4:
            transport.resume_reading()
        case 5:
            transport.close()
        case 6:
            transport.abort()
        case 7:
            if not transport.is_closing():
                transport.write_eof()
        case _:
            if not transport.is_closing() and transport.can_write_eof() and not getattr(transport, "_eof", False):
                data = dice.randbytes(dice.choice([1, 100, 30_000]))
                judge.sent += data
                transport.write(data)
    await asyncio.sleep(dice.choice([0, 0.001, 0.1, 3]))


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=pytest.mark.default_only if seed >= 8 else ()) for seed in range(24)]
)
def test_whatever_goes_wrong_streams_keep_their_promises(seed: int) -> None:
    """What arrives is a beginning of what was sent, every connection ends once, and nothing is left over."""
    dice = random.Random(seed)
    settings = {
        "latency": dice.choice([0.0, 0.01, uniform(0.001, 0.1), exponential(0.01, 0.05)]),
        "loss": dice.choice([0.0, 0.1, 0.4]),
        "bandwidth": dice.choice([None, 20_000]),
        "fragment": dice.choice([0.0, 0.5]),
        "window": dice.choice([1, 100, 10_000, 200_000]),
        "give_up": dice.choice([5, 60, 924.6]),
    }

    async def main(net: SimNet) -> None:
        loop = asyncio.get_running_loop()
        errors: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: errors.append(context))
        judges: list[Judge] = []
        clients: list[Judge] = []

        async def serve() -> None:
            async with await loop.create_server(lambda: Judge(judges), port=80) as listening:
                await listening.serve_forever()

        async def client() -> None:
            with contextlib.suppress(OSError):
                await loop.create_connection(lambda: Judge(clients), dice.choice(["a", "b"]), 80)
            for _ in range(10):
                made = [judge for judge in [*judges, *clients] if judge.calls and "lost" not in judge.calls]
                await (meddle(dice.choice(made), dice) if made else asyncio.sleep(1))

        for name in ("a", "b"):
            net.host(name).run(serve)
        for _ in range(dice.randrange(8)):
            net.at(0.01 + dice.random() * 20, trouble, net, dice)
        await asyncio.sleep(0.001)
        await asyncio.gather(*(client() for _ in range(8)))
        await asyncio.sleep(60)
        net.heal()
        for host in net.hosts():
            net.thaw(host.name)
        for judge in [*judges, *clients]:
            if "lost" not in judge.calls:
                judge.transport.abort()
        await asyncio.sleep(2_000)
        assert {judge.calls[-1] for judge in [*judges, *clients]} <= {"lost"}
        assert net.connections() == []
        accepted = {judge.transport.get_extra_info("peername"): judge for judge in judges}
        for one in clients:
            other = accepted.get(one.transport.get_extra_info("sockname"))
            if other is not None:
                assert one.sent.startswith(other.data)
                assert other.sent.startswith(one.data)
        assert errors == []

    simulated(main, seed=seed, schedule=seed if seed % 2 else None, **settings)


# The same seed is the same run


async def busy(net: SimNet) -> list[str]:
    """A cluster with every kind of trouble; returns what happened."""
    names = [f"n{number}" for number in range(5)]
    for name in names:
        net.host(name).run(server())
    net.dns("any", *names)
    await asyncio.sleep(0.01)

    async def client(number: int) -> None:
        for _ in range(10):
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                async with asyncio.timeout(5):
                    reader, writer = await asyncio.open_connection("any", 80)
                    try:
                        writer.write(b"x" * 1000 * number)
                        await reader.readexactly(1000 * number)
                    finally:
                        writer.close()
            await asyncio.sleep(0.3)

    net.at(1, net.partition, {"n0", "n1"}, {"main", "n2"})
    net.at(2, net.crash, "n3")
    net.at(3, net.reset, None, "n4")
    net.at(4, net.heal)
    net.at(5, net.restart, "n3")
    net.at(6, net.crash, "n4", silent=True)
    async with asyncio.TaskGroup() as group:
        for number in range(1, 9):
            group.create_task(client(number))
    return [str(event) for event in net.trace()]


SETTINGS: dict[str, Any] = {"latency": exponential(0.01, 0.05), "loss": 0.05, "bandwidth": 1e6, "fragment": 0.2}


def test_the_same_seed_gives_the_same_events_at_the_same_times() -> None:
    one = simulated(busy, seed=7, **SETTINGS)
    assert one == simulated(busy, seed=7, **SETTINGS)
    assert one != simulated(busy, seed=8, **SETTINGS)
    assert one != simulated(busy, seed=7, schedule=3, **SETTINGS)
    assert len(one) > 300


PROGRAM = """
import sys
sys.path[:0] = {path!r}
import hashlib, test_net
events = test_net.simulated(test_net.busy, seed=7, schedule=5, **test_net.SETTINGS)
print(len(events), hashlib.sha256("\\n".join(events).encode()).hexdigest())
"""


@pytest.mark.default_only
def test_another_process_with_other_hashes_gives_the_same_events() -> None:
    tests = str(Path(__file__).parent)
    program = PROGRAM.format(path=[tests, *sys.path])
    printed = set()
    for hash_seed in ("0", "1", "random"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
        )
        printed.add(done.stdout)
    assert len(printed) == 1


# Size


def heartbeats(hosts: int, seconds: float, every: float) -> Callable[[SimNet], Coroutine[Any, Any, int]]:
    """Each host tells its neighbour now and again that it lives."""

    async def main(net: SimNet) -> int:
        members = [net.host(f"h{number}") for number in range(hosts)]

        async def member(number: int) -> None:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(Received, ("0.0.0.0", 7000))
            neighbour = members[(number + 1) % hosts].address, 7000
            while True:
                transport.sendto(b"alive", neighbour)
                await asyncio.sleep(every)

        for number, host in enumerate(members):
            host.run(member, number)
        await asyncio.sleep(seconds)
        return net.stats().datagrams

    return main


@pytest.mark.default_only
def test_an_hour_of_a_hundred_hosts() -> None:
    assert simulated(heartbeats(100, 3599.5, 5), latency=uniform(0.005, 0.05)) == 72_000


def test_thousands_of_hosts_in_one_process() -> None:
    async def main(net: SimNet) -> None:
        for number in range(2_000):
            net.host(f"h{number}").run(server())
        await asyncio.sleep(0.01)

        async def visit(number: int) -> bytes:
            with net.host(f"h{number}"):
                reader, writer = await asyncio.open_connection(f"h{(number + 1) % 2_000}", 80)
            writer.write(b"x")
            data = await reader.read(1)
            writer.close()
            return data

        assert await asyncio.gather(*map(visit, range(2_000))) == [b"x"] * 2_000
        assert seconds(net) < 1
        net.partition({f"h{number}" for number in range(1_000)})

    simulated(main)


def test_a_network_installed_before_the_loop_runs() -> None:
    async def main() -> None:
        net = asyncio.get_running_loop().net  # type: ignore[attr-defined]
        await started(net)
        _, writer = await asyncio.open_connection("web", 80)
        writer.close()
        await net.aclose()

    with asyncio.Runner(loop_factory=SimLoop) as runner:
        SimNet(latency=0.5).install(runner.get_loop())
        runner.run(main())


# The example


@pytest.mark.parametrize("seed", range(1, 9))
def test_the_partitioned_cluster_keeps_its_promise(seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    import partitioned_cluster  # noqa: PLC0415

    timeline = run(lambda: partitioned_cluster.play(seed))
    assert timeline == run(lambda: partitioned_cluster.play(seed))
    text = "\n".join(timeline)
    assert " 28.00  heal everywhere\n" in text
    assert "has no majority (db2 silent, db3 silent); again in" in text
    assert text.splitlines()[-1].startswith(" 60.00            every write is on a majority: 12 writes, ")
    assert capfd.readouterr().err == ""
