"""Who is at the other end of a file descriptor: this program alone, or somebody else too.

Lives here: the proof, for each descriptor that a loop waits for, that it becomes ready only by something this program
does. Does not live here: who else runs in this program (:mod:`._threads`), what follows for the time
(:mod:`._quiescence`).

A listening socket waits for whoever comes, and nobody has announced themselves: it proves nothing against quiescence.
All else needs its other end in this process: a TCP connection by the addresses of both ends, a Unix socket by the inode
of its peer, a pipe by the inode that its ends share, a datagram socket by the addresses that it ever sent to.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from selectors import EVENT_READ
from time import monotonic
from typing import Any

__all__ = ["Ends"]

_IN_FLIGHT = 0.02
"""Seconds for which a datagram can be under way between two sockets of one machine."""

_STALLED = 0.005
"""Seconds for which a full connection has to stand still to count as stalled: news of more room can be under way."""

_UNDER_WAY = "has something under way, to or from another one of this program"

IsPrivate = Callable[[int], bool]

_CONNECTING = "is a socket that is about to connect"

_SIOCOUTQ = 0x5411
"""Asks a TCP socket how many bytes, or ends of stream, it has sent that the other end's kernel has not acknowledged."""


@dataclass(slots=True, eq=False)
class _End:
    """What does not change about an open file descriptor."""

    fd: int
    inode: int
    kind: str
    """``listener``, ``tcp``, ``unix``, ``datagram``, ``pipe``; or, in words, what else it is."""
    here: Any = None
    there: Any = None
    """Addresses, None for no peer."""
    peer: int | None = None
    """Of a Unix socket: the inode of its peer; 0 for a connection that has not been accepted."""
    writes: bool = False
    """Of a pipe."""
    other: _End | None = None
    """The other end, once it has been found."""

    @property
    def is_open(self) -> bool:
        try:
            return os.fstat(self.fd).st_ino == self.inode
        except OSError:
            return False


