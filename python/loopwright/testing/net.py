"""A simulated network: hosts, names, latency, loss, partitions, crashes; seeded, and on the loop's own time.

Programs run on it as they are: what asks the loop for a connection, a server, a datagram endpoint or an address
(``asyncio.open_connection``, aiohttp, httpx, uvicorn, database drivers) gets a simulated one. No packet leaves the
process, and on a loop with virtual time an hour costs as long as its events::

    async def main() -> None:
        async with SimNet(seed=1, latency=0.02) as net:
            net.host("db1").run(database)
            net.at(10.0, net.partition, "db1")
            net.at(40.0, net.heal)
            await client("db1")

    loopwright.testing.run(main)

Here live the network that a test sees and its faults. How bytes travel is in ``_wire.py``.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import gc
import ipaddress
import itertools
import math
import os
import random
import socket
import ssl as ssl_module
import sys
import warnings
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, TypeVar

from loopwright.testing._wire import (
    OPEN,
    TICK,
    Address,
    Datagrams,
    End,
    Latency,
    Link,
    Listener,
    Server,
    StreamTransport,
    os_error,
    reader_of,
    tie,
    untie,
    wrap,
)
from loopwright.testing._wraps import caller

__all__ = ["Host", "NetEvent", "NetStats", "SimNet", "exponential", "normal", "uniform"]

T = TypeVar("T")
Hosts = str | Iterable[str] | None
"""One host's name, several, or None for every host."""

SYN_RETRY: Final = 1.0
"""The pause before the first repetition of an unanswered connect; it doubles, as on Linux."""

MAIN: Final = "main"
"""The host of everything that runs on none by name: the test itself."""

ANY: Final = "0.0.0.0"
LOOPBACK: Final = ("127.0.0.1", "::1")

CLOSING: Final = 1.0
"""Seconds that the programs of hosts get to say good-bye when the network is closed."""

METHODS: Final = (
    "create_connection",
    "create_server",
    "create_unix_connection",
    "create_unix_server",
    "create_datagram_endpoint",
    "getaddrinfo",
    "getnameinfo",
    "sock_connect",
    "sock_recv",
    "sock_recv_into",
    "sock_sendall",
    "sock_sendfile",
)
"""What the network answers in the loop's place."""


def uniform(low: float, high: float) -> Callable[[random.Random], float]:
    """A latency between ``low`` and ``high`` seconds, all equally likely."""
    return lambda source: source.uniform(low, high)


def normal(mean: float, deviation: float) -> Callable[[random.Random], float]:
    """A latency in seconds around ``mean``; never negative."""
    return lambda source: max(0.0, source.gauss(mean, deviation))


def exponential(least: float, mean: float) -> Callable[[random.Random], float]:
    """A latency of ``least`` seconds and, on average, ``mean`` more: mostly short, now and then long."""
    return lambda source: least + source.expovariate(1 / mean)


@dataclass(frozen=True, slots=True)
class NetEvent:
    """One thing that happened: at ``time``, between whom, and what."""

    time: float
    what: str
    where: str
    size: int | None = None

    def __str__(self) -> str:
        size = "" if self.size is None else f" {self.size} B"
        return f"{self.time:10.3f}  {self.what:<11} {self.where}{size}".rstrip()


@dataclass(frozen=True, slots=True)
class NetStats:
    """What a :class:`SimNet` has counted so far."""

    connects: int
    """Connections that were made."""
    refused: int
    """Connects that were answered by a reset: nobody listened."""
    connect_timeouts: int
    """Connects that nobody answered."""
    connections: int
    """Ends of connections that are open now: two for a healthy one."""
    bytes: int
    """Bytes that arrived over connections."""
    resets: int
    """Resets that reached an end."""
    lost: int
    """Packets of connections that were lost and sent again."""
    stalls: int
    """Times that a connection had bytes to send and no path."""
    given_up: int
    """Connections that timed out sending."""
    datagrams: int
    """Datagrams that arrived."""
    datagrams_lost: int
    """Datagrams that did not."""
    lookups: int
    """Names looked up."""


