"""What travels on a simulated network, and when: links, connections, transports, servers, datagrams.

Here lives the mechanics: one :class:`End` per side of a connection (what a kernel has of it), and the transports that
asyncio's protocols see. Hosts, names, faults and the script are in ``net.py``.

How a connection is modelled. Bytes are never lost, doubled or reordered, as with TCP; trouble shows as delay, silence
or a reset. A direction is a queue of what is under way, in order, behind one timer, so no loop, whatever order it gives
to timers of one instant, can reorder a stream. A path that is cut stalls the direction, which tries again after 0.2 s,
0.4 s, ... 120 s and gives up at last: that is what Linux does, and why a service without timeouts hangs for a quarter
of an hour after its peer has lost power. Acknowledgements are not packets of their own: what the receiver has read
gives the sender its room back one latency later.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import functools
import logging
import math
import os
import random
import socket
import ssl as ssl_module
import sys
import weakref
from asyncio import constants, sslproto, transports
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from loopwright.testing.net import Host, SimNet

__all__ = ["Datagrams", "End", "Latency", "Link", "Listener", "Server", "SimSocket", "StreamTransport"]

Latency = float | Callable[[random.Random], float]
Address = tuple[Any, ...] | str
"""``(ip, port)``, or the path of a Unix socket."""

RTO: Final = 0.2
MAX_RTO: Final = 120.0
"""The pause before the first and before the last retransmissions: Linux's TCP_RTO_MIN and TCP_RTO_MAX."""

TICK: Final = 1e-6
"""A timer may be a little early, by the rounding of the loop's clock."""

MAX_READ: Final = 256 * 1024
"""The most that one ``data_received`` gets, as in asyncio."""

CHUNK: Final = 16 * 1024
"""With a bandwidth, a large write travels in pieces of this size."""

MAX_DATAGRAM: Final = 65_507

logger = logging.getLogger("asyncio")


def os_error(number: int, detail: str) -> OSError:
    """The error a kernel would give, with the class that goes with its number."""
    return OSError(number, detail)


class Link:
    """One direction between two hosts."""

    __slots__ = (
        "_random",
        "bandwidth",
        "down",
        "duplicate",
        "fixed",
        "fragment",
        "free_at",
        "jitter",
        "latency",
        "loss",
        "name",
        "net",
    )

    def __init__(self, net: SimNet, name: str) -> None:
        self.net = net
        self.name = name
        self._random: random.Random | None = None
        self.free_at = 0.0
        self.down = False
        self.latency: Latency = 0.0
        self.jitter = 0.0
        self.loss = 0.0
        self.bandwidth: float | None = None
        self.duplicate = 0.0
        self.fragment = 0.0
        self.fixed: float | None = 0.0

    def configure(self, changes: dict[str, Any]) -> None:
        for key, value in changes.items():
            setattr(self, key, value)
        self.fixed = float(self.latency) if not callable(self.latency) and not self.jitter else None

    @property
    def random(self) -> random.Random:
        """Of this link alone, so that traffic elsewhere changes nothing here."""
        if self._random is None:
            self._random = random.Random(f"{self.net.seed}/{self.name}")
        return self._random

    def delay(self) -> float:
        if self.fixed is not None:
            return self.fixed
        delay = self.latency(self.random) if callable(self.latency) else self.latency
        if self.jitter:
            delay += self.random.uniform(-self.jitter, self.jitter)
        return max(0.0, delay)

    def loses(self) -> bool:
        return self.loss > 0 and self.random.random() < self.loss

    def sent(self, now: float, size: int) -> float:
        """When the last bit of so many bytes has left: a link carries one thing after the other."""
        if self.bandwidth is None:
            return now
        self.free_at = max(now, self.free_at) + size / self.bandwidth
        return self.free_at


