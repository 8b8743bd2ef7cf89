"""Whether a call stops the loop that it is made on: proved, not measured.

The loop runs in the main thread. The call is given something to wait for that never comes (a pipe, a silent server, a
locked database). Another thread sees that the main thread sleeps inside the call, hands the loop a callback, sees that
it still sleeps, and only then lets the call go: by a signal whose handler raises, or by giving it what it waits for.
A call that stops the loop leaves `posted, released, returned, ran`, in this order, on every machine; one that does
not has returned before it was released. What nothing can hold up is held by an audit hook, at the moment at which it
asks the operating system, on the thread on which it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Call = Callable[[], object]
LOOKS = 3
"""That many looks in a row have to find the thread asleep, with nothing done between them."""
PAUSE = 0.002
PATIENCE = 20.0


class Released(BaseException):
    """Raised where the call waits."""


class NotHeld(Exception):
    """The call returned by itself, or the loop ran meanwhile."""


class Things:
    """What a call can be made to wait for; everything is taken away again at the end."""

    def __init__(self, directory: Path, probe: Probe) -> None:
        self.directory = directory
        self.stack = contextlib.ExitStack()
        self.probe = probe
        self.release: Call = probe.interrupt

    def path(self) -> str:
        """A name in a directory of its own; nothing is there yet."""
        folder = self.directory / str(len(list(self.directory.iterdir())))
        folder.mkdir()
        return str(folder / "thing")

    def fifo(self) -> str:
        """A file whose opening waits for the other end."""
        path = self.path()
        os.mkfifo(path)

        def free() -> None:
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))

        self.stack.callback(free)
        return path

    def pipe(self) -> tuple[int, int]:
        reads, writes = os.pipe()
        for end in (reads, writes):
            self.stack.callback(_close, end)
        return reads, writes

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Two connected sockets; the second says nothing."""
        here, there = socket.socketpair()
        self.stack.enter_context(there)
        self.stack.enter_context(here)
        return here, there

    def silent(self) -> tuple[str, int]:
        """Where connections are taken and nothing is ever said."""
        server = self.stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=16))
        address: tuple[str, int] = server.getsockname()
        return address

    def url(self) -> str:
        return "http://{}:{}/".format(*self.silent())

    def full(self) -> tuple[str, int]:
        """Where not even a connection is taken."""
        server = self.stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address: tuple[str, int] = server.getsockname()
        self.stack.enter_context(socket.create_connection(address))
        while True:
            # Of a socket that listens the kernel tells how many connections nobody has accepted, and how many may be.
            waiting, allowed = struct.unpack_from("II", server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32), 24)
            if waiting > allowed:
                return address
            time.sleep(PAUSE)

    def speaks(self, greeting: bytes, *answers: bytes) -> tuple[str, int]:
        """Where a greeting is said, and an answer for each line up to the last; then nothing."""
        server = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve() -> None:
            with contextlib.suppress(OSError):
                client, _ = server.accept()
                self.stack.enter_context(client)
                client.sendall(greeting)
                lines = client.makefile("rb")
                for answer in answers:
                    tag = lines.readline().split(b" ")[0]
                    client.sendall(answer.replace(b"TAG", tag))

        threading.Thread(target=serve, daemon=True).start()
        address: tuple[str, int] = server.getsockname()
        return address

    def child(self) -> subprocess.Popen[bytes]:
        """A process that does not end."""
        process = subprocess.Popen(["sleep", "3600"])
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        return process

    def stuck(self, *, daemon: bool = True) -> tuple[threading.Thread, Call]:
        """A thread that does not end, and what ends it."""
        end = threading.Event()
        thread = threading.Thread(target=end.wait, daemon=daemon)
        thread.start()
        self.stack.callback(end.set)
        return thread, end.set

    def stdin(self) -> None:
        """A keyboard at which nobody sits."""
        reads, _ = self.pipe()
        before = sys.stdin
        sys.stdin = self.stack.enter_context(open(reads, closefd=False))  # noqa: SIM115 (the stack closes it)

        def restore() -> None:
            sys.stdin = before

        self.stack.callback(restore)

    def audited(self, event: str, call: Call) -> Call:
        """`call`, held at its first audit event of that name."""
        self.release = self.probe.open_gate
        self.probe.event = event
        return call


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)


