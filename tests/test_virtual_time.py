"""Virtual time never lies: it jumps when nothing outside of the loop can make anything ready, and only then.

Two promises, in every surrounding: an answer from outside that takes 0.3 real seconds arrives inside a timeout (a clock
that jumped would have let it expire at once), and an hour of sleep is over at once when all is quiet. That the hour did
not take an hour is seen by pytest's timeout; nothing here asserts that something was fast.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import queue
import random
import select
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from loopwright.testing import Deadlock, SimLoop, bystander, run
from loopwright.testing._ends import Ends
from loopwright.testing._threads import Threads

HOUR = 3600.0
SOON = 0.3
"""Real seconds that an answer from outside takes."""
PATIENCE = 30.0
"""Seconds of the loop's clock within which it has to be there: also on a machine that is busy."""
PEM = Path(__file__).parent / "support" / "localhost.pem"

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the proofs about threads and sockets are Linux's")


async def an_hour_passes() -> None:
    loop = asyncio.get_running_loop()
    before = loop.time()
    await asyncio.sleep(HOUR)
    assert loop.time() - before >= HOUR - 1  # floats


def outside() -> str | None:
    """What the loop would say, once data under way has arrived."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    return loop._outside()


async def settled() -> str | None:
    """The same after a moment of real time, for what has just ended outside."""
    reason = outside()
    for _ in range(200):
        if reason is None:
            break
        await asyncio.to_thread(time.sleep, 0.01)
        reason = outside()
    return reason


# A program of tasks alone


def test_an_hour_of_sleep_is_exactly_an_hour() -> None:
    async def main() -> float:
        await asyncio.sleep(HOUR)
        return asyncio.get_running_loop().time()

    assert run(main) == HOUR


def test_timers_go_off_in_the_order_of_their_times() -> None:
    async def main() -> list[tuple[float, str]]:
        loop, heard = asyncio.get_running_loop(), list[tuple[float, str]]()

        async def sleeper(name: str, *naps: float) -> None:
            for nap in naps:
                await asyncio.sleep(nap)
                heard.append((loop.time(), name))

        await asyncio.gather(sleeper("a", 3, 4), sleeper("b", 5), sleeper("c", 0.5))
        return heard

    assert run(main) == [(0.5, "c"), (3, "a"), (5, "b"), (7, "a")]


def test_a_cancelled_timer_does_not_move_time() -> None:
    async def main() -> float:
        async with asyncio.timeout(HOUR):
            await asyncio.sleep(1)
        return asyncio.get_running_loop().time()

    assert run(main) == 1


def test_a_hang_is_found_at_once() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock):
        run(main)


def test_a_hang_beside_quiet_sockets_is_found_too() -> None:
    async def main() -> None:
        async with echo_server() as address:
            reader, writer = await asyncio.open_connection(*address)
            with contextlib.closing(writer):
                await reader.readline()  # the server waits for us likewise

    with pytest.raises(Deadlock):
        run(main)


# Executors


async def to_thread() -> None:
    await asyncio.to_thread(time.sleep, SOON)


async def job_that_calls_back() -> None:
    """The executor's future is not waited for; what the job says before it ends is."""
    loop, heard = asyncio.get_running_loop(), asyncio.Event()

    def job() -> None:
        time.sleep(SOON)
        loop.call_soon_threadsafe(heard.set)

    loop.run_in_executor(None, job)
    await heard.wait()


async def job_whose_future_was_cancelled() -> None:
    loop, heard = asyncio.get_running_loop(), asyncio.Event()

    def job() -> None:
        time.sleep(SOON)
        loop.call_soon_threadsafe(heard.set)

    waiter = loop.run_in_executor(None, job)
    await asyncio.sleep(0)
    waiter.cancel()
    await heard.wait()


async def own_thread_pool() -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        await asyncio.get_running_loop().run_in_executor(pool, time.sleep, SOON)