class Host:
    """A machine on a :class:`SimNet`; made by :meth:`SimNet.host`.

    What runs "on" it has its address: tasks started by :meth:`run` and :meth:`spawn`, all that they start, and the
    block of ``with net.host("db1"):``. A host goes with the context (``contextvars``), as a request id does.
    """

    def __init__(self, net: SimNet, name: str, address: str, window: int) -> None:
        self.net = net
        self.name = name
        self.address = address
        self.up = True
        """False from a crash until the restart."""
        self.window = window
        """Bytes that a connection's reader may be behind before its sender has to wait."""
        self.read_rate = math.inf
        """Bytes a second that each connection reads here."""
        self.frozen = False
        self.generation = 0  # counts the crashes: what ran before one is on no network any more
        self._programs: list[tuple[Callable[..., Coroutine[Any, Any, Any]], tuple[Any, ...]]] = []
        self._listeners: dict[int | str, list[Listener]] = {}
        self._datagrams: dict[int, list[Datagrams]] = {}
        self._ports = itertools.count()

    def __repr__(self) -> str:
        state = "down" if not self.up else "frozen" if self.frozen else "up"
        return f"<Host {self.name} {self.address} {state}>"

    def __enter__(self) -> Host:
        _here.set(_Here(self, self.generation, _here.get()))
        return self

    def __exit__(self, *_: object) -> None:
        here = _here.get()
        _here.set(here and here.outer)

    def run(self, main: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> asyncio.Task[T]:
        """Starts ``main(*args)`` on this host, now and after each restart.

        Returns its task. A crash cancels it, so who awaits the task directly gets a ``CancelledError`` then.
        """
        self._programs.append((main, args))
        return self.spawn(main, *args)

    def spawn(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> asyncio.Task[T]:
        """Starts ``function(*args)`` on this host, once."""
        if not self.up:
            raise RuntimeError(f"host {self.name!r} is down: net.restart({self.name!r}) first")
        context = contextvars.copy_context()
        context.run(_here.set, _Here(self, self.generation, None))
        loop = self.net.loop
        # Named by the host, so that a report says which machine a task was on.
        task: asyncio.Task[T] = loop.create_task(
            context.run(function, *args), name=f"{self.name}:{getattr(function, '__name__', 'task')}", context=context
        )
        self.net._programs.add(task)
        task.add_done_callback(self.net._programs.discard)
        return task

    def _boot(self) -> None:
        for main, args in self._programs:
            self.spawn(main, *args)

    def _port(self, taken: dict[Any, Any]) -> int:
        for _ in range(16_384):
            port = 49_152 + next(self._ports) % 16_384
            if port not in taken:
                return port
        raise os_error(errno.EADDRINUSE, f"all dynamic ports of host {self.name!r} are in use")


@dataclass(frozen=True, slots=True)
class _Here:
    """Where the running code is."""

    host: Host
    generation: int
    outer: _Here | None


_here: contextvars.ContextVar[_Here | None] = contextvars.ContextVar("loopwright_host", default=None)


@dataclass(slots=True)
class _Name:
    """What the name service knows of one name."""

    hosts: list[str]
    rotate: bool = True
    latency: Latency | None = None
    failure: str | None = None
    asked: int = 0


FAILURES: Final = {
    "temporary": (socket.EAI_AGAIN, "Temporary failure in name resolution"),
    "timeout": (socket.EAI_AGAIN, "Temporary failure in name resolution"),
    "unknown": (socket.EAI_NONAME, "Name or service not known"),
}
DNS_TIMEOUT: Final = 10.0
"""How long a lookup waits for a server that does not answer: two tries of 5 s, resolv.conf's default."""


class SimNet:
    """A network of simulated hosts, in place of the real one, for one loop.

    Use it as ``async with SimNet(...) as net:``, or :meth:`install` it on a loop before it runs. While it is on, each
    connection, server, datagram endpoint and name lookup of that loop is simulated, and the real network cannot be
    reached. Sockets that were connected before (pipes, ``socketpair``) keep working.

    The same seed, program and schedule give the same events at the same times: latencies and losses are drawn from a
    generator per link. Times are seconds of the loop's clock since the network was installed.

    Links start with the values given here; :meth:`link` changes some of them. A host reaches itself without delay.

    Args:
        seed: of everything that is drawn at random.
        latency: seconds a packet takes one way: a number, :func:`uniform`, :func:`normal`, :func:`exponential`, or any
            function of a ``random.Random``.
        jitter: at most so many seconds more or less for each packet.
        loss: the share of packets that are lost. A connection sends again, after 0.2 s, 0.4 s and so on; a datagram is
            gone.
        bandwidth: bytes a second; None is without limit.
        duplicate: the share of datagrams that arrive twice.
        fragment: the share of writes that are read in two pieces: for parsers that take one write for one read.
        window: bytes that a reader may be behind before the sender has to wait (see ``pause_writing``).
        connect_timeout: seconds until a connect that nobody answers fails; Linux's 127.
        give_up: seconds until a connection with unacknowledged bytes fails; Linux's 924.6. That long does a request to
            a host without power wait when the program sets no timeout.
        dns_latency: seconds that a lookup takes.
        trace: how many events to keep; the oldest go first. 0 keeps none.
    """

    def __init__(  # noqa: PLR0913 (each is a choice of its own)
        self,
        *,
        seed: int = 0,
        latency: Latency = 0.001,
        jitter: float = 0.0,
        loss: float = 0.0,
        bandwidth: float | None = None,
        duplicate: float = 0.0,
        fragment: float = 0.0,
        window: int = 256 * 1024,
        connect_timeout: float = 127.0,
        give_up: float = 924.6,
        dns_latency: Latency = 0.0,
        trace: int = 10_000,
    ) -> None:
        if window < 1:
            raise ValueError(f"window is {window}: without room for at least one byte nothing can be sent")
        self.seed = seed
        self.window = window
        self.connect_timeout = connect_timeout
        self.give_up = give_up
        self.dns_latency = dns_latency
        self.loop: Any = None
        """The loop it was installed on; None before."""
        self._on = False
        self._before: dict[str, Any] = {}  # what somebody else had put on the loop
        self._base = _checked(
            latency=latency, jitter=jitter, loss=loss, bandwidth=bandwidth, duplicate=duplicate, fragment=fragment
        )
        self._rules: list[tuple[frozenset[str] | None, frozenset[str] | None, dict[str, Any]]] = []
        self._cuts: list[tuple[frozenset[str] | None, frozenset[str] | None, bool]] = []
        self._links: dict[tuple[str, str], Link] = {}
        self._hosts: dict[str, Host] = {}
        self._addresses: dict[str, Host] = {}
        self._numbers = itertools.count(1)
        self._names: dict[str, _Name] = {}
        self._dns_random = random.Random(f"{seed}/dns")
        self._ends: dict[End, None] = {}
        self._programs: set[asyncio.Task[Any]] = set()  # asyncio itself keeps tasks weakly
        self._script: list[tuple[float, Callable[..., object], tuple[Any, ...], dict[str, Any]]] = []
        self._timers: list[asyncio.TimerHandle] = []
        self._counts: Counter[str] = Counter()
        self._sizes: Counter[str] = Counter()
        self._log: deque[tuple[float, str, Any, int | None]] | None = deque(maxlen=trace) if trace else None
        self._began = 0.0
        self.host(MAIN)

    def __repr__(self) -> str:
        return f"<SimNet seed={self.seed} hosts={len(self._hosts)} open={len(self._ends)}>"

    # On and off

    def install(self, loop: asyncio.AbstractEventLoop | None = None) -> SimNet:
        """Takes the place of the real network on a loop, the running one if none is named."""
        loop = asyncio.get_running_loop() if loop is None else loop
        if self.loop is not None:
            raise RuntimeError(f"{self!r} was installed before, on {self.loop!r}: make a new one for each run")
        if isinstance(getattr(loop, "net", None), SimNet):
            raise RuntimeError(f"{loop!r} already has a network: uninstall() it first")
        self.loop = loop
        self._on = True
        self._began = loop.time()
        self.time: Callable[[], float] = loop.time
        # On the instance, so that no class and no other loop is touched.
        self._before = {name: vars(loop)[name] for name in METHODS if name in vars(loop)}
        for name in METHODS:
            setattr(loop, name, getattr(self, name))
        setattr(loop, "net", self)  # noqa: B010
        for when, function, args, keywords in self._script:
            self._schedule(when, function, args, keywords)
        self._script.clear()
        return self

    def uninstall(self) -> None:
        """Gives the loop its own network back, and breaks off what is still open: a ``ResourceWarning`` names what the
        test itself has left open. Programs of hosts are left alone: :meth:`aclose` ends them first.
        """
        if not self._on:
            return
        self._on = False
        for name in (*METHODS, "net"):
            delattr(self.loop, name)
        vars(self.loop).update(self._before)
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._warn_of_what_is_open()
        for host in self._hosts.values():
            for listener in [listener for listeners in host._listeners.values() for listener in listeners]:
                listener.server.close()
            for datagrams in [one for several in host._datagrams.values() for one in several]:
                datagrams.abort()
        for end in list(self._ends):
            end.vanish()

    def _warn_of_what_is_open(self) -> None:
        """What the test itself left open is a leak, as it would be on a real network; the leak checks hear this."""
        for end in self._ends:
            if end.host.name == MAIN and isinstance(end.user, StreamTransport) and not end.user.is_closing():
                warnings.warn(f"unclosed transport {end.user!r}", ResourceWarning, stacklevel=3, source=end.user)
        listeners = itertools.chain.from_iterable(self._hosts[MAIN]._listeners.values())
        for server in dict.fromkeys(listener.server for listener in listeners):
            warnings.warn(f"unclosed server {server!r}", ResourceWarning, stacklevel=3, source=server)

    async def aclose(self) -> None:
        """Cancels all that still runs on the hosts, waits until it has ended, and uninstalls.

        An exception of a host's program stays in its task: retrieve it there, or asyncio reports it.
        """
        try:
            while left := [task for task, host in self._placed() if host.name != MAIN]:
                for task in left:
                    _end(task, "the simulated network was closed")
                _, late = await asyncio.wait(left, timeout=CLOSING)
                if late:  # a server waits for its clients
                    for end in [end for end in self._ends if end.host.name != MAIN]:
                        end.vanish()
                    await asyncio.wait(late)
        finally:
            self.uninstall()
        await asyncio.sleep(0)  # what was broken off is told

    async def __aenter__(self) -> SimNet:
        return self.install()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _original(self, name: str) -> Any:
        return self._before.get(name) or getattr(type(self.loop), name).__get__(self.loop)

    def call_at(self, when: float, callback: Callable[[], object], context: contextvars.Context) -> asyncio.TimerHandle:
        handle: asyncio.TimerHandle = self.loop.call_at(when, callback, context=context)
        return handle

    # Hosts

    def host(
        self,
        name: str,
        *,
        address: str | None = None,
        window: int | None = None,
        read_rate: float | None = None,
    ) -> Host:
        """The host of that name; made, with the next free address of 10.0.0.0/8, when it is first asked for.

        Args:
            name: also its name for ``getaddrinfo``.
            address: instead of the next free one; only for a new host.
            window: changes how many bytes its connections may be behind in reading.
            read_rate: changes how many bytes a second its connections read (a slow reader);
                ``math.inf`` is without limit.
        """
        host = self._hosts.get(name)
        if host is None:
            if address is None:
                number = next(self._numbers)
                address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
            if address in self._addresses:
                raise ValueError(f"{address} is the address of host {self._addresses[address].name!r} already")
            host = self._hosts[name] = self._addresses[address] = Host(self, name, address, self.window)
        elif address not in (None, host.address):
            raise ValueError(f"host {name!r} has the address {host.address} and keeps it")
        if window is not None:
            host.window = window
        if read_rate is not None:
            host.read_rate = read_rate
        return host

    def hosts(self) -> list[Host]:
        """All hosts, in the order they were made."""
        return list(self._hosts.values())

    def here(self) -> Host:
        """The host that the calling code runs on."""
        here = _here.get()
        if here is None or here.host.net is not self:
            return self._hosts[MAIN]
        return here.host

    def _alive(self) -> Host:
        """The host of the calling code, which must not have crashed since that code was started."""
        here = _here.get()
        host = self.here()
        if not host.up or (here is not None and here.host is host and here.generation != host.generation):
            raise os_error(errno.ENETDOWN, f"host {host.name!r} has crashed; what ran on it has no network any more")
        return host

    def _known(self, hosts: Hosts) -> frozenset[str] | None:
        if hosts is None:
            return None
        names = frozenset([hosts] if isinstance(hosts, str) else hosts)
        for name in sorted(names - self._hosts.keys()):
            raise ValueError(f"there is no host {name!r}; make it first: net.host({name!r})")
        return names

    # Links

    def link(self, a: Hosts, b: Hosts = None, *, one_way: bool = False, **changes: Any) -> None:
        """Changes what lies between hosts: ``latency``, ``jitter``, ``loss``, ``bandwidth``, ``duplicate``,
        ``fragment``, as in :class:`SimNet`. Holds at once, for open connections too.

        Args:
            a: a host, several, or None for all.
            b: likewise; None, the default, for all.
            one_way: only from ``a`` to ``b``.
            changes: the values to change.
        """
        changes = _checked(**changes)
        one, other = self._known(a), self._known(b)
        for source, target in [(one, other)] if one_way else [(one, other), (other, one)]:
            self._rules.append((source, target, changes))
            for names, link in self._links.items():
                if names[0] != names[1] and _matches(names, source, target):
                    link.configure(changes)

    def _link(self, source: Host, target: Host) -> Link:
        names = source.name, target.name
        link = self._links.get(names)
        if link is None:
            link = self._links[names] = Link(self, f"{names[0]}>{names[1]}")
            if source is not target:
                link.configure(self._base)
                for one, other, changes in self._rules:
                    if _matches(names, one, other):
                        link.configure(changes)
            link.down = self._is_down(names)
        return link

    def _is_down(self, names: tuple[str, str]) -> bool:
        if not (self._hosts[names[0]].up and self._hosts[names[1]].up):
            return True
        down = False
        if names[0] != names[1]:
            for one, other, cut in self._cuts:
                if _matches(names, one, other):
                    down = cut
        return down

    def _reroute(self) -> None:
        for names, link in self._links.items():
            link.down = self._is_down(names)
        for end in list(self._ends):
            end.probe()

    # Faults

    def partition(self, a: Hosts, b: Hosts = None, *, one_way: bool = False) -> None:
        """Lets nothing through between hosts: no data, no refusal, no reset. Connections stay open and silent.

        Args:
            a: a host, or several.
            b: likewise; None, the default, is all that are not in ``a``.
            one_way: only from ``a`` to ``b`` is cut; packets the other way arrive.
        """
        one, other = self._known(a), self._known(b)
        if other is None and one is not None:
            self._cut(one, frozenset(self._hosts.keys() - one), cut=True, one_way=one_way)
        else:
            self._cut(one, other, cut=True, one_way=one_way)
        self._note("partition", _sides(one, other, one_way=one_way))

    def heal(self, a: Hosts = None, b: Hosts = None) -> None:
        """Undoes :meth:`partition`: everywhere, or between these hosts."""
        one, other = self._known(a), self._known(b)
        if one is None and other is None:
            self._cuts.clear()
            self._reroute()
        else:
            self._cut(one, other, cut=False, one_way=False)
        self._note("heal", _sides(one, other))

    def _cut(self, a: frozenset[str] | None, b: frozenset[str] | None, *, cut: bool, one_way: bool) -> None:
        self._cuts.append((a, b, cut))
        if not one_way:
            self._cuts.append((b, a, cut))
        self._reroute()

    def crash(self, name: str, *, silent: bool = False) -> None:
        """The host's programs die: their tasks are cancelled, and whatever their clean-up does reaches nobody.

        Args:
            name: the host.
            silent: False: the process died, and the kernel says so: connections end or are reset, connects are refused.
                True: the power went: nothing is said; peers hear nothing any more, connects time out.
        """
        host = self._host(name)
        if not host.up or host.name == MAIN:
            raise RuntimeError(f"host {name!r} cannot crash: it is {'down' if not host.up else 'where the test runs'}")
        self._note("power cut" if silent else "crash", name)
        host.generation += 1
        ends = [end for end in self._ends if end.host is host]
        servers = [listener.server for listeners in host._listeners.values() for listener in listeners]
        for datagrams in [one for several in host._datagrams.values() for one in several]:
            datagrams.abort()
        if silent:
            host.up = False
            self._reroute()
        for end in ends:
            user = end.user
            if not silent:
                end.close()
                end.error = os_error(errno.ENETDOWN, f"host {name!r} has crashed")
                if user is not None:
                    user.failed(True)
            else:
                end.vanish()
        for server in servers:
            server.close()
        host.up = False
        for task, where in self._placed():
            if where is host:
                task.add_done_callback(_buried)
                _end(task, f"host {name!r} has crashed")

    def restart(self, name: str) -> None:
        """The host is up again, with its address, without its connections, and its programs run anew."""
        host = self._host(name)
        if host.up:
            raise RuntimeError(f"host {name!r} is up: only a host that has crashed can be restarted")
        self._note("restart", name)
        host.up = True
        host.frozen = False
        self._reroute()
        host._boot()

    def freeze(self, name: str) -> None:
        """The host's programs get nothing from the network until :meth:`thaw`: a long garbage collection, a stopped
        process. Its kernel goes on: connects succeed until the backlog is full, bytes arrive until the window is.
        """
        self._host(name).frozen = True
        self._note("freeze", name)

    def thaw(self, name: str) -> None:
        """Ends :meth:`freeze`: everything that has come meanwhile is handed over."""
        host = self._host(name)
        host.frozen = False
        self._note("thaw", name)
        for listeners in host._listeners.values():
            for listener in listeners:
                listener.accept()
        for datagrams in [one for several in host._datagrams.values() for one in several]:
            self.loop.call_soon(datagrams.catch_up, context=datagrams.context)
        for end in list(self._ends):
            if end.host is host and end.user is not None:
                self.loop.call_soon(end.user.readable, context=end.context)

    def reset(self, a: Hosts, b: Hosts = None) -> int:
        """Resets every open connection between hosts, as a firewall or load balancer does; returns how many."""
        ends = self._between(a, b)
        for end in ends:
            self._note("reset", end.label)
            error = ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            self.loop.call_soon(end.fail, error, context=end.context)
        return _pairs(ends)

    def half_open(self, a: Hosts, b: Hosts = None) -> int:
        """Lets every open connection between hosts go silent for good, without a word to either side, while new ones
        work: a NAT or a firewall that has forgotten them. Returns how many.
        """
        ends = self._between(a, b)
        for end in ends:
            self._note("half-open", end.label)
            end.void = end.peer.void = True
            end.probe()
            end.peer.probe()
        return _pairs(ends)

    def _between(self, a: Hosts, b: Hosts) -> list[End]:
        one, other = self._known(a), self._known(b)
        found = []
        for end in self._ends:
            names = end.host.name, end.peer.host.name
            if not end.broken and (_matches(names, one, other) or _matches(names[::-1], one, other)):
                found.append(end)
        return found

    def _host(self, name: str) -> Host:
        self._known(name)
        return self._hosts[name]

    def _placed(self) -> list[tuple[asyncio.Task[Any], Host]]:
        """The live tasks that were started on a host, in the order they were created where the loop knows it."""
        loop = self.loop
        tasks = loop.tasks() if hasattr(loop, "tasks") else sorted(asyncio.all_tasks(loop), key=_creation)
        found = []
        for task in tasks:
            here = _context_of(task).get(_here)
            if here is not None and here.host.net is self and not task.done():
                found.append((task, here.host))
        return found

    # Names

    def dns(
        self,
        name: str,
        *hosts: str,
        rotate: bool = True,
        latency: Latency | None = None,
        failure: str | None = None,
    ) -> None:
        """Sets what a name stands for; every host's own name is known without.

        Args:
            name: as given to ``getaddrinfo``.
            hosts: host names or addresses. With none, and the name not a host's, it is forgotten.
            rotate: each lookup starts one further in the list.
            latency: seconds that a lookup of this name takes.
            failure: None, ``"temporary"`` (EAI_AGAIN at once), ``"timeout"`` (after 10 s) or ``"unknown"``.
        """
        if failure is not None and failure not in FAILURES:
            raise ValueError(f"failure is {failure!r}; it can be None, {', '.join(map(repr, FAILURES))}")
        for host in hosts:
            if host not in self._hosts and not _is_address(host):
                raise ValueError(f"{name!r} cannot stand for {host!r}: there is no such host; net.host({host!r}) first")
        targets = list(hosts) or ([name] if name in self._hosts else [])
        if not targets and failure is None:
            self._names.pop(name, None)
        else:
            self._names[name] = _Name(targets, rotate, latency, failure)

    async def getaddrinfo(  # noqa: PLR0913 (the signature is asyncio's)
        self,
        host: str | bytes | None,
        port: str | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[tuple[Any, ...]]:
        """``loop.getaddrinfo``."""
        name = host.decode() if isinstance(host, bytes) else host
        number = 0 if port in (None, "") else int(port) if str(port).isdigit() else socket.getservbyname(str(port))
        addresses = await self._resolve(name, flags)
        found: list[tuple[Any, ...]] = []
        for address in addresses:
            kind = socket.AF_INET6 if ":" in address else socket.AF_INET
            if family in (0, kind):
                for style, protocol in (
                    (socket.SOCK_STREAM, socket.IPPROTO_TCP),
                    (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
                ):
                    if type in (0, style) and proto in (0, protocol):
                        where = (address, number) if kind is socket.AF_INET else (address, number, 0, 0)
                        found.append((kind, style, protocol, "", where))
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, f"{name!r} has no address of the family asked for")
        return found

    async def _resolve(self, name: str | None, flags: int) -> list[str]:
        if not name:
            return [ANY if flags & socket.AI_PASSIVE else "127.0.0.1"]
        if name == "localhost":
            return ["127.0.0.1"]
        if _is_address(name):
            return [name]
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(*FAILURES["unknown"])
        self._alive()
        self.count("lookup", name)
        entry = self._names.get(name)
        latency = self.dns_latency if entry is None or entry.latency is None else entry.latency
        delay = latency(self._dns_random) if callable(latency) else latency
        if entry is not None and entry.failure == "timeout":
            delay = DNS_TIMEOUT
        if delay > 0:
            await asyncio.sleep(delay)
        if entry is not None and entry.failure is not None:
            self._note("dns failure", name)
            code, text = FAILURES[entry.failure]
            raise socket.gaierror(code, text)
        if entry is None:
            if name not in self._hosts:
                self._note("dns failure", name)
                code, text = FAILURES["unknown"]
                raise socket.gaierror(
                    code, f"{text}: {name!r} is neither a host of this SimNet nor a name set by dns()"
                )
            return [self._hosts[name].address]
        start = entry.asked % len(entry.hosts) if entry.rotate else 0
        entry.asked += 1
        order = entry.hosts[start:] + entry.hosts[:start]
        return [self._hosts[host].address if host in self._hosts else host for host in order]

    async def getnameinfo(self, sockaddr: tuple[Any, ...], flags: int = 0) -> tuple[str, str]:
        """``loop.getnameinfo``."""
        host = self._addresses.get(sockaddr[0])
        if sockaddr[0] in LOOPBACK:
            return ("localhost" if not flags & socket.NI_NUMERICHOST else sockaddr[0]), str(sockaddr[1])
        return (host.name if host and not flags & socket.NI_NUMERICHOST else sockaddr[0]), str(sockaddr[1])

    # Connections

    async def create_connection(  # noqa: PLR0913 (the signature is asyncio's)
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int | None = None,
        *,
        ssl: ssl_module.SSLContext | bool | None = None,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        sock: socket.socket | None = None,
        local_addr: tuple[str, int] | None = None,
        server_hostname: str | None = None,
        **options: Any,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """``loop.create_connection``; addresses are tried one after the other, without Happy Eyeballs."""
        if server_hostname is not None and not ssl:
            raise ValueError("server_hostname is only meaningful with ssl")
        if ssl and server_hostname is None:
            if not host:
                raise ValueError("You must set server_hostname when using ssl without a host")
            server_hostname = host
        tls = _tls(options)
        if sock is not None:
            if host is not None or port is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            end = untie(sock)
            if end is None:  # connected elsewhere: a pipe, a socketpair
                original = self._original("create_connection")
                return await original(  # type: ignore[no-any-return]
                    protocol_factory, ssl=ssl, sock=sock, server_hostname=server_hostname, **tls
                )
            return await self._transport(
                end, protocol_factory, ssl=ssl, server_hostname=server_hostname, tls=tls, sock=sock
            )
        if host is None and port is None:
            raise ValueError("host and port was not specified and no sock specified")
        errors: list[OSError] = []
        found = await self.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, proto=proto, flags=flags)
        for *_, address in found:
            try:
                end = await self._connect(address, local_addr)
            except OSError as error:
                errors.append(error)
                continue
            return await self._transport(end, protocol_factory, ssl=ssl, server_hostname=server_hostname, tls=tls)
        if options.get("all_errors"):
            raise ExceptionGroup("create_connection failed", errors)
        if len(errors) == 1 or len({str(error) for error in errors}) == 1:
            raise errors[0]
        raise OSError(f"Multiple exceptions: {', '.join(map(str, errors))}")

    async def create_unix_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        path: str | os.PathLike[str] | None = None,
        *,
        ssl: ssl_module.SSLContext | bool | None = None,
        sock: socket.socket | None = None,
        server_hostname: str | None = None,
        **options: Any,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """``loop.create_unix_connection``: to a simulated server of the same host; no file is involved."""
        tls = _tls(options)
        if path is None:
            original = self._original("create_unix_connection")
            return await original(  # type: ignore[no-any-return]
                protocol_factory, path, ssl=ssl, sock=sock, server_hostname=server_hostname, **tls
            )
        if ssl and server_hostname is None:
            raise ValueError("you have to pass server_hostname when using ssl")
        end = await self._connect(os.fspath(path), None)
        return await self._transport(end, protocol_factory, ssl=ssl, server_hostname=server_hostname, tls=tls)

    async def _transport(  # noqa: PLR0913
        self,
        end: End,
        factory: Callable[[], asyncio.BaseProtocol],
        *,
        ssl: ssl_module.SSLContext | bool | None,
        server_hostname: str | None,
        tls: dict[str, Any],
        sock: socket.socket | None = None,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        waiter: asyncio.Future[None] = self.loop.create_future()
        try:
            transport, protocol = wrap(
                end, factory(), waiter, ssl=ssl, server_hostname=server_hostname, tls=tls, sock=sock
            )
            end.user._loopwright_made = caller()
        except BaseException:
            end.close()
            raise
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol

    async def _connect(self, address: Address, local_addr: tuple[str, int] | None) -> End:
        """The handshake: one latency there, one back."""
        host = self._alive()
        attempt = _Attempt(self, host, address, local_addr)
        try:
            return await attempt.done
        except asyncio.CancelledError:
            attempt.abandon()
            raise

    def _find(self, host: Host, address: Address) -> Host | None:
        if isinstance(address, str) or address[0] in LOOPBACK or address[0] == ANY:
            return host
        return self._addresses.get(address[0])

    # Servers

    async def create_server(  # noqa: PLR0913 (the signature is asyncio's)
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: ssl_module.SSLContext | None = None,
        reuse_port: bool | None = None,
        start_serving: bool = True,
        **options: Any,
    ) -> Server:
        """``loop.create_server``, on the host of the calling code.

        A real socket that is given lends its address; nothing is ever received on it.
        """
        here = self._alive()
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        if sock is not None:
            if sock.family not in (socket.AF_INET, socket.AF_INET6):
                original = self._original("create_server")
                return await original(  # type: ignore[no-any-return]
                    protocol_factory, sock=sock, backlog=backlog, ssl=ssl, start_serving=start_serving, **_tls(options)
                )
            where = [sock.getsockname()[:2]]
        else:
            hosts: Sequence[str | None] = [host] if host is None or isinstance(host, str) else host
            where = []
            for name in hosts:
                for *_, address in await self.getaddrinfo(
                    name or None, port or 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
                ):
                    where.append(address[:2])
        server = Server(self, here, protocol_factory, ssl=ssl, backlog=backlog, tls=_tls(options), adopted=sock)
        try:
            for ip, number in dict.fromkeys(where):
                self._listen(here, ip, number, server, share=bool(reuse_port))
        except BaseException:
            server.close()
            raise
        server._loopwright_made = caller()
        if start_serving:
            server._start()
            await asyncio.sleep(0)
        return server

    async def create_unix_server(  # noqa: PLR0913 (the signature is asyncio's)
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        path: str | os.PathLike[str] | None = None,
        *,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: ssl_module.SSLContext | None = None,
        start_serving: bool = True,
        **options: Any,
    ) -> Any:
        """``loop.create_unix_server``: the path is a name on this host, not a file."""
        if path is None:
            original = self._original("create_unix_server")
            return await original(
                protocol_factory, path, sock=sock, backlog=backlog, ssl=ssl, start_serving=start_serving, **options
            )
        if sock is not None:
            raise ValueError("path and sock can not be specified at the same time")
        here = self._alive()
        server = Server(self, here, protocol_factory, ssl=ssl, backlog=backlog, tls=_tls(options))
        self._listen(here, "", os.fspath(path), server, share=False)
        server._loopwright_made = caller()
        if start_serving:
            server._start()
            await asyncio.sleep(0)
        return server

    def _listen(self, host: Host, ip: str, port: int | str, server: Server, *, share: bool) -> None:
        ip = ANY if ip in ("::", "", ANY) else ip
        if isinstance(port, int) and ip not in (ANY, *LOOPBACK, host.address):
            raise os_error(
                errno.EADDRNOTAVAIL,
                f"error while attempting to bind on address {(ip, port)!r}: host {host.name!r} has {host.address}",
            )
        if port == 0:
            port = host._port(host._listeners)
        taken = host._listeners.get(port, [])
        if not share and any(one.address == ip or ANY in (one.address, ip) for one in taken):
            raise os_error(
                errno.EADDRINUSE,
                f"error while attempting to bind on address {(ip, port)!r}: address already in use",
            )
        listener = Listener(host, ip, port, server)
        if share:
            listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        host._listeners.setdefault(port, []).append(listener)
        assert server._listeners is not None
        server._listeners.append(listener)
        self._note("listen", f"{host.name}:{port}")

    def unlisten(self, listener: Listener) -> None:
        listener.closed = True
        listeners = listener.host._listeners
        others = [one for one in listeners.get(listener.port, []) if one is not listener]
        if others:
            listeners[listener.port] = others
        else:
            listeners.pop(listener.port, None)

    def listener(self, host: Host, address: Address) -> Listener | None:
        """Who listens there; where several share a port, each gets a turn."""
        ip, port = ("", address) if isinstance(address, str) else address[:2]
        listeners = host._listeners.get(port, [])
        for at, listener in enumerate(listeners):
            if listener.address in (ip, ANY) or isinstance(address, str):
                if len(listeners) > 1:
                    listeners.append(listeners.pop(at))
                return listener
        return None

    # Sockets that others have made

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """``loop.sock_connect``: the socket stays unconnected, and stands for a simulated connection
        until it is closed, or given to ``create_connection``."""
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            await self._original("sock_connect")(sock, address)
            return
        if sock.type != socket.SOCK_STREAM:
            raise NotImplementedError("on a SimNet datagrams go through loop.create_datagram_endpoint()")
        if not _is_address(address[0]):
            found = await self.getaddrinfo(address[0], address[1], type=socket.SOCK_STREAM)
            address = found[0][-1]
        tie(sock, await self._connect(address, None))

    async def sock_sendall(self, sock: socket.socket, data: Any) -> None:
        """``loop.sock_sendall``."""
        reader = reader_of(sock)
        if reader is None:
            await self._original("sock_sendall")(sock, data)
        else:
            await reader.sendall(bytes(data))

    async def sock_recv(self, sock: socket.socket, nbytes: int) -> bytes:
        """``loop.sock_recv``."""
        reader = reader_of(sock)
        if reader is None:
            return await self._original("sock_recv")(sock, nbytes)  # type: ignore[no-any-return]
        return await reader.recv(nbytes)

    async def sock_recv_into(self, sock: socket.socket, buf: Any) -> int:
        """``loop.sock_recv_into``."""
        reader = reader_of(sock)
        if reader is None:
            return await self._original("sock_recv_into")(sock, buf)  # type: ignore[no-any-return]
        data = await reader.recv(len(buf))
        buf[: len(data)] = data
        return len(data)

    async def sock_sendfile(
        self, sock: socket.socket, file: Any, offset: int = 0, count: int | None = None, *, fallback: bool = True
    ) -> int:
        """``loop.sock_sendfile``."""
        reader = reader_of(sock)
        if reader is None:
            original = self._original("sock_sendfile")
            return await original(sock, file, offset, count, fallback=fallback)  # type: ignore[no-any-return]
        if not fallback:
            raise asyncio.SendfileNotAvailableError("a simulated socket has no native sendfile")
        file.seek(offset)
        data = file.read(-1 if count is None else count)
        await reader.sendall(data)
        file.seek(offset + len(data))
        return len(data)

    # Datagrams

    async def create_datagram_endpoint(  # noqa: PLR0913 (the signature is asyncio's)
        self,
        protocol_factory: Callable[[], asyncio.DatagramProtocol],
        local_addr: tuple[str, int] | str | None = None,
        remote_addr: tuple[str, int] | str | None = None,
        *,
        family: int = 0,
        sock: socket.socket | None = None,
        reuse_port: bool | None = None,
        **options: Any,
    ) -> tuple[asyncio.DatagramTransport, asyncio.DatagramProtocol]:
        """``loop.create_datagram_endpoint``."""
        if sock is not None or isinstance(local_addr, str) or isinstance(remote_addr, str):
            original = self._original("create_datagram_endpoint")
            return await original(  # type: ignore[no-any-return]
                protocol_factory, local_addr, remote_addr, family=family, sock=sock, reuse_port=reuse_port, **options
            )
        host = self._alive()
        ip, port = local_addr or (None, 0)
        [(*_, local), *_] = await self.getaddrinfo(ip or ANY, port, type=socket.SOCK_DGRAM)
        remote = None
        if remote_addr is not None:
            [(*_, remote), *_] = await self.getaddrinfo(*remote_addr, type=socket.SOCK_DGRAM)
        ip = local[0]
        port = local[1] or host._port(host._datagrams)
        if port in host._datagrams and not reuse_port:
            raise os_error(errno.EADDRINUSE, f"{host.name}:{port}/udp: address already in use")
        if remote is not None and ip == ANY:
            ip = remote[0] if remote[0] in LOOPBACK else host.address
        waiter = self.loop.create_future()
        protocol = protocol_factory()
        transport = Datagrams(self, host, protocol, local=(ip, port), remote=remote, waiter=waiter)
        host._datagrams.setdefault(port, []).append(transport)
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol

    def unbind(self, host: Host, transport: Datagrams) -> None:
        port = transport.local[1]
        left = [one for one in host._datagrams.get(port, []) if one is not transport]
        if left:
            host._datagrams[port] = left
        else:
            host._datagrams.pop(port, None)

    def send_datagram(self, host: Host, sender: Datagrams, data: bytes, address: tuple[Any, ...]) -> None:
        target = self._find(host, address)
        if target is None:
            self.count("datagram lost", f"{host.name} > {address}", len(data))
            return
        link = self._link(host, target)
        source = (address[0] if address[0] in LOOPBACK else host.address, sender.local[1], *address[2:])
        copies = 2 if link.duplicate and link.random.random() < link.duplicate else 1
        for _ in range(copies):
            left = link.sent(self.time(), len(data))
            if link.down or link.loses():
                self.count("datagram lost", f"{host.name} > {target.name}", len(data))
                continue
            # The context is the receiver's, chosen on arrival; until then it is nobody's.
            self.loop.call_at(
                left + link.delay(), self._deliver, sender, target, data, source, address, context=_NOWHERE
            )

    def _deliver(self, sender: Datagrams, target: Host, data: bytes, source: Address, address: tuple[Any, ...]) -> None:
        host = sender.host
        link = self._link(host, target)
        if link.down:
            self.count("datagram lost", link.name, len(data))
            return
        for receiver in target._datagrams.get(address[1], []):
            if receiver.local[0] in (ANY, address[0]):
                receiver.context.run(receiver.receive, data, source)
                return
        self.count("datagram lost", link.name, len(data))
        back = self._link(target, host)
        if not back.down:
            self.loop.call_at(self.time() + back.delay(), sender.refused, context=sender.context)

    # The script

    def at(self, when: float, function: Callable[..., object], *args: Any, **keywords: Any) -> None:
        """Calls ``function(*args, **keywords)`` at ``when`` seconds of the network's time."""
        if self.loop is None:
            self._script.append((when, function, args, keywords))
        else:
            self._schedule(when, function, args, keywords)

    def _schedule(
        self, when: float, function: Callable[..., object], args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        if when < self.now():
            raise ValueError(f"at({when}): it is {self.now():g} already")
        self._timers.append(self.loop.call_at(self._began + when, lambda: function(*args, **keywords)))

    def now(self) -> float:
        """Seconds since the network was installed."""
        return 0.0 if self.loop is None else self.time() - self._began

    # What happened

    def count(self, what: str, where: Any, size: int | None = None) -> None:
        """Counts an event, and keeps it for :meth:`trace`."""
        self._counts[what] += 1
        if size is not None:
            self._sizes[what] += size
        if self._log is not None:
            self._log.append((self.time(), what, where, size))

    def _note(self, what: str, where: str) -> None:
        self._counts[what] += 1
        if self._log is not None:
            self._log.append((self._began if self.loop is None else self.time(), what, where, None))

    def opened(self, end: End) -> None:
        self._ends[end] = None

    def forget(self, end: End) -> None:
        self._ends.pop(end, None)

    def connections(self) -> list[str]:
        """The ends of connections that are open, as ``host:port > host:port``, the oldest first."""
        return [end.label for end in self._ends]

    def trace(self) -> list[NetEvent]:
        """What happened, as far as it was kept; each line prints as time, event, place, size."""
        return list(self._events())

    def _events(self) -> Iterator[NetEvent]:
        for when, what, where, size in self._log or ():
            yield NetEvent(when - self._began, what, where.label if isinstance(where, End) else str(where), size)

    def stats(self) -> NetStats:
        """What was counted so far."""
        counts = self._counts
        return NetStats(
            connects=counts["connect"],
            refused=counts["refused"],
            connect_timeouts=counts["no answer"],
            connections=len(self._ends),
            bytes=self._sizes["data"],
            resets=counts["reset"],
            lost=counts["lost"],
            stalls=counts["stall"],
            given_up=counts["give up"],
            datagrams=counts["datagram"],
            datagrams_lost=counts["datagram lost"],
            lookups=counts["lookup"],
        )


class _Attempt:
    """One connect, from the first packet to the answer."""

    def __init__(self, net: SimNet, host: Host, address: Address, local_addr: tuple[str, int] | None) -> None:
        self.net = net
        self.host = host
        self.address = address
        self.done: asyncio.Future[End] = net.loop.create_future()
        self.context = contextvars.copy_context()
        self.timer: asyncio.TimerHandle | None = None
        self.deadline = net.time() + net.connect_timeout
        self.pause = SYN_RETRY
        target = net._find(host, address)
        if target is None:
            self.timer = None
            error = os_error(
                errno.EHOSTUNREACH, f"Connect call failed {address!r}: no host of this SimNet has this address"
            )
            self.done.set_exception(error)
            return
        self.target = target
        self.there = net._link(host, target)
        self.back = net._link(target, host)
        port = local_addr[1] if local_addr else 0
        if port in host._listeners:
            text = f"error while attempting to bind on address {local_addr!r}: address already in use"
            self.done.set_exception(os_error(errno.EADDRINUSE, text))
            return
        port = port or host._port(host._listeners)
        if isinstance(address, str):
            self.local: Address = ""
            self.label = f"{host.name} > {target.name}:{address}"
        else:
            self.local = (address[0] if address[0] in LOOPBACK else host.address, port)
            self.label = f"{host.name}:{port} > {target.name}:{address[1]}"
        self._knock()

    def _after(self, delay: float, callback: Callable[[], object]) -> None:
        self.timer = self.net.call_at(self.net.time() + delay, callback, self.context)

    def _knock(self) -> None:
        if self.there.down or self.there.loses():
            self._unanswered()
        else:
            self._after(self.there.delay(), self._arrived)

    def _unanswered(self) -> None:
        now = self.net.time()
        if now >= self.deadline - TICK:
            self.net.count("no answer", self.label)
            error = TimeoutError(errno.ETIMEDOUT, f"Connect call failed {self.address!r}: nobody answered")
            self._fail(error)
            return
        wait = min(self.pause, self.deadline - now)
        self.pause *= 2
        at_the_end = now + wait >= self.deadline - TICK
        self._after(wait, self._unanswered if at_the_end else self._knock)

    def _arrived(self) -> None:
        listener = None if self.there.down else self.net.listener(self.target, self.address)
        if self.there.down or self.back.down or (listener is not None and listener.full) or self.back.loses():
            self._unanswered()
        elif listener is None:
            self._after(self.back.delay(), self._refused)
        else:
            self._after(self.back.delay(), lambda: self._answered(listener))

    def _refused(self) -> None:
        self.net.count("refused", self.label)
        error = ConnectionRefusedError(errno.ECONNREFUSED, f"Connect call failed {self.address!r}")
        self._fail(error)

    def _answered(self, listener: Listener) -> None:
        if self.back.down:
            self._unanswered()
            return
        if self.done.done():
            return
        net = self.net
        mine = End(net, self.host, self.local, self.address, self.there)
        mine.context = self.context
        theirs = End(net, self.target, self.address, self.local, self.back)
        theirs.context = listener.server.context.copy()
        theirs.listener = listener
        mine.peer, theirs.peer = theirs, mine
        mine.label = self.label
        theirs.label = " > ".join(reversed(self.label.split(" > ")))
        net.opened(mine)
        net.opened(theirs)
        net.count("connect", self.label)
        mine._put(OPEN, net.time() + self.there.delay())
        self.done.set_result(mine)

    def _fail(self, error: OSError) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def abandon(self) -> None:
        """Whoever connected was cancelled."""
        if self.timer is not None:
            self.timer.cancel()
        if self.done.done() and not self.done.cancelled() and self.done.exception() is None:
            self.done.result().close()


def _end(task: asyncio.Task[Any], why: str) -> None:
    """Cancels a task of a host."""
    if sys.version_info < (3, 12, 2):
        # There start_server()'s own callback fails when the task of a handler was cancelled, and the loop reports it.
        for callback, _ in list(getattr(task, "_callbacks", None) or ()):
            if getattr(callback, "__qualname__", "") == "StreamReaderProtocol.connection_made.<locals>.callback":
                task.remove_done_callback(callback)
    task.cancel(why)


def _buried(task: asyncio.Task[Any]) -> None:
    """What clean-up on a crashed host raises reaches nobody either."""
    if not task.cancelled():
        task.exception()


_NOWHERE: Final = contextvars.Context()


def _pairs(ends: list[End]) -> int:
    """How many connections they are ends of."""
    return len(ends) - sum(end.peer in ends[:at] for at, end in enumerate(ends))


def _matches(names: tuple[str, ...], source: frozenset[str] | None, target: frozenset[str] | None) -> bool:
    return (source is None or names[0] in source) and (target is None or names[1] in target)


def _sides(one: frozenset[str] | None, other: frozenset[str] | None, *, one_way: bool = False) -> str:
    if one is None and other is None:
        return "everywhere"
    a, b = ("all" if names is None else "+".join(sorted(names)) for names in (one, other))
    return f"{a} {'>' if one_way else '|'} {b}"


def _checked(**values: Any) -> dict[str, Any]:
    """The values of a link, or a ValueError that says what is wrong with one."""
    for name, value in values.items():
        match name:
            case "latency":
                fine = callable(value) or (isinstance(value, float | int) and 0 <= value < math.inf)
                wanted = "seconds >= 0, or a function of a random.Random"
            case "jitter":
                fine, wanted = 0 <= value < math.inf, "seconds >= 0"
            case "loss" | "duplicate" | "fragment":
                fine, wanted = 0 <= value <= 1, "a share between 0 and 1"
            case "bandwidth":
                fine, wanted = value is None or 0 < value < math.inf, "bytes a second > 0, or None"
            case _:
                raise TypeError(f"a link has no {name!r}; it has latency, jitter, loss, bandwidth, duplicate, fragment")
        if not fine:
            raise ValueError(f"{name} is {value!r}; it has to be {wanted}")
    return values


def _tls(options: dict[str, Any]) -> dict[str, Any]:
    keys = ("ssl_handshake_timeout", "ssl_shutdown_timeout")
    return {key: options[key] for key in keys if options.get(key) is not None}


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _creation(task: asyncio.Task[Any]) -> tuple[int, str]:
    name = task.get_name()
    return len(name), name


def _context_of(task: asyncio.Task[Any]) -> contextvars.Context:
    """The context that a task runs in. Before 3.12 only the garbage collector can tell."""
    if hasattr(task, "get_context"):
        context: contextvars.Context = task.get_context()
        return context
    for thing in gc.get_referents(task):
        if isinstance(thing, contextvars.Context):
            return thing
    return _NOWHERE