class _Mark:
    """Something other than bytes that travels in order with them."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


OPEN: Final = _Mark("open")
FIN: Final = _Mark("fin")
RST: Final = _Mark("rst")


class End:
    """One side of a connection: what the kernel of its host has of it."""

    __slots__ = (
        "ack_timer",
        "acks",
        "backoff",
        "broken",
        "closed",
        "context",
        "eof",
        "error",
        "finishing",
        "flight",
        "held",
        "host",
        "inbox",
        "inbox_size",
        "label",
        "last",
        "link",
        "listener",
        "local",
        "net",
        "outbox",
        "outbox_size",
        "peer",
        "received",
        "remote",
        "sent",
        "stalled",
        "timer",
        "unacked",
        "user",
        "void",
    )

    peer: End

    def __init__(self, net: SimNet, host: Host, local: Address, remote: Address, link: Link) -> None:
        self.net = net
        self.host = host
        self.local = local
        self.remote = remote
        self.link = link  # towards the peer
        self.label = ""
        self.context: contextvars.Context = contextvars.copy_context()
        self.listener: Listener | None = None  # where it waits to be accepted
        self.user: Any = None  # a transport, or what reads for loop.sock_recv()
        # towards the peer
        self.flight: deque[tuple[float, bytes | _Mark]] = deque()
        self.outbox: deque[bytes] = deque()  # has no room in the peer's window
        self.outbox_size = 0
        self.unacked = 0
        self.acks: deque[tuple[float, int]] = deque()
        self.held = 0  # acknowledgements that the cut path back has swallowed
        self.last = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.ack_timer: asyncio.TimerHandle | None = None
        self.stalled: float | None = None
        self.backoff = RTO
        self.void = False  # what it sends reaches nobody, ever again
        self.finishing = False
        self.sent = 0
        # from the peer
        self.inbox: deque[bytes] = deque()
        self.inbox_size = 0
        self.received = 0
        self.eof = False
        self.error: OSError | None = None
        self.closed = False  # the application is done with it
        self.broken = False  # reset or given up: nothing goes out any more

    # Sending

    def send(self, data: bytes) -> None:
        self.sent += len(data)
        if self.outbox:
            self.outbox.append(data)
            self.outbox_size += len(data)
            return
        room = self._room()
        if len(data) <= room:
            self._launch(data)
            return
        if room > 0:
            self._launch(data[:room])
            data = data[room:]
        self.outbox.append(data)
        self.outbox_size += len(data)
        self._await_ack()

    def finish(self) -> None:
        """No more data: the peer reads the end of the stream after all that was sent."""
        if self.finishing:
            return
        self.finishing = True
        if not self.outbox:
            self._put(FIN, self.net.time() + self.link.delay())

    def _room(self) -> int:
        if self.acks:
            now, acks = self.net.time() + TICK, self.acks
            while acks and acks[0][0] <= now:
                self.unacked -= acks.popleft()[1]
        return self.peer.host.window - self.unacked

    def _launch(self, data: bytes) -> None:
        link, size = self.link, len(data)
        self.unacked += size
        now = self.net.time()
        if not link.loss and link.bandwidth is None and not link.fragment:
            self._put(data, now + (link.delay() if link.fixed is None else link.fixed))
            return
        if link.fragment and size > 1 and link.random.random() < link.fragment:
            cut = link.random.randrange(1, size)
            pieces = [data[:cut], data[cut:]]
        elif link.bandwidth is not None and size > CHUNK:
            pieces = [data[at : at + CHUNK] for at in range(0, size, CHUNK)]
        else:
            pieces = [data]
        for piece in pieces:
            arrival = link.sent(now, len(piece)) + link.delay()
            if link.loss:
                arrival += self._retransmissions()
            if len(pieces) > 1 and arrival <= self.last:
                arrival = self.last + 2 * TICK  # pieces are read one by one
            self._put(piece, arrival)

    def _retransmissions(self) -> float:
        """The delay by the losses of one packet, each found out after a longer pause."""
        delay, pause = 0.0, RTO
        while self.link.loses():
            self.net.count("lost", self)
            delay += pause
            pause = min(2 * pause, MAX_RTO)
            if delay >= self.net.give_up:
                self.void = True
                break
        return delay

    def _put(self, item: bytes | _Mark, arrival: float) -> None:
        if self.broken:
            return
        self.last = arrival = max(arrival, self.last)
        self.flight.append((arrival, item))
        if self.timer is None:
            if self.link.down or self.void:
                self._stall()
            else:
                self.timer = self.net.call_at(arrival, self._arrive, self.peer.context)

    def _arrive(self) -> None:  # noqa: PLR0912 (one decision for each thing that can arrive)
        self.timer = None
        link, peer = self.link, self.peer
        if link.down or self.void:
            self._stall()
            return
        flight, now = self.flight, self.net.time() + TICK
        news = False
        while flight and flight[0][0] <= now:
            item = flight.popleft()[1]
            if item is not FIN and item is not RST and (peer.closed or peer.broken):
                if peer.link.down:
                    flight.appendleft((now, item))  # the answer cannot get through
                    self._stall()
                else:
                    peer.refuse()
                return
            if isinstance(item, bytes):
                self.net.count("data", self, len(item))
                peer.inbox.append(item)
                peer.inbox_size += len(item)
                peer.received += len(item)
            elif item is OPEN:
                if peer.listener is None or peer.listener.closed:
                    peer.close(reset=True)
                    return
                self.net.count("accept", peer)
                peer.listener.arrived(peer)
                continue  # it asks for no answer
            elif item is FIN:
                self.net.count("eof", self)
                peer.eof = True
            else:
                self.net.count("reset", self)
                peer.fail(ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))
                return
            news = True
        if self.stalled is not None and not peer.link.down:
            self.stalled = None
        if news and peer.link.down and not self.broken:
            self._stall()  # it has arrived, but nobody will ever say so
        elif flight and self.timer is None:
            self.timer = self.net.call_at(flight[0][0], self._arrive, peer.context)
        if news and peer.user is not None:
            peer.user.readable()

    def drop(self) -> None:
        """What has not left yet never will."""
        self.sent -= self.outbox_size
        self.outbox.clear()
        self.outbox_size = 0

    # Trouble on the way

    def _stall(self) -> None:
        """The path is cut: try again later, more and more rarely, and give up in the end."""
        if any(item is RST for _, item in self.flight):
            self._forget()  # a reset is said once
            self.peer.probe()
            return
        if self.timer is not None:
            self.timer.cancel()
        now = self.net.time()
        if self.stalled is None:
            self.stalled, self.backoff = now, RTO
            self.net.count("stall", self)
        wait = min(self.backoff, max(0.0, self.stalled + self.net.give_up - now))
        self.timer = self.net.call_at(now + wait, self._retry, self.context)

    def probe(self) -> None:
        """Who waits for room asks now and again whether there is some. That matters, and is done, only when the path is
        cut or the peer is gone: then the silence ends the connection.
        """
        gone = self.link.down or self.peer.link.down or self.void or self.peer.closed or self.peer.broken
        if self.outbox and self.timer is None and not self.broken and gone:
            self._stall()

    def _retry(self) -> None:
        self.timer = None
        now = self.net.time()
        assert self.stalled is not None
        if self.link.down or self.peer.link.down or self.void:
            if now - self.stalled >= self.net.give_up - TICK:
                if self.flight and all(item is OPEN for _, item in self.flight):
                    # Only the server waits for the end of the handshake. It forgets the client, who is not told.
                    self.flight.clear()
                    self.stalled = None
                    self.peer.closed = True
                    self.net.forget(self.peer)
                    return
                self.net.count("give up", self)
                self.fail(TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))
                return
            self.backoff = min(2 * self.backoff, MAX_RTO)
            if self.flight and not (self.link.down or self.void):
                self._resend(now)  # only the way back is cut: the peer does get it
            else:
                self._stall()
            return
        self.stalled = None
        self.net.count("resume", self)
        if self.outbox and not self.flight and (self.peer.closed or self.peer.broken):
            self.peer.refuse()
            return
        self.unacked -= self.held
        self.held = 0
        if self.flight:
            self._resend(now)
        self._flush()

    def _resend(self, now: float) -> None:
        arrival = now + self.link.delay()
        self.flight = deque((max(arrival, when), item) for when, item in self.flight)
        self.last = self.flight[-1][0]
        self.timer = self.net.call_at(self.flight[0][0], self._arrive, self.peer.context)

    def fail(self, error: OSError) -> None:
        """The connection is over on this side: reset by the peer, or given up."""
        if self.broken:
            return
        self.error = error
        writing = bool(self.outbox)
        self._forget()
        if self.user is not None:
            self.user.failed(writing)
        self.peer.probe()

    def refuse(self) -> None:
        """Answers a packet for a connection that is no more: the sender gets a reset."""
        self.net.count("reset", self)
        peer = self.peer
        peer.flight.clear()
        if self.link.down or self.void or peer.broken:
            return
        error = ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        self.net.call_at(self.net.time() + self.link.delay(), lambda: peer.fail(error), peer.context)

    def _forget(self) -> None:
        if self.flight and self.flight[0][1] is OPEN:
            self.peer.closed = True  # the handshake never ended, and the server's kernel has forgotten it
            self.net.forget(self.peer)
        for timer in (self.timer, self.ack_timer):
            if timer is not None:
                timer.cancel()
        self.timer = self.ack_timer = None
        self.flight.clear()
        self.drop()
        self.broken = True
        self.net.forget(self)

    # Receiving

    def take(self, limit: int) -> bytes:
        """Up to ``limit`` of the bytes that have come, which gives the sender room again."""
        inbox = self.inbox
        if len(inbox) == 1 and self.inbox_size <= limit:
            data = inbox.popleft()
        else:
            parts, left = [], limit
            while inbox and left > 0:
                part = inbox.popleft()
                if len(part) > left:
                    inbox.appendleft(part[left:])
                    part = part[:left]
                parts.append(part)
                left -= len(part)
            data = b"".join(parts)
        self.inbox_size -= len(data)
        self.peer.acknowledged(len(data), self.link)
        return data

    def acknowledged(self, size: int, back: Link) -> None:
        if self.broken:
            return
        if back.down:
            self.held += size
            if self.outbox and self.timer is None:
                self._stall()
            return
        when = self.net.time() + back.delay()
        if self.acks and when < self.acks[-1][0]:
            when = self.acks[-1][0]
        self.acks.append((when, size))
        if self.outbox:
            self._await_ack()

    def _await_ack(self) -> None:
        if self.ack_timer is None and self.acks:
            self.ack_timer = self.net.call_at(self.acks[0][0], self._acked, self.context)

    def _acked(self) -> None:
        self.ack_timer = None
        self._flush()

    def _flush(self) -> None:
        """Sends of what waits as much as the peer has room for."""
        if not self.outbox or self.broken:
            return
        room = self._room()
        before = self.outbox_size
        while self.outbox and room > 0:
            data = self.outbox.popleft()
            if len(data) > room:
                self.outbox.appendleft(data[room:])
                data = data[:room]
            self.outbox_size -= len(data)
            room -= len(data)
            self._launch(data)
        if self.outbox:
            self._await_ack()
        elif self.finishing:
            self._put(FIN, self.net.time() + self.link.delay())
        if self.outbox_size < before and self.user is not None:
            self.user.drained()

    # The end of it

    def close(self, *, reset: bool = False) -> None:
        """The application closes its socket. Unread data makes that a reset, as on Linux: the peer learns that what
        it had sent was lost."""
        if self.closed:
            return
        self.closed = True
        self.user = None
        if self.broken:
            self.net.forget(self)
            return
        self.net.count("close", self)
        if reset or self.inbox or self.outbox:
            self.drop()
            self.finishing = True
            self._put(RST, self.net.time() + self.link.delay())
        else:
            self.finish()
        self.inbox.clear()
        self.net.forget(self)

    def vanish(self) -> None:
        """Its host has lost power: nothing is said to the peer. Who used it here is told, so that its clean-up ends."""
        self.error = os_error(errno.ENETDOWN, f"host {self.host.name!r} is down")
        self.closed = True
        self._forget()
        if self.user is not None:
            self.user.failed(True)


class SimSocket:
    """What ``transport.get_extra_info("socket")`` gives: names and options, no way to read or write.

    ``fileno()`` is of a real socket that is readable just when the simulated one is (httpcore polls it before it uses a
    connection again); it exists only once somebody asks for it.
    """

    def __init__(
        self,
        local: Address,
        remote: Address | None,
        *,
        kind: socket.SocketKind = socket.SOCK_STREAM,
        end: End | None = None,
    ) -> None:
        self.family = (
            socket.AF_UNIX if isinstance(local, str) else socket.AF_INET6 if ":" in local[0] else socket.AF_INET
        )
        self.type = kind
        self.proto = (
            0 if isinstance(local, str) else socket.IPPROTO_TCP if kind is socket.SOCK_STREAM else socket.IPPROTO_UDP
        )
        self._local = local
        self._remote = remote
        self._end = end
        self._options: dict[tuple[int, int], Any] = {}
        self._pair: tuple[socket.socket, socket.socket] | None = None
        self._signalled = False
        self._closed = False

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        peer = "" if self._remote is None else f" > {self._remote}"
        return f"<SimSocket {self._local}{peer}{state}>"

    def getsockname(self) -> Any:
        return self._local

    def getpeername(self) -> Any:
        if self._remote is None:
            raise os_error(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self._remote

    def setsockopt(self, level: int, option: int, value: Any, length: int | None = None) -> None:
        """Remembered, and without effect on what is simulated."""
        del length
        self._options[level, option] = value

    def getsockopt(self, level: int, option: int, size: int = 0) -> Any:
        del size
        if (level, option) == (socket.SOL_SOCKET, socket.SO_TYPE):
            return int(self.type)
        return self._options.get((level, option), 0)

    def gettimeout(self) -> float:
        return 0.0

    def setblocking(self, flag: bool) -> None:
        if flag:
            raise ValueError("a simulated socket cannot block")

    def fileno(self) -> int:
        if self._closed or self._end is None:
            return -1
        if self._pair is None:
            self._pair = socket.socketpair()
            self._pair[0].setblocking(False)
        self.refresh()
        return self._pair[0].fileno()

    def refresh(self) -> None:
        """Makes the real socket as readable as the simulated one."""
        if self._pair is None or self._end is None:
            return
        ready = bool(self._end.inbox or self._end.eof or self._end.error)
        if ready and not self._signalled:
            self._pair[1].send(b"\0")
        elif self._signalled and not ready:
            self._pair[0].recv(1)
        self._signalled = ready

    def dispose(self) -> None:
        self._closed = True
        self._end = None
        for one in self._pair or ():
            one.close()
        self._pair = None


class StreamTransport(transports._FlowControlMixin, asyncio.Transport):
    """One side of a simulated connection, for a protocol; behaves as asyncio's own socket transport does."""

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.FALLBACK

    _loop: Any

    def __init__(
        self,
        end: End,
        protocol: asyncio.BaseProtocol,
        *,
        waiter: asyncio.Future[None] | None = None,
        server: Server | None = None,
        sock: socket.socket | None = None,
    ) -> None:
        self._sock = SimSocket(end.local, end.remote, end=end)
        extra = {"socket": self._sock, "sockname": self._sock.getsockname(), "peername": self._sock.getpeername()}
        super().__init__(extra, end.net.loop)
        self._end = end
        self._real = sock  # the socket that aiohappyeyeballs and the like have made
        self._server = server
        self._begun = self._closing = self._paused = self._eof = self._eof_given = self._pumping = False
        self._loopwright_made: Any = None  # the line that asked for it, for the leak checks
        self._lost = 0
        self._next_read = 0.0
        self._empty_waiter: asyncio.Future[None] | None = None
        self._protocol: Any = None
        self._buffered = False
        self.set_protocol(protocol)
        if server is not None:
            server._attach(self)
        end.user = self
        self._loop.call_soon(self._begin, waiter, context=end.context)

    def __repr__(self) -> str:
        state = "closed" if self._end.closed else "closing" if self._closing else "open"
        return f"<StreamTransport {self._end.label} {state}>"

    def _begin(self, waiter: asyncio.Future[None] | None) -> None:
        # One callback for all three, so that no order of callbacks lets data overtake connection_made().
        try:
            self._protocol.connection_made(self)
        finally:
            self._begun = True
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
            self.readable()

    # What the kernel says

    def readable(self) -> None:
        if self._sock._pair is not None:
            self._sock.refresh()
        if not self._pumping:
            self._pump()

    def failed(self, writing: bool) -> None:
        """The connection is broken; who does not read learns of it only by writing."""
        if writing or self._closing:
            error = self._end.error
            assert error is not None
            self._fatal_error(error, "Fatal write error on simulated transport")
        else:
            self.readable()

    def drained(self) -> None:
        if self._lost:
            return
        self._maybe_resume_protocol()  # type: ignore[attr-defined]
        if not self._end.outbox:
            if self._empty_waiter is not None:
                self._empty_waiter.set_result(None)
            if self._closing:
                self._lost += 1
                self._call_connection_lost(None)

    def _soon(self) -> None:
        self._pumping = True
        self._loop.call_soon(self._pump, context=self._end.context)

    def _pump(self) -> None:
        """Hands one piece of what has come to the protocol. One a turn, as a selector does."""
        self._pumping = False
        end = self._end
        if self._paused or self._closing or not self._begun or self._eof_given or end.host.frozen:
            return
        if end.inbox:
            limit, rate = MAX_READ, end.host.read_rate
            if rate != math.inf:
                now = end.net.time()
                if now < self._next_read - TICK:
                    self._pumping = True
                    end.net.call_at(self._next_read, self._pump, end.context)
                    return
                limit = max(1, int(rate / 10))
                self._next_read = now + min(limit, end.inbox_size) / rate
            if not self._deliver(limit):
                return
            if end.inbox or end.eof or end.error is not None:
                self._soon()
        elif end.error is not None:
            self._fatal_error(end.error, "Fatal read error on simulated transport")
        elif end.eof:
            self._eof_given = True
            try:
                keep_open = self._protocol.eof_received()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self._fatal_error(error, "Fatal error: protocol.eof_received() call failed.")
                return
            if not keep_open:
                self.close()

    def _deliver(self, limit: int) -> bool:
        call = "data_received"
        try:
            if self._buffered:
                call = "get_buffer"
                buffer = self._protocol.get_buffer(-1)
                if not len(buffer):
                    raise RuntimeError("get_buffer() returned an empty buffer")
                data = self._end.take(min(limit, len(buffer)))
                buffer[: len(data)] = data
                call = "buffer_updated"
                self._protocol.buffer_updated(len(data))
            else:
                self._protocol.data_received(self._end.take(limit))
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._fatal_error(error, f"Fatal error: protocol.{call}() call failed.")
            return False
        if self._sock._pair is not None:
            self._sock.refresh()
        return True

    # What the protocol may ask

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        self._buffered = isinstance(protocol, asyncio.BufferedProtocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol  # type: ignore[no-any-return]

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._closing and not self._paused

    def pause_reading(self) -> None:
        if self.is_reading():
            self._paused = True

    def resume_reading(self) -> None:
        if self._closing or not self._paused:
            return
        self._paused = False
        if not self._pumping:
            self._soon()

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._empty_waiter is not None:
            raise RuntimeError("unable to write; sendfile is in progress")
        if not data:
            return
        if self._lost:
            if self._lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning("socket.send() raised exception.")
            self._lost += 1
            return
        end = self._end
        if end.error is not None:
            self._fatal_error(end.error, "Fatal write error on simulated transport")
            return
        end.send(data if type(data) is bytes else bytes(data))
        if end.outbox:
            self._maybe_pause_protocol()  # type: ignore[attr-defined]

    def writelines(self, list_of_data: Any) -> None:
        if self._eof:
            raise RuntimeError("Cannot call writelines() after write_eof()")
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        if self._closing or self._eof:
            return
        self._eof = True
        self._end.finish()

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self._end.outbox_size

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if not self._end.outbox:
            self._lost += 1
            self._loop.call_soon(self._call_connection_lost, None, context=self._end.context)

    def abort(self) -> None:
        self._force_close(None)

    def _fatal_error(self, error: BaseException, message: str) -> None:
        if not isinstance(error, OSError):
            self._loop.call_exception_handler(
                {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
            )
        self._force_close(error)

    def _force_close(self, error: BaseException | None) -> None:
        if self._lost:
            return
        self._closing = True
        self._lost += 1
        self._end.drop()
        self._loop.call_soon(self._call_connection_lost, error, context=self._end.context)

    def _call_connection_lost(self, error: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._end.close()
            self._sock.dispose()
            if self._real is not None:
                self._real.close()
            if self._server is not None:
                self._server._detach(self)
                self._server = None
            if self._empty_waiter is not None and not self._empty_waiter.done():
                self._empty_waiter.set_exception(ConnectionError("Connection is closed by peer"))

    # For loop.sendfile()

    def _make_empty_waiter(self) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._empty_waiter = waiter
        if not self._end.outbox:
            waiter.set_result(None)
        return waiter

    def _reset_empty_waiter(self) -> None:
        self._empty_waiter = None


class Reader:
    """What ``loop.sock_recv()`` and ``loop.sock_sendall()`` wait with: an end without a transport."""

    def __init__(self, end: End) -> None:
        self.end = end
        self.collected: weakref.finalize[..., Any] | None = None
        self._waiters: deque[asyncio.Future[None]] = deque()
        end.user = self

    def readable(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    drained = readable

    def failed(self, writing: bool) -> None:
        del writing
        self.readable()

    async def wait(self) -> None:
        waiter: asyncio.Future[None] = self.end.net.loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._waiters.remove(waiter)

    async def recv(self, size: int) -> bytes:
        end = self.end
        while not end.inbox or end.host.frozen:
            if end.error is not None:
                raise end.error
            if end.eof:
                return b""
            await self.wait()
        return end.take(size)

    async def sendall(self, data: bytes) -> None:
        end = self.end
        if end.error is not None:
            raise end.error
        end.send(data)
        try:
            while end.outbox:
                await self.wait()
        except asyncio.CancelledError:
            end.drop()  # how much was sent is unknown, as with a kernel
            raise
        if end.error is not None:
            raise end.error


class _Tied:
    """What a real, unconnected socket becomes that stands for one side of a simulated connection.

    ``loop.sock_connect()`` makes it of the socket it was given, in place: who made that keeps it, and closes it.
    """

    __slots__ = ()

    def close(self: Any) -> None:
        end = untie(self)
        if end is not None:
            end.close()
        super().close()  # type: ignore[misc]

    def shutdown(self: Any, how: int) -> None:
        if self not in _readers:
            super().shutdown(how)  # type: ignore[misc]
        elif how != socket.SHUT_RD:
            _readers[self].end.finish()

    def getsockname(self: Any) -> Any:
        return _readers[self].end.local if self in _readers else super().getsockname()  # type: ignore[misc]

    def getpeername(self: Any) -> Any:
        return _readers[self].end.remote if self in _readers else super().getpeername()  # type: ignore[misc]


@functools.cache
def _tied(kind: type[socket.socket]) -> type[socket.socket]:
    made: Any = type(kind.__name__, (_Tied, kind), {"__slots__": (), "__module__": kind.__module__})
    return made  # type: ignore[no-any-return]


_readers: weakref.WeakKeyDictionary[socket.socket, Reader] = weakref.WeakKeyDictionary()


def tie(sock: socket.socket, end: End) -> None:
    """From now on the socket stands for the end of a connection."""
    if sock.fileno() == -1:
        end.close()
        raise os_error(errno.EBADF, os.strerror(errno.EBADF))
    if not isinstance(sock, _Tied):
        sock.__class__ = _tied(type(sock))  # type: ignore[arg-type]
    reader = _readers[sock] = Reader(end)
    reader.collected = weakref.finalize(sock, end.close)


def reader_of(sock: socket.socket) -> Reader | None:
    """What reads and writes for a socket that stands for a simulated connection; None for any other."""
    return _readers.get(sock)


def untie(sock: socket.socket) -> End | None:
    """The socket stands for nothing any more; returns what it stood for."""
    reader = _readers.pop(sock, None)
    if reader is None:
        return None
    if reader.collected is not None:
        reader.collected.detach()
    return reader.end


class Listener:
    """A port that somebody listens on."""

    def __init__(self, host: Host, address: str, port: int | str, server: Server) -> None:
        self.host = host
        self.address = address
        self.port = port
        self.server = server
        self.sock = SimSocket((address, port) if isinstance(port, int) else port, None)
        self.waiting: deque[End] = deque()
        self.closed = False

    @property
    def full(self) -> bool:
        return len(self.waiting) >= self.server.backlog

    def arrived(self, end: End) -> None:
        self.waiting.append(end)
        self.accept()

    def accept(self) -> None:
        while self.waiting and self.server._serving and not self.host.frozen:
            end = self.waiting.popleft()
            end.listener = None
            end.net.loop.call_soon(self.server._accept, end, context=end.context)


class Server(asyncio.AbstractServer):
    """What ``loop.create_server()`` gives; behaves as the ``asyncio.Server`` of the running interpreter."""

    def __init__(  # noqa: PLR0913 (only the network calls it)
        self,
        net: SimNet,
        host: Host,
        factory: Callable[[], asyncio.BaseProtocol],
        *,
        ssl: ssl_module.SSLContext | None,
        backlog: int,
        tls: dict[str, Any],
        adopted: socket.socket | None = None,
    ) -> None:
        self._net = net
        self._host = host
        self._factory = factory
        self._ssl = ssl
        self._tls = tls
        self._adopted = adopted
        self._loopwright_made: Any = None  # the line that asked for it, for the leak checks
        self.backlog = max(1, backlog)
        self.context = contextvars.copy_context()
        self._listeners: list[Listener] | None = []
        self._clients: dict[StreamTransport, None] = {}
        self._waiters: list[asyncio.Future[None]] | None = []
        self._serving = False
        self._forever: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Server host={self._host.name} sockets={self.sockets!r}>"

    def _accept(self, end: End) -> None:
        if not self._serving:
            end.close(reset=True)
            return
        waiter: asyncio.Future[None] = self._net.loop.create_future()
        waiter.add_done_callback(self._accepted)
        try:
            wrap(end, self._factory(), waiter, server=self, ssl=self._ssl, tls=self._tls)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            end.close(reset=True)
            self._report(error)

    def _accepted(self, waiter: asyncio.Future[None]) -> None:
        if not waiter.cancelled() and (error := waiter.exception()) is not None:
            self._report(error)

    def _report(self, error: BaseException) -> None:
        # As asyncio: a client that breaks off its handshake is no error of the server's, unless one looks for it.
        if self._net.loop.get_debug():
            message = "Error on transport creation for incoming connection"
            self._net.loop.call_exception_handler({"message": message, "exception": error})

    def _attach(self, transport: StreamTransport) -> None:
        self._clients[transport] = None

    def _detach(self, transport: StreamTransport) -> None:
        self._clients.pop(transport, None)
        if not self._clients and self._listeners is None:
            self._wakeup()

    def _wakeup(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def _start(self) -> None:
        self._serving = True
        for listener in self._listeners or ():
            listener.accept()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._net.loop  # type: ignore[no-any-return]

    def is_serving(self) -> bool:
        return self._serving

    @property
    def sockets(self) -> tuple[SimSocket, ...]:
        return tuple(listener.sock for listener in self._listeners or ())

    def close(self) -> None:
        listeners, self._listeners = self._listeners, None
        if listeners is None:
            return
        self._serving = False
        for listener in listeners:
            self._net.unlisten(listener)
            for end in listener.waiting:
                end.close(reset=True)
        if self._adopted is not None:
            self._adopted.close()
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()
            self._forever = None
        if not self._clients:
            self._wakeup()

    def close_clients(self) -> None:
        for transport in list(self._clients):
            transport.close()

    def abort_clients(self) -> None:
        for transport in list(self._clients):
            transport.abort()

    async def start_serving(self) -> None:
        self._start()
        await asyncio.sleep(0)

    async def serve_forever(self) -> None:
        if self._forever is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if self._listeners is None:
            raise RuntimeError(f"server {self!r} is closed")
        self._start()
        self._forever = self._net.loop.create_future()
        try:
            await self._forever
        except asyncio.CancelledError:
            try:
                self.close()
                await self.wait_closed()
            finally:
                raise
        finally:
            self._forever = None

    async def wait_closed(self) -> None:
        if self._waiters is None or (sys.version_info < (3, 12) and self._listeners is None):
            return  # before 3.12 a closed server was not waited for
        waiter: asyncio.Future[None] = self._net.loop.create_future()
        self._waiters.append(waiter)
        await waiter


def wrap(  # noqa: PLR0913 (what create_connection() and create_server() were given)
    end: End,
    protocol: asyncio.BaseProtocol,
    waiter: asyncio.Future[None],
    *,
    server: Server | None = None,
    ssl: ssl_module.SSLContext | bool | None = None,
    server_hostname: str | None = None,
    tls: dict[str, Any] | None = None,
    sock: socket.socket | None = None,
) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
    """A transport for the end of a connection; with ``ssl``, asyncio's own TLS over it."""
    if not ssl:
        return StreamTransport(end, protocol, waiter=waiter, server=server, sock=sock), protocol
    context: Any = None if ssl is True else ssl  # None: asyncio makes the default one
    layer: Any = sslproto.SSLProtocol(
        end.net.loop, protocol, context, waiter, server is not None, server_hostname, **(tls or {})
    )
    StreamTransport(end, layer, server=server, sock=sock)
    transport: asyncio.Transport = layer._app_transport
    return transport, protocol


class Datagrams(transports._FlowControlMixin, asyncio.DatagramTransport):
    """A simulated UDP socket: each datagram arrives whole, or not at all, or late, or twice."""

    _loop: Any

    def __init__(  # noqa: PLR0913 (only the network calls it)
        self,
        net: SimNet,
        host: Host,
        protocol: Any,
        *,
        local: tuple[Any, ...],
        remote: Address | None,
        waiter: asyncio.Future[None],
    ) -> None:
        self._sock = SimSocket(local, remote, kind=socket.SOCK_DGRAM)
        extra = {"socket": self._sock, "sockname": local, "peername": remote}
        super().__init__(extra, net.loop)
        self._net = net
        self.host = host
        self._protocol = protocol
        self.local = local
        self._remote = remote
        self._closing = False
        self._begun = False
        self._early: list[tuple[bytes, Address]] = []
        self.context = contextvars.copy_context()
        self._loop.call_soon(self._begin, waiter, context=self.context)

    def __repr__(self) -> str:
        return f"<Datagrams {self.local} on {self.host.name}{' closed' if self._closing else ''}>"

    def _begin(self, waiter: asyncio.Future[None]) -> None:
        try:
            self._protocol.connection_made(self)
        finally:
            self._begun = True
            if not waiter.done():
                waiter.set_result(None)
            self.catch_up()

    def catch_up(self) -> None:
        """Hands over what came before the protocol could take it."""
        early, self._early = self._early, []
        for data, address in early:
            self.receive(data, address)

    def receive(self, data: bytes, address: Address) -> None:
        if self._closing or (self._remote is not None and address[:2] != self._remote[:2]):
            return
        if not self._begun or self.host.frozen:
            self._early.append((data, address))
            return
        self._net.count("datagram", None, len(data))
        try:
            self._protocol.datagram_received(data, address)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._fatal_error(error)

    def refused(self) -> None:
        """Nobody listens there: only a connected socket is told."""
        if not self._closing and self._remote is not None:
            self._protocol.error_received(ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)))

    def sendto(self, data: bytes | bytearray | memoryview[Any], addr: Any = None) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._remote is not None:
            if addr is not None and addr[:2] != self._remote[:2]:
                raise ValueError(f"Invalid address: must be None or {self._remote}")
            addr = self._remote
        if addr is None:
            raise ValueError("this endpoint is not connected: sendto() needs an address")
        if self._closing:
            return
        if len(data) > MAX_DATAGRAM:
            self._protocol.error_received(os_error(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE)))
            return
        self._net.send_datagram(self.host, self, bytes(data), addr)

    def get_write_buffer_size(self) -> int:
        return 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol  # type: ignore[no-any-return]

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._end(None)

    def abort(self) -> None:
        self._end(None)

    def _fatal_error(self, error: BaseException) -> None:
        message = "Fatal error: protocol.datagram_received() call failed."
        self._loop.call_exception_handler(
            {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
        )
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        if self._closing:
            return
        self._closing = True
        self._net.unbind(self.host, self)
        self._loop.call_soon(self._protocol.connection_lost, error, context=self.context)