async def wrapped_future() -> None:
    """A job that the loop was not told of: only the worker thread shows it."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        await asyncio.wrap_future(pool.submit(time.sleep, SOON))


async def process_pool() -> None:
    methods = multiprocessing.get_context("fork")  # spawn would import this file
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=methods) as pool:
        await asyncio.get_running_loop().run_in_executor(pool, time.sleep, SOON)
        await asyncio.wrap_future(pool.submit(time.sleep, SOON))


# Threads


async def thread_that_calls_back() -> None:
    loop, heard = asyncio.get_running_loop(), asyncio.Event()

    def work() -> None:
        time.sleep(SOON)
        loop.call_soon_threadsafe(heard.set)

    threading.Thread(target=work).start()
    await heard.wait()


async def thread_that_busily_computes() -> None:
    loop, heard = asyncio.get_running_loop(), asyncio.Event()

    def work() -> None:
        until = time.monotonic() + SOON
        while time.monotonic() < until:
            pass
        loop.call_soon_threadsafe(heard.set)

    threading.Thread(target=work).start()
    await heard.wait()


# Processes


def served_elsewhere(source: str) -> Iterator[int]:
    """The port of a server in a process of its own: it answers each line after a while."""
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(source)], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.kill()


@pytest.fixture
def tcp_port_elsewhere() -> Iterator[int]:
    yield from served_elsewhere(f"""
        import socket, time
        server = socket.create_server(("127.0.0.1", 0), backlog=8)
        print(server.getsockname()[1], flush=True)
        while True:
            connection, _ = server.accept()
            while line := connection.recv(100):
                time.sleep({SOON})
                connection.sendall(line)
        """)


@pytest.fixture
def udp_port_elsewhere() -> Iterator[int]:
    yield from served_elsewhere(f"""
        import socket, time
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("127.0.0.1", 0))
        print(server.getsockname()[1], flush=True)
        while True:
            data, address = server.recvfrom(100)
            time.sleep({SOON})
            server.sendto(data, address)
        """)


async def subprocess_that_ends() -> None:
    process = await asyncio.create_subprocess_exec("sleep", str(SOON))
    assert await process.wait() == 0


async def subprocess_pipes() -> None:
    script = f"read line; sleep {SOON}; echo $line"
    process = await asyncio.create_subprocess_exec("sh", "-c", script, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert (await process.communicate(b"hello\n"))[0] == b"hello\n"


async def subprocess_that_is_polled() -> None:
    """Nothing of it is registered with the loop, and each poll is a timer that a wrong clock would jump to."""
    with subprocess.Popen(["sleep", str(SOON)]) as process:  # noqa: ASYNC220 (seen and not seen by asyncio: both count)
        while process.poll() is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def pipe_from_a_forked_child() -> None:
    ours, theirs = os.pipe()
    with subprocess.Popen(["sh", "-c", f"sleep {SOON}; echo x >/dev/fd/{theirs}"], pass_fds=[theirs]):  # noqa: ASYNC220
        assert await readable(ours) == b"x\n"
    os.close(ours)
    os.close(theirs)


async def readable(fd: int) -> bytes:
    loop, came = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(fd)
    return os.read(fd, 100)


# Signals


async def alarm() -> None:
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    old = signal.getitimer(signal.ITIMER_REAL)[0], signal.getsignal(signal.SIGALRM)
    loop.add_signal_handler(signal.SIGALRM, heard.set)
    signal.setitimer(signal.ITIMER_REAL, SOON)
    await heard.wait()
    loop.remove_signal_handler(signal.SIGALRM)
    signal.signal(signal.SIGALRM, old[1])
    signal.setitimer(signal.ITIMER_REAL, old[0])


ANSWERS = [
    to_thread,
    job_that_calls_back,
    job_whose_future_was_cancelled,
    own_thread_pool,
    wrapped_future,
    process_pool,
    thread_that_calls_back,
    thread_that_busily_computes,
    subprocess_that_ends,
    subprocess_pipes,
    subprocess_that_is_polled,
    pipe_from_a_forked_child,
    alarm,
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_from_outside_arrives_in_time(answer: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            await answer()
        await an_hour_passes()

    run(main)


def test_a_server_in_another_process_answers_in_time(tcp_port_elsewhere: int) -> None:
    async def main() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", tcp_port_elsewhere)
        async with asyncio.timeout(PATIENCE):
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
        reason = outside()
        assert reason is not None and str(tcp_port_elsewhere) in reason
        writer.close()
        await writer.wait_closed()
        await an_hour_passes()

    run(main)


def test_a_datagram_server_in_another_process_answers_in_time(udp_port_elsewhere: int) -> None:
    async def main() -> None:
        for is_connected in (True, False):
            address = ("127.0.0.1", udp_port_elsewhere)
            arguments: dict[str, Any] = {"remote_addr": address} if is_connected else {"local_addr": ("127.0.0.1", 0)}
            transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Heard, **arguments)
            async with asyncio.timeout(PATIENCE):
                transport.sendto(b"hello", None if is_connected else address)
                assert (await protocol.heard.get())[0] == b"hello"
            transport.close()
            await an_hour_passes()

    run(main)


# Both ends in this program: time jumps, and nothing is lost


class Heard(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.heard.put_nowait((data, addr))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each line after an hour."""
    with contextlib.closing(writer):
        while line := await reader.readline():
            await asyncio.sleep(HOUR)
            writer.write(line)
            await writer.drain()