class Ends:
    """What is known about the file descriptors of one loop."""

    def __init__(self) -> None:
        self._ends: dict[int, _End] = {}
        self._sent_to: dict[int, tuple[int, dict[Any, _End | None]]] = {}
        """Inode, and who got what was sent to each address at the time; None: nobody of this program."""
        self._last_datagram = float("-inf")
        self._stalls: dict[int, tuple[int, float]] = {}

    def sends(self, fd: int, *addresses: Any) -> None:
        """Notes that all sends of a datagram socket are seen, and one to these addresses: None stands for its peer."""
        inode = os.fstat(fd).st_ino
        known = self._sent_to.get(fd)
        if known is None or known[0] != inode:
            known = self._sent_to[fd] = inode, {}
        receivers = known[1]
        for address in map(_address, addresses):
            self._last_datagram = monotonic()
            receiver = receivers.get(address)
            if address is not None and (receiver is None or not receiver.is_open):
                receivers[address] = self._receiver(address)

    def outside(
        self, waited_for: Mapping[int, int], owned: Iterable[int], is_private: IsPrivate
    ) -> tuple[str | None, bool]:
        """Whether any descriptor can become ready before this thread does something.

        Args:
            waited_for: the events that the loop waits for, by descriptor.
            owned: descriptors of the loop that it does not wait for just now: a transport that has paused.
            is_private: whether no other process has a pipe or socket, by its inode. Threads are known to be quiet.

        Returns:
            None if none can, else which, in words; and whether that is only until something that is under way between
            two ends of this program has arrived.
        """
        own = {*waited_for, *owned}
        under_way = None
        for fd, events in waited_for.items():
            try:
                reason = self._reaches(self._end(fd), events, waited_for, own, is_private)
            except OSError as error:
                reason = f"could not be examined ({error})"
            if reason == _UNDER_WAY:
                under_way = f"file descriptor {fd} {reason}"
            elif reason is not None:
                return f"file descriptor {fd} {reason}", False
        return under_way, True

    def _end(self, fd: int) -> _End:
        end = self._ends.get(fd)
        if end is None or not end.is_open:
            end = _examine(fd)
            if end.kind != _CONNECTING and end.peer != 0:
                self._ends[fd] = end
        return end

    def _reaches(
        self, end: _End, events: int, waited_for: Mapping[int, int], own: set[int], is_private: IsPrivate
    ) -> str | None:
        if end.kind == "listener":
            return None
        if end.kind == "datagram":
            return self._datagram(end, own, is_private)
        if end.kind not in _NOT_OURS:
            return end.kind
        other = self._other(end, own, is_private)
        if other is None:
            in_vain = self._waits_in_vain(end, waited_for, is_private)
            return None if in_vain else _NOT_OURS[end.kind].format(end)
        # What is written to a pipe or a Unix socket is there at once.
        if end.kind == "tcp" and (
            self._is_moving(end, other, waited_for.get(other.fd, 0)) or self._is_moving(other, end, events)
        ):
            return _UNDER_WAY
        return None

    def _other(self, end: _End, own: set[int], is_private: IsPrivate) -> _End | None:
        other = end.other
        if other is None or not other.is_open:
            found = self._find(end, own)
            if found is None:
                found = self._find(end, _open_descriptors())
            other = end.other = found
        if other is None or (end.kind != "pipe" and other.fd in own):
            return other
        return other if is_private(other.inode) else None

    def _find(self, end: _End, among: set[int]) -> _End | None:
        for fd in among:
            try:
                other = self._end(fd)
            except OSError:
                continue
            if other is not end and _are_ends_of_one(end, other):
                return other
        return None

    def _waits_in_vain(self, end: _End, waited_for: Mapping[int, int], is_private: IsPrivate) -> bool:
        """Whether a connection waits to be accepted by a socket of ours that nobody waits for."""
        if end.kind == "pipe" or (end.kind == "unix" and end.peer != 0):
            return False
        if end.kind == "tcp" and self._is_moving(end, None, 0):
            return False
        for fd in _open_descriptors() - {end.fd}:
            try:
                listener = self._end(fd)
            except OSError:
                continue
            if listener.kind == "listener" and _is_bound_to(listener.here, end.there):
                return fd not in waited_for and is_private(listener.inode)
        return False

    def _is_moving(self, sender: _End, receiver: _End | None, waited_for_at_receiver: int) -> bool:
        """Whether bytes of a connection are on their way to its other end."""
        unsent = _unacknowledged(sender.fd)
        if unsent == 0:
            return False
        told = _TcpInfo.of(sender.fd)
        if told is None:
            return True
        if receiver is not None and told.has_arrived(_TcpInfo.of(receiver.fd)):
            return False  # acknowledgements may take 40 ms
        if waited_for_at_receiver & EVENT_READ or not told.is_stalled:
            self._stalls.pop(sender.fd, None)
            return True
        now = monotonic()
        before, since = self._stalls.get(sender.fd, (unsent, now))
        if before != unsent:
            since = now
        self._stalls[sender.fd] = unsent, since
        return now - since < _STALLED

    def _datagram(self, end: _End, own: set[int], is_private: IsPrivate) -> str | None:
        inode, receivers = self._sent_to.get(end.fd, (0, {}))
        if end.there is not None:
            receivers = {end.there: self._receiver(end.there)}
        elif inode != end.inode:
            return "is a datagram socket whose sends the loop does not see"
        for address, receiver in receivers.items():
            if receiver is None or (receiver.is_open and not (receiver.fd in own or is_private(receiver.inode))):
                return f"is a datagram socket that has sent to {address}, which is not this program's"
        if isinstance(end.here, tuple) and monotonic() - self._last_datagram < _IN_FLIGHT:
            return _UNDER_WAY
        return None

    def _receiver(self, address: Any) -> _End | None:
        """Who gets what is sent there, if it is a socket of this program."""
        for fd in _open_descriptors():
            try:
                end = self._end(fd)
            except OSError:
                continue
            if end.kind == "datagram" and _is_bound_to(end.here, address):
                return end
        return None


_NOT_OURS = {
    "tcp": "is connected to {0.there}, which is not this program's",
    "unix": "is a Unix socket whose peer is not known to be this program's",
    "pipe": "is a pipe whose other end is not this program's alone",
}


def _are_ends_of_one(one: _End, other: _End) -> bool:
    if one.kind == "unix":
        return one.peer == other.inode
    if one.kind != other.kind:
        return False
    if one.kind == "pipe":
        return one.inode == other.inode and one.writes != other.writes
    return bool(one.here == other.there and one.there == other.here)


def _examine(fd: int) -> _End:
    status = os.fstat(fd)
    inode = status.st_ino
    name = _link(fd)
    if stat.S_ISFIFO(status.st_mode) and name.startswith("pipe:"):
        access = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
        return _End(fd, inode, "pipe", writes=access == os.O_WRONLY)
    if not stat.S_ISSOCK(status.st_mode):
        return _End(fd, inode, f"is {name}")
    with _borrowed(fd) as sock:
        return _examine_socket(sock, inode)