class Probe:
    """One call on one loop."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.main = threading.main_thread()
        self.log: list[str] = []
        self.calling = False
        self.event: str | None = None
        self.gate = threading.Lock()
        signal.signal(signal.SIGUSR1, self._raise)
        sys.addaudithook(self._audit)

    def _raise(self, *_: object) -> None:
        if self.calling:
            raise Released

    def _audit(self, event: str, _: tuple[object, ...]) -> None:
        if event == self.event and self.calling and threading.current_thread() is self.main:
            self.event = None
            with self.gate:
                raise Released

    def interrupt(self) -> None:
        """Lets go what a signal ends."""
        assert self.main.ident is not None
        signal.pthread_kill(self.main.ident, signal.SIGUSR1)

    def open_gate(self) -> None:
        """Lets go what the audit hook holds."""
        self.gate.release()

    def prove(self, make: Callable[[Things], Call]) -> None:
        """Raises NotHeld unless what `make` returns stops the loop."""
        self.log, self.event = [], None
        things = Things(self.directory, self)
        with things.stack:
            call = make(things)
            held_by_audit = self.event is not None
            if held_by_audit:
                self.gate.acquire()
            try:
                asyncio.run(self._run(call, things))
            finally:
                if self.gate.locked():
                    self.gate.release()
        if self.log != ["posted", "released", "returned", "ran"]:
            raise NotHeld(", ".join(self.log))

    async def _run(self, call: Call, things: Things) -> None:
        loop = asyncio.get_running_loop()
        wrong: list[str] = []
        watcher = threading.Thread(target=self._watch, args=(loop, things, wrong))
        watcher.start()
        outcome = self.inside(call)
        self.log.append("returned")
        await asyncio.to_thread(watcher.join)
        if wrong:
            raise NotHeld(f"{wrong[0]}; the call gave {outcome!r}")

    def inside(self, call: Call) -> object:
        """The frame by which the watcher knows where the main thread is."""
        try:
            self.calling = True
            return call()
        except BaseException as error:  # how it ends says nothing about what it did before
            return error
        finally:
            self.calling = False

    def _watch(self, loop: asyncio.AbstractEventLoop, things: Things, wrong: list[str]) -> None:
        try:
            self._until_held()
            loop.call_soon_threadsafe(self.log.append, "ran")
            self.log.append("posted")
            self._until_held()
            self.log.append("released")
        except NotHeld as error:
            wrong.append(str(error))
        things.release()

    def _until_held(self) -> None:
        end, seen, last = time.monotonic() + PATIENCE, 0, ""
        while seen < LOOKS:
            time.sleep(PAUSE)
            if "returned" in self.log or "ran" in self.log:
                raise NotHeld("it did not wait: " + ", ".join(self.log))
            if time.monotonic() > end:
                raise NotHeld("it never slept")
            now = self._rest()
            seen = seen + 1 if now and now == last else 0
            last = now

    def _inside(self) -> bool:
        assert self.main.ident is not None
        frame: Any = sys._current_frames().get(self.main.ident)
        while frame is not None and frame.f_code is not Probe.inside.__code__:
            frame = frame.f_back
        return frame is not None

    def _rest(self) -> str:
        """How often the main thread has been scheduled, if it sleeps inside the call."""
        if not self._inside():
            return ""
        status = Path(f"/proc/self/task/{self.main.native_id}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        if fields["State"][0] not in "SD":
            return ""
        return fields["voluntary_ctxt_switches"] + " " + fields["nonvoluntary_ctxt_switches"]

    def computes(self, make: Callable[[int], Call]) -> None:
        """The same for what only computes: the watcher has to see it at work, so it gets more to do until it does."""
        for rounds in range(12):
            self.log, call = [], make(1 << rounds)
            try:
                asyncio.run(self._compute(call))
            except NotHeld:
                continue
            if self.log != ["posted", "returned", "ran"]:
                raise NotHeld(", ".join(self.log))
            return
        raise NotHeld("it was never seen at work")

    async def _compute(self, call: Call) -> None:
        loop = asyncio.get_running_loop()
        looks = 0

        def watch() -> None:
            nonlocal looks
            while "returned" not in self.log and looks < LOOKS:
                if self._inside():
                    if looks == 0:
                        self.log.append("posted")
                        loop.call_soon_threadsafe(self.log.append, "ran")
                    looks += 1
                time.sleep(PAUSE)

        watcher = threading.Thread(target=watch)
        watcher.start()
        self.inside(call)
        self.log.append("returned")
        await asyncio.to_thread(watcher.join)
        if looks < LOOKS:
            raise NotHeld("it was over too soon")