@contextlib.asynccontextmanager
async def echo_server(host: str = "127.0.0.1", **options: Any) -> AsyncIterator[tuple[Any, ...]]:
    server = await asyncio.start_server(echo, host, 0, **options)
    yield server.sockets[0].getsockname()[:2]
    server.close()


async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Three lines and their answers, each after an hour and inside a timeout that is hardly longer."""
    for line in (b"one\n", b"two\n", b"three\n"):
        async with asyncio.timeout(HOUR + PATIENCE):
            writer.write(line)
            assert await reader.readline() == line
    writer.close()
    await writer.wait_closed()


async def streams_over_tcp() -> None:
    async with echo_server() as address:
        await converse(*await asyncio.open_connection(*address))


async def streams_over_tcp_on_every_address() -> None:
    """An IPv4 client of a server that listens on all addresses, of IPv6 as well where there is such a thing."""
    has_ipv6 = socket.has_dualstack_ipv6()
    listener = socket.create_server(
        ("", 0), family=socket.AF_INET6 if has_ipv6 else socket.AF_INET, dualstack_ipv6=has_ipv6
    )
    async with await asyncio.start_server(echo, sock=listener) as server:
        await converse(*await asyncio.open_connection("127.0.0.1", listener.getsockname()[1]))
        server.close()


async def streams_over_tls() -> None:
    theirs, ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    theirs.load_cert_chain(PEM)
    ours.load_verify_locations(PEM)
    ours.check_hostname = False
    ours.verify_mode = ssl.CERT_NONE
    async with echo_server(ssl=theirs) as address:
        await converse(*await asyncio.open_connection(*address, ssl=ours))


async def streams_over_a_unix_socket() -> None:
    path = f"\0loopwright-{os.getpid()}"
    server = await asyncio.start_unix_server(echo, path)
    await converse(*await asyncio.open_unix_connection(path))
    server.close()


async def streams_over_a_socketpair() -> None:
    one, other = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=one)
    task = asyncio.create_task(echo(*await asyncio.open_connection(sock=other)))
    await converse(reader, writer)
    await task


async def plain_socketpair() -> None:
    """One end waits in the loop, the other is known to nobody but a task."""
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        loop.call_later(HOUR, other.send, b"x")
        async with asyncio.timeout(HOUR + PATIENCE):
            assert await loop.sock_recv(one, 10) == b"x"


async def pipe() -> None:
    ours, theirs = os.pipe()
    asyncio.get_running_loop().call_later(HOUR, os.write, theirs, b"x")
    async with asyncio.timeout(HOUR + PATIENCE):
        assert await readable(ours) == b"x"
    os.close(ours)
    os.close(theirs)


async def datagrams() -> None:
    loop = asyncio.get_running_loop()
    server, heard = await loop.create_datagram_endpoint(Heard, local_addr=("127.0.0.1", 0))
    address = server.get_extra_info("sockname")
    for arguments in ({"remote_addr": address}, {"local_addr": ("127.0.0.1", 0)}):
        client, answers = await loop.create_datagram_endpoint(Heard, **arguments)
        for _ in range(3):
            client.sendto(b"x", None if "remote_addr" in arguments else address)
            async with asyncio.timeout(PATIENCE):
                data, sender = await heard.heard.get()
            await asyncio.sleep(HOUR)
            server.sendto(data, sender)
            async with asyncio.timeout(PATIENCE):
                await answers.heard.get()
        client.close()
    server.close()


async def datagrams_by_socket() -> None:
    loop = asyncio.get_running_loop()
    one, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with one, other:
        for sock in (one, other):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        receiving = asyncio.create_task(loop.sock_recvfrom(other, 10))
        await loop.sock_sendto(one, b"x", other.getsockname())
        data, sender = await receiving
        loop.call_later(HOUR, lambda: asyncio.ensure_future(loop.sock_sendto(other, data, sender)))
        await asyncio.sleep(0)
        async with asyncio.timeout(HOUR + PATIENCE):
            assert await loop.sock_recv(one, 10) == b"x"


async def full_connection() -> None:
    """The sender has filled every buffer; the receiver reads on after an hour, and all arrives."""
    size, got = 8 << 20, 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        await asyncio.sleep(HOUR)
        while data := await reader.read(1 << 20):
            got += len(data)
        writer.close()

    server = await asyncio.start_server(slow, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    writer.write(b"x" * size)
    writer.write_eof()
    async with asyncio.timeout(HOUR + PATIENCE):
        await writer.drain()
        assert await reader.read() == b""
    assert got == size
    writer.close()
    server.close()


async def connection_that_nobody_accepts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"is anybody there?\n")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(HOUR):
                await reader.readline()
        writer.close()


async def signal_handler() -> None:
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, heard.set)
    loop.call_later(HOUR, os.kill, os.getpid(), signal.SIGUSR1)
    async with asyncio.timeout(HOUR + PATIENCE):
        await heard.wait()
    loop.remove_signal_handler(signal.SIGUSR1)


OURS = [
    streams_over_tcp,
    streams_over_tcp_on_every_address,
    streams_over_tls,
    streams_over_a_unix_socket,
    streams_over_a_socketpair,
    plain_socketpair,
    pipe,
    datagrams,
    datagrams_by_socket,
    full_connection,
    connection_that_nobody_accepts,
    signal_handler,
]


@linux_only
@pytest.mark.parametrize("talk", OURS)
def test_time_jumps_between_two_ends_of_ours(talk: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        await talk()
        await an_hour_passes()

    run(main)


@linux_only
@pytest.mark.parametrize("talk", [streams_over_tcp, streams_over_tls, datagrams, full_connection])
def test_what_is_under_way_between_two_ends_of_ours_takes_no_time(
    talk: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Otherwise virtual times would depend on the machine."""

    async def main() -> float:
        await talk()
        return asyncio.get_running_loop().time()

    taken = run(main)
    assert taken == round(taken / HOUR) * HOUR > 0