def _examine_socket(sock: socket.socket, inode: int) -> _End:
    fd, here, kind = sock.fileno(), _address(sock.getsockname()), f"is a socket of {sock.family!r}, {sock.type!r}"
    is_unix = sock.family == getattr(socket, "AF_UNIX", None)
    if not is_unix and sock.family not in (socket.AF_INET, socket.AF_INET6):
        return _End(fd, inode, kind)
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return _End(fd, inode, "listener", here)
    if sock.type == socket.SOCK_DGRAM:
        kind = "datagram"
    elif sock.type == socket.SOCK_STREAM and sock.proto in (0, socket.IPPROTO_TCP):
        kind = "tcp"
    try:
        there = _address(sock.getpeername())
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        return _End(fd, inode, "datagram" if kind == "datagram" else _CONNECTING, here)
    if is_unix:
        return _End(fd, inode, "unix", here, there, _unix_peer(inode))
    return _End(fd, inode, kind, here, there)


@contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    sock = socket.socket(fileno=fd)
    try:
        yield sock
    finally:
        sock.detach()


def _link(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return "something that this system does not name"


def _open_descriptors() -> set[int]:
    try:
        return {int(fd) for fd in os.listdir("/proc/self/fd")}
    except OSError:
        return set()


def _address(address: Any) -> Any:
    """An address as both ends agree on it: without scopes, without IPv4 in the clothes of IPv6."""
    match address:
        case (str(host), port, *_):
            host = host.partition("%")[0]
            return (host.removeprefix("::ffff:") if "." in host else host), port
    return address


def _is_bound_to(bound: Any, destination: Any) -> bool:
    """Whether a socket bound so is who gets what is sent to ``destination``."""
    if not isinstance(bound, tuple) or not isinstance(destination, tuple):
        return bool(bound == destination)
    if bound[1] != destination[1]:
        return False
    try:
        mine, target = ipaddress.ip_address(bound[0]), ipaddress.ip_address(destination[0])
    except ValueError:
        return False
    return mine == target or (mine.is_unspecified and (target.is_loopback or target.is_unspecified))


def _unix_peer(inode: int) -> int | None:
    """The inode of the peer of a Unix socket, asked of Linux's ``sock_diag``; None when the kernel does not tell."""
    sock_diag_by_family, show_peer, any_cookie = 20, 4, 0xFFFF_FFFF
    question = struct.pack("=BBHIIIII", 1, 0, 0, 0xFFFF_FFFF, inode, show_peer, any_cookie, any_cookie)
    header = struct.pack("=IHHII", 16 + len(question), sock_diag_by_family, 1, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 4) as diag:
            diag.settimeout(1)
            diag.send(header + question)
            answer = diag.recv(8192)
    except (AttributeError, OSError):
        return None
    length, kind = struct.unpack_from("=IH", answer)
    if kind != sock_diag_by_family or struct.unpack_from("=I", answer, 20)[0] != inode:
        return None
    place, peer_attribute = 32, 2  # after the header and struct unix_diag_msg
    while place + 8 <= length:
        size, attribute = struct.unpack_from("=HH", answer, place)
        if attribute == peer_attribute:
            return int(struct.unpack_from("=I", answer, place + 4)[0])
        place += max(4, (size + 3) & ~3)
    return None


def _unacknowledged(fd: int) -> int:
    return int(struct.unpack("=i", fcntl.ioctl(fd, _SIOCOUTQ, b"\0\0\0\0"))[0])


_TCP_INFO = struct.Struct("=B23xI100xQ8xI52xQQ12xI")
_ENDING = {4, 9, 11}
"""TCP's states FIN_WAIT1, LAST_ACK, CLOSING: the end of the stream is sent and not yet acknowledged."""
_ENDED = {6, 8, 9, 11}
"""TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING: the other end's end of the stream has arrived."""


@dataclass(slots=True)
class _TcpInfo:
    """What the kernel tells about one end of a TCP connection: some of Linux's ``struct tcp_info``."""

    state: int
    unacknowledged: int
    received: int
    unsent: int
    sent: int
    sent_again: int
    window: int

    @classmethod
    def of(cls, fd: int) -> _TcpInfo | None:
        """None from kernels before 5.4."""
        with _borrowed(fd) as sock:
            told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        return cls(*_TCP_INFO.unpack(told)) if len(told) == _TCP_INFO.size else None

    def has_arrived(self, other: _TcpInfo | None) -> bool:
        """Whether the other end has all that this one was given to send."""
        if other is None or self.unsent:
            return False
        ends, ended = self.state in _ENDING, other.state in _ENDED
        return ended >= ends and other.received - ended >= self.sent - self.sent_again

    @property
    def is_stalled(self) -> bool:
        """Whether the other end has no room and nothing is under way to it: bytes move only when it is read."""
        return self.unacknowledged == 0 and self.window == 0
