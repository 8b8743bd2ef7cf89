"""The servers and the proxy that the tests of real servers stand on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.proxy import Proxy
from support.servers import OpenSSH, Postgres, Redis, Server

pytestmark = pytest.mark.default_only


@pytest.fixture(params=["postgres", "redis_server", "openssh"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


def greeting(server: Server, port: int) -> bytes:
    """The first bytes of a server's answer; empty when it does not answer within a moment."""
    hello = {
        Postgres.kind: b"\0\0\0\x08\x04\xd2\x16\x2f",  # may I speak TLS?
        Redis.kind: b"PING\r\n",
        OpenSSH.kind: b"SSH-2.0-test\r\n",
    }
    try:
        with socket.create_connection((server.host, port), timeout=0.3) as client:
            client.sendall(hello[server.kind])
            return client.recv(100)
    except OSError:
        return b""


def test_server_stops_goes_on_dies_and_comes_back(server: Server) -> None:
    assert greeting(server, server.port)
    server.pause()
    assert not greeting(server, server.port)
    server.resume()
    assert greeting(server, server.port)
    server.kill()
    assert not server.running()
    server.start()
    assert greeting(server, server.port)


def test_a_server_left_down_is_up_for_the_next_test(server: Server) -> None:
    server.kill()
    server.ensure()
    assert greeting(server, server.port)


def test_postgres_is_not_run_by_root(postgres: Postgres) -> None:
    owner = Path(f"/proc/{(postgres.home / 'pid').read_text()}").stat().st_uid
    assert owner != 0


def test_proxy_passes_falls_silent_and_cuts(redis_server: Redis) -> None:
    with Proxy(redis_server.host, redis_server.port) as proxy:
        assert greeting(redis_server, proxy.port)
        with socket.create_connection((proxy.host, proxy.port), timeout=0.3) as old:
            old.sendall(b"PING\r\n")
            assert old.recv(100)
            proxy.silent()
            assert not greeting(redis_server, proxy.port)
            proxy.pass_on()
            assert greeting(redis_server, proxy.port)
            old.sendall(b"PING\r\n")
            with pytest.raises(TimeoutError):  # the firewall has forgotten it
                old.recv(100)
            assert proxy.connected == 1
        assert proxy.connected == 0
        with socket.create_connection((proxy.host, proxy.port), timeout=5) as old:
            old.sendall(b"PING\r\n")
            assert old.recv(100)
            proxy.cut()
            with pytest.raises(ConnectionResetError):
                old.recv(100)


def test_proxy_counts_who_is_connected_and_no_cancel_request(postgres: Postgres) -> None:
    hello, cancel = b"\0\0\0\x08\x04\xd2\x16\x2f", b"\0\0\0\x10\x04\xd2\x16\x2e" + bytes(8)
    with Proxy(postgres.host, postgres.port) as proxy:
        for _ in range(20):  # one closed right before the next opens is never counted beside it
            clients = [socket.create_connection((proxy.host, proxy.port)) for _ in range(3)]
            for client in clients:
                client.sendall(hello)
                assert client.recv(1) == b"N"
            with socket.create_connection((proxy.host, proxy.port)) as request:
                request.sendall(cancel)
            for client in clients:
                client.close()
        assert (proxy.peak, proxy.opened) == (3, 60)


@pytest.mark.parametrize("end", ["exit", "SIGKILL"])
def test_nothing_is_left_however_the_session_ends(end: str) -> None:
    program = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
from support.servers import Servers
with Servers() as servers, servers.one("redis") as redis:
    print(servers.home, (redis.home / "pid").read_text(), flush=True)
    if {end!r} != "exit":
        os.kill(os.getpid(), signal.{"SIGKILL" if end == "exit" else end})
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_TESTRUNUID"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == (0 if end == "exit" else -signal.SIGKILL), done.stderr
    home, pid = done.stdout.split()
    limit = time.monotonic() + (0 if end == "exit" else 10)
    while Path(home).exists() and time.monotonic() < limit:
        time.sleep(0.01)
    assert not Path(home).exists()
    status = Path(f"/proc/{pid}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"