# What is left standing does not stop time


@linux_only
def test_idle_workers_do_not_hold_time_back() -> None:
    async def main() -> None:
        await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.001) for _ in range(40)))
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            await asyncio.wrap_future(pool.submit(int))
            await an_hour_passes()
            await asyncio.to_thread(int)
            await an_hour_passes()

    run(main)


@linux_only
def test_an_idle_process_pool_does_not_hold_time_back() -> None:
    async def main() -> None:
        loop, methods = asyncio.get_running_loop(), multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=methods) as pool:
            for _ in range(2):
                assert await loop.run_in_executor(pool, abs, -1) == 1
                await an_hour_passes()

    run(main)


class Worker(threading.Thread):
    """A worker of one's own: it takes jobs from a queue, and tells the loop after a while."""

    def __init__(self, jobs: Any) -> None:
        super().__init__()
        self.jobs = jobs

    def run(self) -> None:
        while (job := self.jobs.get()) is not None:
            time.sleep(SOON)
            job()


@linux_only
@pytest.mark.parametrize("kind", [queue.Queue, queue.SimpleQueue])
def test_a_thread_that_waits_for_work_does_not_hold_time_back_and_is_heard(kind: type[Any]) -> None:
    """Started by the program, it is quiet while it waits in ``get()``, and is not from the moment it is given a job."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        worker = Worker(kind())
        worker.start()
        for _ in range(3):
            await an_hour_passes()
            event = asyncio.Event()
            worker.jobs.put(functools.partial(loop.call_soon_threadsafe, event.set))
            async with asyncio.timeout(PATIENCE):
                await event.wait()
        worker.jobs.put(None)
        worker.join()

    run(main)


@linux_only
def test_a_thread_that_waits_with_a_timeout_holds_time_back() -> None:
    """It will go on by itself, and may have something to say then."""

    async def main() -> None:
        loop, heard = asyncio.get_running_loop(), asyncio.Event()
        jobs = queue.SimpleQueue[None]()

        def work() -> None:
            with contextlib.suppress(queue.Empty):
                jobs.get(timeout=SOON)
            with contextlib.suppress(queue.Empty):
                queue.Queue[None]().get(timeout=SOON)
            loop.call_soon_threadsafe(heard.set)

        threading.Thread(target=work).start()
        async with asyncio.timeout(PATIENCE):
            await heard.wait()

    run(main)


@linux_only
def test_an_older_thread_is_let_be_until_it_is_given_something() -> None:
    jobs = queue.SimpleQueue[Callable[[], object] | None]()

    def work() -> None:
        while (job := jobs.get(timeout=HOUR)) is not None:
            time.sleep(SOON)
            job()

    worker = threading.Thread(target=work)
    worker.start()
    time.sleep(0.05)

    async def main() -> None:
        await an_hour_passes()
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        jobs.put(lambda: loop.call_soon_threadsafe(event.set))
        async with asyncio.timeout(PATIENCE):
            await event.wait()

    try:
        run(main)
    finally:
        jobs.put(None)
        worker.join()


@linux_only
def test_a_thread_of_another_event_loop_is_heard() -> None:
    """Two loops in two threads, each with a clock of its own: the real one sets the pace while it can speak."""

    async def main() -> None:
        loop, heard = asyncio.get_running_loop(), asyncio.Event()

        async def other() -> None:
            await asyncio.sleep(SOON)
            loop.call_soon_threadsafe(heard.set)

        thread = threading.Thread(target=asyncio.run, args=[other()])
        thread.start()
        async with asyncio.timeout(PATIENCE):
            await heard.wait()
        thread.join()
        await an_hour_passes()

    run(main)


def test_a_bystander_does_not_hold_time_back() -> None:
    stop = threading.Event()

    def heartbeat() -> None:
        while not stop.wait(0.001):
            pass

    async def main() -> None:
        thread = bystander(threading.Thread(target=heartbeat))
        thread.start()
        await an_hour_passes()
        stop.set()
        thread.join()

    run(main)


@linux_only
def test_an_older_thread_that_waits_for_data_is_outside_unless_it_is_a_bystander() -> None:
    """Data may come from anywhere, and be for the loop. pytest-xdist's worker has such a thread, which is known."""
    gate, opener = os.pipe()
    thread = threading.Thread(target=os.read, args=[gate, 1], name="Listener")
    thread.start()
    time.sleep(0.05)

    async def reason() -> str | None:
        return outside()

    try:
        said = run(reason)
        assert said is not None and said.startswith("thread 'Listener' is running")
        bystander(thread)
        run(plain_socketpair)
    finally:
        os.write(opener, b"x")
        thread.join()
        os.close(gate)
        os.close(opener)


