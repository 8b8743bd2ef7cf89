"""A TCP proxy on loopback that can pass, cut or go silent, and that counts who is connected.

It is a process of its own, so neither a busy event loop nor the GIL slows it down: :class:`Proxy` is its handle.

* ``pass``: bytes go both ways.
* ``cut``: every connection is reset, and every new one at once.
* ``silent``: as a firewall that drops packets. Whoever is connected is never answered again, also not after the silence
  (the firewall has forgotten the connection); a new connection is accepted and not answered either. That a client
  closed its end reaches the server only when the silence is over.

The count is exact although this process learns late that a client closed its end: at each new connection it asks the
kernel about all the others. A request to cancel a query (PostgreSQL opens a connection for each) is not counted.
"""

from __future__ import annotations

import contextlib
import errno
import json
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

HOST = "127.0.0.1"
CHUNK = 1 << 16
LIMIT = 1 << 20
"""Bytes held for a receiver that does not read, before its sender is not read any more."""
CANCEL_REQUEST = 80877102
RESET = struct.pack("ii", 1, 0)


class Proxy:
    """The handle: ``with Proxy(host, port) as proxy: connect to proxy.host, proxy.port``."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.host = HOST
        self.port = 0

    def __enter__(self) -> Proxy:
        from support.servers import free_port  # noqa: PLC0415 (the process itself needs the standard library only)

        self.port = free_port()
        command = [sys.executable, __file__, str(self.port), self.target[0], str(self.target[1])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _read(self) -> dict[str, int]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the proxy ended with status {self._process.wait()}")
        answer: dict[str, int] = json.loads(line)
        return answer

    def _tell(self, what: str) -> dict[str, int]:
        assert self._process.stdin is not None
        self._process.stdin.write(what.encode() + b"\n")
        self._process.stdin.flush()
        return self._read()

    def pass_on(self) -> None:
        self._tell("pass")

    def cut(self) -> None:
        self._tell("cut")

    def silent(self) -> None:
        self._tell("silent")

    @property
    def peak(self) -> int:
        """The most connections that were open at a time."""
        return self._tell("stats")["peak"]

    @property
    def opened(self) -> int:
        """How many connections there have been."""
        return self._tell("stats")["opened"]

    @property
    def connected(self) -> int:
        """How many clients hold a connection now."""
        return self._tell("stats")["connected"]


# The process


class End:
    """One end of a connection: a socket, and the bytes that wait to be written to it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pending = bytearray()
        self.connecting = False


class Link:
    """A client, and the connection to the server made for it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = End(client), End(server)
        self.session: bool | None = None
        """Whether it is counted; None until its first bytes tell."""
        self.deaf = False
        """Caught by a silence: never answered again."""
        self.gone = False
        """The client of a deaf link closed its end."""

    def hung_up(self) -> bool:
        """What the kernel knows, ahead of what was read."""
        poll = select.poll()
        poll.register(self.client.sock, select.POLLRDHUP)
        return bool(poll.poll(0))


class Process:
    def __init__(self, port: int, target: tuple[str, int]) -> None:
        self.target = target
        self.mode = "pass"
        self.epoll = select.epoll()
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.links: set[Link] = set()
        self.peak = self.opened = 0
        self.listener = socket.create_server((HOST, port), backlog=1024)
        self.listener.setblocking(False)
        self.watch(self.listener.fileno(), select.EPOLLIN, self.accept)
        self.watch(0, select.EPOLLIN, self.command)

    def watch(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        self.handlers[fd] = handler
        self.epoll.register(fd, mask)

    def run(self) -> None:
        print("{}", flush=True)
        while True:
            for fd, mask in self.epoll.poll():
                if handler := self.handlers.get(fd):
                    handler(mask)

    def command(self, _: int) -> None:
        line = sys.stdin.buffer.raw.readline().strip().decode()
        if not line:
            sys.exit(0)
        if line in ("pass", "silent", "cut"):
            self.mode = line
            for link in list(self.links):
                if line == "silent":
                    link.deaf = True
                    self.update(link)
                elif line == "cut" or link.gone:
                    self.drop(link)
        counted = [link for link in self.links if link.session and not link.hung_up()]
        print(json.dumps({"peak": self.peak, "opened": self.opened, "connected": len(counted)}), flush=True)

    def accept(self, _: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                client, _address = self.listener.accept()
                if self.mode == "cut":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    client.close()
                else:
                    self.connect(client)

    def connect(self, client: socket.socket) -> None:
        server = socket.socket()
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(client, server)
        link.deaf = self.mode == "silent"
        self.links.add(link)
        self.watch(client.fileno(), 0, lambda mask: self.ready(link, link.client, link.server, mask))
        self.watch(server.fileno(), 0, lambda mask: self.ready(link, link.server, link.client, mask))
        if not link.deaf:
            link.server.connecting = server.connect_ex(self.target) == errno.EINPROGRESS
        self.update(link)

    def update(self, link: Link) -> None:
        """Says to epoll what each end is waited for."""
        for end, other in ((link.client, link.server), (link.server, link.client)):
            mask = 0
            if link.deaf:  # its first bytes are still looked at, for the count
                mask |= select.EPOLLRDHUP if end is link.client else 0
                mask |= select.EPOLLIN if end is link.client and link.session is None else 0
            else:
                mask |= select.EPOLLIN if len(other.pending) < LIMIT and not end.connecting else 0
                mask |= select.EPOLLOUT if end.pending or end.connecting else 0
            self.epoll.modify(end.sock.fileno(), mask)

    def ready(self, link: Link, end: End, other: End, mask: int) -> None:
        try:
            if link.deaf:
                self.listen_only(link, mask)
            elif mask & select.EPOLLOUT and end.connecting:
                if end.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise ConnectionRefusedError
                end.connecting = False
            elif mask & select.EPOLLOUT:
                del end.pending[: end.sock.send(end.pending)]
            elif end.connecting:
                raise ConnectionRefusedError
            else:
                data = end.sock.recv(CHUNK)
                if not data:
                    return self.drop(link, reset=False)
                if end is link.client and link.session is None:
                    self.count(link, data)
                other.pending += data
                if not other.connecting:
                    del other.pending[: other.sock.send(other.pending)]
        except BlockingIOError:
            pass
        except OSError:
            return self.drop(link)
        if link in self.links and not link.gone:
            self.update(link)
        return None

    def listen_only(self, link: Link, mask: int) -> None:
        if link.session is None and mask & select.EPOLLIN:
            self.count(link, link.client.sock.recv(CHUNK, socket.MSG_PEEK))
        elif mask & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR):
            if self.mode == "silent":
                link.gone = True
                for end in (link.client, link.server):
                    self.forget(end)
            else:
                self.drop(link, reset=False)

    def count(self, link: Link, first: bytes) -> None:
        link.session = first[4:8] != CANCEL_REQUEST.to_bytes(4, "big")
        if link.session:
            self.opened += 1
            self.peak = max(self.peak, sum(bool(other.session) and not other.hung_up() for other in self.links))

    def forget(self, end: End) -> None:
        if self.handlers.pop(end.sock.fileno(), None):
            self.epoll.unregister(end.sock.fileno())

    def drop(self, link: Link, *, reset: bool = True) -> None:
        self.links.discard(link)
        for end in (link.client, link.server):
            self.forget(end)
            with contextlib.suppress(OSError):
                if reset:
                    end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                elif end.pending:
                    end.sock.send(end.pending)
            end.sock.close()


def main(arguments: Any) -> None:
    port, host, target = arguments
    Process(int(port), (host, int(target))).run()


if __name__ == "__main__":
    main(sys.argv[1:])
