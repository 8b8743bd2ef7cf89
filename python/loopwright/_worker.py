"""What a worker process of :func:`loopwright.offload` runs, and the messages between it and the process that calls.

A message is a pickle (protocol 5) and its out-of-band buffers, behind a head that says how long each is. A small one
goes through the socket. A big one goes through anonymous shared memory, whose descriptor the socket carries: it is
written once and mapped on the other side, where a buffer (a numpy array, say) is used in place. No name, and so nothing
to clean up after a process that was killed.

Lives here: what both sides need. Does not live here: who gets which worker, and its end (:mod:`._workers`).
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import pickle
import signal
import socket
import struct
import traceback
from collections.abc import Callable
from typing import Any

__all__ = ["BIG", "READY", "Original", "Packed", "Received", "main", "pack", "receive", "send", "unpack"]

BIG = 1 << 18
"""Bytes from which a message goes through shared memory, where the system has it."""

READY = "ready"
"""The first message of a worker."""

_HEAD = struct.Struct("<?IQ")
"""Whether it is in shared memory, how many parts there are (the pickle is the first), and their length in all."""

_ALIGNED = 64
"""Where parts begin in memory, in bytes: what vector instructions like."""

_STEP = 1 << 16
"""Pickles longer than this are read piece by piece, through Python: the interpreter lock can be had in between."""


class Original:
    """A function whose name leads to a wrapper of it: it travels as that."""

    def __init__(self, wrapper: Callable[..., Any]) -> None:
        self._wrapper = wrapper

    def __reduce__(self) -> tuple[Any, ...]:
        return _unwrapped, (self._wrapper,)


def _unwrapped(wrapper: Any) -> Any:
    return wrapper.__wrapped__


class _Parts:
    """What a pickler writes, piece by piece: long ``bytes`` come as they are, and are never copied together."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.length = 0

    def write(self, piece: bytes) -> int:
        self.pieces.append(piece)
        self.length += len(piece)
        return len(piece)


class _Pieces:
    """What an unpickler reads, piece by piece."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        begin = self._at
        self._at = len(self._data) if size < 0 else min(len(self._data), begin + size)
        return bytes(self._data[begin : self._at])

    def readinto(self, into: Any) -> int:
        begin, size = self._at, len(into)
        self._at = min(len(self._data), begin + size)
        into[: self._at - begin] = self._data[begin : self._at]
        return self._at - begin

    def readline(self) -> bytes:
        end = self._at
        while end < len(self._data) and self._data[end] != ord("\n"):
            end += 1
        return self.read(end + 1 - self._at)


Packed = tuple[list[list[Any]], list[int]]
"""A message in parts, each in pieces, and how long each part is."""


def pack(message: object) -> Packed:
    """Pickles a message."""
    pickled, buffers = _Parts(), list[pickle.PickleBuffer]()
    pickle.Pickler(pickled, 5, buffer_callback=buffers.append).dump(message)
    views = [buffer.raw() for buffer in buffers]
    return [list(pickled.pieces), *([view] for view in views)], [pickled.length, *(view.nbytes for view in views)]


def send(sock: socket.socket, packed: Packed) -> None:
    """Sends a message."""
    parts, lengths = packed
    total = sum(-length % _ALIGNED + length for length in lengths)
    shared = total >= BIG and hasattr(os, "memfd_create")
    head = _HEAD.pack(shared, len(lengths), total) + struct.pack(f"<{len(lengths)}Q", *lengths)
    if shared:
        fd = os.memfd_create("loopwright", os.MFD_CLOEXEC)
        try:
            _write(fd, parts, lengths)
            sent = socket.send_fds(sock, [head], [fd])
        finally:
            os.close(fd)
        sock.sendall(head[sent:])
        return
    pieces = [head]
    for part, length in zip(parts, lengths, strict=True):
        pieces += part
        pieces.append(bytes(-length % _ALIGNED))
    if total < BIG:
        pieces = [b"".join(pieces)]
    for piece in pieces:
        sock.sendall(piece)


def _write(fd: int, parts: list[list[Any]], lengths: list[int]) -> None:
    """Fills shared memory. A write lets go of the interpreter lock, an assignment to a mapping does not."""
    at = 0
    for part, length in zip(parts, lengths, strict=True):
        begin = at
        for piece in part:
            view = memoryview(piece).cast("B")
            while view:
                written = os.pwrite(fd, view, at)
                at, view = at + written, view[written:]
        at = begin + length + -length % _ALIGNED
    os.ftruncate(fd, at)


Received = list[memoryview]
"""The parts of a message."""


def receive(sock: socket.socket) -> Received:
    """Receives a message. ``EOFError`` when the other side has gone."""
    head, descriptors, _, _ = socket.recv_fds(sock, _HEAD.size, 1)
    try:
        if not head:
            raise EOFError("the other process has gone")
        shared, count, total = _HEAD.unpack(head + _exactly(sock, _HEAD.size - len(head)))
        lengths = struct.unpack(f"<{count}Q", _exactly(sock, 8 * count))
        memory: Any = mmap.mmap(descriptors[0], total, access=mmap.ACCESS_COPY) if shared else _exactly(sock, total)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    parts, at = [], 0
    for length in lengths:
        parts.append(memoryview(memory)[at : at + length])
        at += length + -length % _ALIGNED
    return parts


def _exactly(sock: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        got = sock.recv_into(view)
        if not got:
            raise EOFError("the other process has gone")
        view = view[got:]
    return data


def unpack(received: Received) -> Any:
    """Unpickles a message."""
    pickled, *buffers = received
    if len(pickled) <= _STEP:
        return pickle.loads(pickled, buffers=buffers)
    return pickle.Unpickler(_Pieces(pickled), buffers=buffers).load()


def main(sock: socket.socket, lifeline: socket.socket) -> None:
    """Does one call after another, until the other side has gone.

    It is the leader of a process group, so that whatever its calls have started dies with it, and a Ctrl-C at the
    terminal is not its own. When the process that calls dies in the middle of a call, the kernel says so on
    ``lifeline``, by a signal whose default is the end.
    """
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    try:
        send(sock, pack(READY))
        while True:
            received = receive(sock)
            reply = _reply(received)
            del received
            send(sock, reply)
            del reply
    except (EOFError, OSError):
        return


def _reply(received: Received) -> Packed:
    """Does one call."""
    doing = "unpickled the function and its arguments"
    try:
        function, args, kwargs = unpack(received)
        doing = ""
        result = function(*args, **kwargs)
        doing = "pickled the result"
        return pack((True, result, ""))
    except BaseException as error:
        if doing:
            error.add_note(f"raised in the worker process, when it {doing}")
        return pack((False, *_failure(error)))


def _failure(error: BaseException) -> tuple[bytes | None, str]:
    """An error as it travels: pickled, if it comes back from that, and its traceback in words."""
    words = "".join(traceback.format_exception(error))
    try:
        pickled = pickle.dumps(error, 5)
        pickle.loads(pickled)
    except Exception:
        return None, words
    return pickled, words