@linux_only
def test_a_loop_in_a_thread_jumps_too() -> None:
    """The main thread waits for it."""

    async def main() -> None:
        await an_hour_passes()

    thread = threading.Thread(target=run, args=[main])
    thread.start()
    thread.join()


def test_without_virtual_time_the_clock_is_real() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        real, before = time.monotonic(), loop.time()
        await asyncio.sleep(0.05)
        assert loop.time() - before >= 0.05
        assert time.monotonic() - real >= 0.05

    run(main, virtual_time=False)


# What counts as outside, and how it is told


def test_an_executor_job_is_told_by_its_function() -> None:
    async def main() -> None:
        job = asyncio.ensure_future(asyncio.to_thread(time.sleep, SOON))
        await asyncio.sleep(0)
        assert outside() == "an executor job is running: time.sleep"
        await job
        assert await settled() is None

    run(main)


def test_a_thread_is_told_by_where_it_is() -> None:
    async def main() -> None:
        stop = threading.Event()

        def dawdle() -> None:
            while not stop.wait(0.01):
                pass

        thread = threading.Thread(target=dawdle, name="Dawdler")
        thread.start()
        reason = outside()
        assert reason is not None and reason.startswith("thread 'Dawdler' is running")
        stop.set()
        thread.join()
        assert await settled() is None

    run(main)


def test_a_child_process_is_told_by_its_name() -> None:
    async def main() -> None:
        with subprocess.Popen(["sleep", "60"]) as process:  # noqa: ASYNC220
            reason = outside()
            assert reason is not None and reason.startswith("a child process is running") and str(process.pid) in reason
            process.kill()
        assert await settled() is None

    run(main)


@linux_only
def test_a_process_that_is_older_than_the_loop_is_let_be() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:

        async def main() -> None:
            await an_hour_passes()

        run(main)
        process.kill()


@linux_only
def test_a_pipe_that_an_older_child_holds_is_outside() -> None:
    ours, theirs = os.pipe()
    with subprocess.Popen(["sh", "-c", f"sleep {SOON}; echo x >/dev/fd/{theirs}"], pass_fds=[theirs]):

        async def main() -> None:
            async with asyncio.timeout(PATIENCE):
                assert await readable(ours) == b"x\n"

        run(main)
    os.close(ours)
    os.close(theirs)


@linux_only
def test_a_socket_that_an_older_thread_reads_is_outside() -> None:
    """It has slept all the time, but what we send it will wake it."""
    one, other = socket.socketpair()

    def answer() -> None:
        data = other.recv(10)
        time.sleep(SOON)
        other.send(data)

    thread = threading.Thread(target=answer)
    thread.start()
    time.sleep(0.05)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one.setblocking(False)
        async with asyncio.timeout(PATIENCE):
            receiving = asyncio.create_task(loop.sock_recv(one, 10))
            await asyncio.sleep(0.01)
            await loop.sock_sendall(one, b"x")
            assert await receiving == b"x"

    run(main)
    thread.join()
    one.close()
    other.close()


def test_a_terminal_is_outside() -> None:
    async def main() -> None:
        controller, terminal = os.openpty()
        loop = asyncio.get_running_loop()
        loop.add_reader(terminal, lambda: None)
        reason = outside()
        assert reason is not None and reason.startswith(f"file descriptor {terminal} is /dev/pts")
        loop.remove_reader(terminal)
        assert outside() is None
        os.close(controller)
        os.close(terminal)

    run(main)


def test_a_socket_that_connects_is_outside() -> None:
    """Nobody answers at an address of documentation, but the network may say so any moment."""

    async def main() -> None:
        with socket.socket() as sock:
            sock.setblocking(False)
            connecting = asyncio.ensure_future(asyncio.get_running_loop().sock_connect(sock, ("192.0.2.1", 9)))
            await asyncio.sleep(0)
            if connecting.done():
                pytest.skip("this machine has no route to 192.0.2.1, and says so at once")
            reason = outside()
            assert reason is not None and reason.endswith("is a socket that is about to connect")
            connecting.cancel()

    run(main)


def test_a_datagram_socket_used_past_the_loop_is_outside() -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            loop = asyncio.get_running_loop()
            loop.add_reader(sock, lambda: None)
            reason = outside()
            assert reason is not None and "whose sends the loop does not see" in reason
            loop.remove_reader(sock)

    run(main)


# The proofs themselves


@linux_only
def test_a_worker_that_has_just_been_given_a_job_is_never_taken_for_idle() -> None:
    """Jobs are handed to a pool behind the loop's back, and the proof is asked for at once, again and again."""
    threads = Threads()
    gate, opener = os.pipe()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for attempt in range(400):
            assert any(threads.running() is None for _ in range(1000)), "idle workers were never proven idle"
            futures = [pool.submit(os.read, gate, 1) for _ in range(1 + attempt // 2 % 2)]
            for _ in range(attempt % 5):
                select.select([], [], [], 0)  # gives the interpreter lock away
            reason = threads.running()
            os.write(opener, b"x" * len(futures))
            if attempt % 2:  # otherwise the next jobs meet workers on their way back
                concurrent.futures.wait(futures)
            assert reason is not None
    os.close(gate)
    os.close(opener)


@linux_only
def test_a_reused_descriptor_is_examined_again() -> None:
    ends = Ends()
    one, other = socket.socketpair()
    fd = one.fileno()
    assert ends.outside({fd: 1}, [other.fileno()], bool)[0] is None
    other.close()
    one.close()
    reader, writer = os.pipe()
    os.dup2(reader, fd)
    assert ends.outside({fd: 1}, [], bool)[0] is None
    os.close(writer)
    assert ends.outside({fd: 1}, [], bool)[0] is not None
    for left in {fd, reader}:
        os.close(left)


@linux_only
@pytest.mark.parametrize("seed", range(30 if os.environ.get("LOOPWRIGHT_STRESS") == "1" else 3))
def test_no_timeout_lies_however_threads_hand_on_the_work(seed: int) -> None:
    """Workers that are older than the loops, idle most of the time, given work by the loop and by each other."""
    draw = random.Random(seed)
    simple, plain = queue.SimpleQueue[Any](), queue.Queue[Any]()
    workers = [threading.Thread(target=serve, args=[jobs], daemon=True) for jobs in (simple, plain, plain)]
    for worker in workers:
        worker.start()

    def put(jobs: Any, job: Callable[[], object]) -> None:
        jobs.put((draw.choice([0, 0.0001, 0.001]), job))

    async def ask(pool: concurrent.futures.Executor) -> None:
        loop, heard = asyncio.get_running_loop(), asyncio.Event()
        tell = functools.partial(loop.call_soon_threadsafe, heard.set)
        await asyncio.sleep(draw.choice([0, HOUR]))
        async with asyncio.timeout(PATIENCE):
            match draw.randrange(5):
                case 0:
                    await asyncio.wrap_future(pool.submit(time.sleep, 0.0001))
                case 1:
                    pool.submit(tell)
                    await heard.wait()
                case 2:
                    put(simple, tell)
                    await heard.wait()
                case 3:
                    put(plain, lambda: put(simple, lambda: put(plain, tell)))
                    await heard.wait()
                case 4:
                    threading.Thread(target=put, args=[plain, lambda: put(simple, tell)]).start()
                    await heard.wait()

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for _ in range(150):

            async def main() -> None:
                for _ in range(3):
                    await asyncio.gather(*(ask(pool) for _ in range(draw.choice([1, 1, 3]))))

            run(main)
    for jobs in (simple, plain, plain):
        jobs.put(None)
    for worker in workers:
        worker.join()


def serve(jobs: Any) -> None:
    while (job := jobs.get()) is not None:
        time.sleep(job[0])
        job[1]()
