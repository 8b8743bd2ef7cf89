"""One child process, the group that it leads, and its pipes: on any loop, in any thread.

Lives here: how it is started, read, fed, signalled and reaped. Does not live here: when it is asked to end, killed and
given up (``crates/core/src/process.rs``), what is kept of its output (``output.rs``), the public forms
(:mod:`loopwright.processes`).

The loop's own child watchers are left alone. A child is started in one step, so there is no moment at which a cancel
could lose it; its end is seen through a pidfd (through a thread, where the system has none), its pipes through
``add_reader``: that is the same on asyncio and uvloop, and needs neither signals nor the main thread. The command leads
a session and a group of its own. It stays a zombie until the group is looked at: until then its number is nobody
else's.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import errno
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Mapping, Sequence
from inspect import isawaitable
from typing import Any

from loopwright._loopwright import _Life, _Lines, _Tail
from loopwright.cancellation import _shielded_from_anyio
from loopwright.errors import CallCancelled

__all__ = ["Child", "Output"]

_log = logging.getLogger("loopwright.process")

Argument = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_CHUNK = 1 << 16
"""Bytes of one read: what a pipe holds."""

_LAST_CHUNKS = 32
"""Reads of what is left when everybody is gone: more than a pipe can hold, whoever still writes to it."""

_BATCH = 256
"""Lines after which others get their turn."""

_GIVE_UP = 5.0
"""Seconds after KILL until nobody waits any longer: it hangs in the kernel, or is another user's."""

_UNKNOWN = 255
"""The exit code of a child that somebody else has reaped, as in asyncio."""

_ON_A_TERMINAL = 'exec "$@" <>"$0" >&0 2>&0'
"""The first terminal that the leader of a session opens is its controlling one. A shell opens it without a fork of
ours: a ``preexec_fn`` would run Python between fork and exec, and may deadlock where there are threads."""

_ROWS, _COLUMNS = 24, 80

_live: set[tuple[int, int]] = set()
"""Groups that have not ended, each with the process that made it: they are killed when that exits.

Only numbers: a child whose loop is gone has to be thrown away, and with it who waits for it."""


class Output:
    """One output of a child: what is kept of it, and the lines that somebody takes."""

    __slots__ = ("_child", "_fd", "_reading", "_taker", "lines", "name", "tail", "total")

    def __init__(self, child: Child, name: str, fd: int, tail: int, lines: int | None) -> None:
        self.name = name
        self.tail = _Tail(tail)
        self.lines = None if lines is None else _Lines(lines)
        self.total = 0
        self._child = child
        self._fd = fd
        self._reading = False
        self._taker: asyncio.Future[None] | None = None

    @property
    def is_open(self) -> bool:
        """Somebody may still write to it."""
        return self._fd >= 0

    @property
    def is_paused(self) -> bool:
        """It is not read, as nobody takes its lines."""
        return self._fd >= 0 and not self._reading

    def read_on(self) -> None:
        """Reads when there is something to read, if there is room for it."""
        if self._fd >= 0 and not self._reading and (self.lines is None or self.lines.has_room()):
            self._child.loop.add_reader(self._fd, self._readable)
            self._reading = True

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._child.loop.remove_reader(self._fd)

    def _read(self) -> bytes | None:
        """Some bytes; none at the end; None when there is nothing now."""
        try:
            return os.read(self._fd, _CHUNK)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            if error.errno == errno.EIO:  # a terminal that nobody has open any more
                return b""
            raise

    def _readable(self) -> None:
        data = self._read()
        if data is None:
            return
        if data:
            self._take(data)
        else:
            self.close()
            self._child.output_closed()

    def _take(self, data: bytes) -> None:
        self.total += len(data)
        self.tail.push(data)
        if self.lines is not None:
            self.lines.push(data)
            if not self.lines.has_room():
                self._pause()
            self._wake()

    def _wake(self) -> None:
        if self._taker is not None and not self._taker.done():
            self._taker.set_result(None)

    async def arrival(self) -> None:
        """Waits until more has arrived, or nothing will."""
        if self._taker is not None:
            raise RuntimeError(f"another task already reads {self.name} of {self._child!r}; one may at a time")
        self._taker = self._child.loop.create_future()
        try:
            await self._taker
        finally:
            self._taker = None

    async def take(self, n: int, text: bool, with_ends: bool) -> list[Any]:
        """The next lines, at least one; none at the end."""
        while (lines := self.lines) is not None:
            if batch := lines.take(n, text, with_ends):
                self.read_on()
                return batch
            if lines.over:
                break
            await self.arrival()
        return []

    async def take_bytes(self, n: int) -> bytes:
        """The next bytes, at least one; none at the end."""
        while (lines := self.lines) is not None:
            if data := lines.take_bytes(n):
                self.read_on()
                return data
            if lines.over:
                break
            await self.arrival()
        return b""

    def leave(self) -> None:
        """Nobody takes lines any more: what comes goes to the tail alone, so that no writer waits."""
        self.lines = None
        self._wake()
        self.read_on()

    def close(self, drain: bool = False) -> None:
        """Reads no more; first what is there, if it is to be drained."""
        if self._fd < 0:
            return
        self._pause()
        if drain:
            for _ in range(_LAST_CHUNKS):
                if not (data := self._read()):
                    break
                self._take(data)
            self._pause()
        fd, self._fd = self._fd, -1
        os.close(fd)
        if self.lines is not None:
            self.lines.end()
        self._wake()


class Child:
    """A child process from its start to its end. Whoever makes one calls :meth:`outlast` or :meth:`abandon`."""

    def __init__(  # noqa: PLR0913 (each is a setting of its own)
        self,
        command: Sequence[Argument],
        *,
        cwd: str | os.PathLike[str] | None,
        env: Mapping[str, str] | None,
        pty: bool,
        merge_stderr: bool,
        feed: bool,
        tails: tuple[int, int],
        lines: tuple[int | None, int | None],
        kill_after: float,
        linger: float | None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.command = tuple(os.fspath(part) for part in command)
        self.returncode: int | None = None
        self.error: BaseException | None = None
        self.timed_out = False
        self._made_in = os.getpid()
        self._life = _Life(kill_after, _GIVE_UP, float("inf") if linger is None else linger)
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._helpers: set[asyncio.Task[None]] = set()
        self._feeder: asyncio.Task[None] | None = None
        self._interrupted = False
        self._reaped = False
        self._witness = 0
        self._pidfd = -1
        self._waiters: list[asyncio.Future[None]] = []
        self._writer: asyncio.Future[None] | None = None
        self._ends_with_line = True
        self._pty = pty
        self.stdin = -1
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            stdin, stdout, stderr, fds = self._pipes(theirs, ours, pty, merge_stderr, feed)
            self._popen = self._start(stdin, stdout, stderr, cwd, env)
            self.pid = self._popen.pid
            ours.pop_all()
        if not _live:
            atexit.register(_kill_all)
        _live.add((self.pid, self._made_in))
        self.stderr = None if fds[1] is None else Output(self, "stderr", fds[1], tails[1], lines[1])
        self.stdout = Output(self, "stdout", fds[0], tails[0], lines[0])
        try:
            self._watch()
            for output in self.outputs:
                output.read_on()
        except BaseException:
            self.abandon()
            raise

    # The start

    def _pipes(
        self, theirs: contextlib.ExitStack, ours: contextlib.ExitStack, pty: bool, merge_stderr: bool, feed: bool
    ) -> tuple[int, int, int, tuple[int, int | None]]:
        """The child's three descriptors, and ours of its outputs."""

        def own(fd: int) -> int:
            ours.callback(os.close, fd)
            os.set_blocking(fd, False)
            return fd

        def lent(fd: int) -> int:
            theirs.callback(os.close, fd)
            return fd

        if pty:
            master, slave = os.openpty()
            own(master)
            lent(slave)
            attributes = termios.tcgetattr(slave)
            attributes[1] &= ~termios.ONLCR  # the output is what the program wrote,
            attributes[3] &= ~termios.ECHO  # and not its input
            termios.tcsetattr(slave, termios.TCSANOW, attributes)
            termios.tcsetwinsize(slave, (_ROWS, _COLUMNS))
            if feed:
                self.stdin = own(fcntl.fcntl(master, fcntl.F_DUPFD_CLOEXEC, 0))
            return slave, slave, slave, (master, None)
        stdin: int = subprocess.DEVNULL
        if feed:
            stdin, mine = os.pipe()
            lent(stdin)
            self.stdin = own(mine)
        out, stdout = os.pipe()
        own(out)
        lent(stdout)
        if merge_stderr:
            return stdin, stdout, subprocess.STDOUT, (out, None)
        err, stderr = os.pipe()
        own(err)
        lent(stderr)
        return stdin, stdout, stderr, (out, err)

    def _start(
        self,
        stdin: int,
        stdout: int,
        stderr: int,
        cwd: str | os.PathLike[str] | None,
        env: Mapping[str, str] | None,
    ) -> subprocess.Popen[bytes]:
        command: Sequence[str | bytes] = self.command
        if self._pty:
            program = os.fsdecode(self.command[0])
            path = None if env is None else env.get("PATH")
            if os.sep in program:
                found = os.access(os.path.join(cwd or "", program), os.X_OK)
            else:
                found = shutil.which(program, path=path) is not None
            if not found:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
            command = ["/bin/sh", "-c", _ON_A_TERMINAL, os.ttyname(stdin), *self.command]
        try:
            return subprocess.Popen(
                command, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env, start_new_session=True
            )
        except FileNotFoundError as error:
            if len(self.command) == 1 and len(words := os.fsdecode(self.command[0]).split()) > 1:
                error.add_note(f"There is no shell here: pass each argument by itself, {', '.join(map(repr, words))}")
            raise

    def _watch(self) -> None:
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # not Linux, or not allowed to
            threading.Thread(target=self._wait_in_thread, name=f"wait for {self.pid}", daemon=True).start()
        else:
            self.loop.add_reader(self._pidfd, self._exited)

    def _wait_in_thread(self) -> None:
        with contextlib.suppress(ChildProcessError):
            if hasattr(os, "waitid"):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            else:
                self._note_status(os.waitpid(self.pid, 0)[1])
        with contextlib.suppress(RuntimeError):  # the loop is closed: it was abandoned
            self.loop.call_soon_threadsafe(self._exited)

    # What happens to it

    def _exited(self) -> None:
        """The command itself has ended. It stays a zombie, if that is possible."""
        if self.returncode is not None or self._life.over:
            return
        self._unwatch()
        self._note_exit()
        self._wake_all()
        self._obey(self._life.exited(self.loop.time()))

    def _note_exit(self) -> None:
        if self._popen.returncode is None:
            try:
                if hasattr(os, "waitid"):
                    ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
                    assert ended is not None
                    code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
                    self._popen.returncode = code
                else:
                    self._note_status(os.waitpid(self.pid, 0)[1])
            except ChildProcessError:
                self._reaped = True
                self._popen.returncode = _UNKNOWN
                _log.warning("%r was reaped by somebody else: its exit code is not known", self)
        self.returncode = self._popen.returncode

    def _note_status(self, status: int) -> None:
        self._reaped = True
        self._popen.returncode = os.waitstatus_to_exitcode(status)

    def output_closed(self) -> None:
        """An output has come to its end."""
        if not any(output.is_open for output in self.outputs):
            self._obey(self._life.closed())

    @property
    def outputs(self) -> list[Output]:
        return [self.stdout] if self.stderr is None else [self.stdout, self.stderr]

    def _obey(self, told: tuple[str | None, bool, float | None, bool]) -> None:
        while True:
            what, probe, wake_at, over = told
            if what is not None:
                self._signal_end(what)
            if wake_at is not None or over:
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = None if wake_at is None else self.loop.call_at(wake_at, self._tick)
            if over:
                self._over()
            if not probe:
                return
            told = self._life.probed(self._is_group_alive(), self.loop.time())

    def _tick(self) -> None:
        self._timer = None
        self._obey(self._life.tick(self.loop.time()))

    def _signal_end(self, what: str) -> None:
        if what == "kill":
            self.send(signal.SIGKILL)
        elif self.send(signal.SIGTERM):
            self.send(signal.SIGCONT)  # one that is stopped would not hear it

    def send(self, number: int) -> bool:
        """Sends a signal to the whole group; tells whether there was anybody."""
        if self._life.over:
            return False
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:
            _log.warning("%r runs as another user: it cannot be signalled", self)
        return True

    def _reap(self) -> bool:
        """The command, and whoever of its group was left to us, if we adopt orphans (as the first of a container).

        Tells whether there was anybody."""
        self._reaped, found = True, False
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-self.pid, os.WNOHANG)[0]:
                found = True
        return found

    def _is_group_alive(self) -> bool:
        """Whether anybody of the group is: zombies that nobody reaps are not. The command has ended."""
        self._reap()
        while True:
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return False
            except PermissionError:
                pass
            if self._has_member():
                return True
            if not self._reap():  # whoever has become a zombie since is ours to reap, or never will be
                return False

    def _has_member(self) -> bool:
        """Whether the group has a member that is no zombie, by the kernel's list of processes."""
        if self._witness and _is_member(self._witness, self.pid):
            return True
        try:
            names = os.listdir("/proc")
        except OSError:
            return True
        if not any(name.isdigit() for name in names):  # not Linux
            return True
        self._witness = next((int(name) for name in names if name.isdigit() and _is_member(int(name), self.pid)), 0)
        return self._witness != 0

    def _over(self) -> None:
        if self._life.abandoned:
            _log.error("%r has outlived SIGKILL for %g s: nobody waits for it any longer", self, _GIVE_UP)
        for output in self.outputs:
            output.close(drain=True)
        self._close()
        if self._feeder is not None:
            self._feeder.cancel()
        self._settle()

    def _close(self) -> None:
        self.close_stdin()
        self._unwatch()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        _live.discard((self.pid, self._made_in))
        if not _live:
            atexit.unregister(_kill_all)
        if self.returncode is None:
            _reap_later(self._popen)

    def _unwatch(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    # Who waits

    @property
    def is_settled(self) -> bool:
        """Nothing of it is left: neither a process, nor a descriptor, nor a task."""
        return self._life.over and not self._helpers

    @property
    def is_over(self) -> bool:
        return self._life.over

    @property
    def is_ending(self) -> bool:
        """It was asked to end, or has ended."""
        return not self._life.running

    def _settle(self) -> None:
        if self.is_settled and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._wake_all()

    def _wake_all(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, what: Callable[[Child], bool]) -> None:
        """Waits until something is so."""
        while not what(self):
            waiter = self.loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                self._waiters.remove(waiter)

    async def settled(self) -> None:
        """Waits until nothing of it is left."""
        await self.until(lambda child: child.is_settled)

    async def outlast(self) -> asyncio.CancelledError | None:
        """The same, whatever cancels arrive meanwhile; the first of them is given back."""
        first: asyncio.CancelledError | None = None
        if self.is_settled:
            return None
        with _shielded_from_anyio():
            while not self.is_settled:
                try:
                    await self.settled()
                except asyncio.CancelledError as error:
                    first = first or error
        return first

    async def close(self, kind: type[BaseException] | None) -> None:
        """At the end of its block: ends it and waits until nothing of it is left, whatever cancels arrive.

        The first of those is raised then, unless the block ends in a cancel anyway; ``kind`` is what it ends in.
        """
        arrived: asyncio.CancelledError | None = None
        try:
            self.end()
            arrived = await self.outlast()
        finally:
            self.abandon()
        if arrived is not None and (kind is None or not issubclass(kind, asyncio.CancelledError)):
            try:
                raise arrived
            finally:
                del arrived

    # Its end

    def expire_after(self, seconds: float) -> None:
        """Ends it then."""
        self._deadline = self.loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._deadline = None
        self.timed_out = True
        self.end()

    def end(self) -> None:
        """Ends it, helpers included."""
        self._interrupt_helpers()
        for output in self.outputs:
            output.leave()
        self._obey(self._life.end(self.loop.time()))

    def kill(self) -> None:
        """Kills it."""
        self._obey(self._life.kill(self.loop.time()))

    def abandon(self) -> None:
        """Kills it and waits for nothing: for when nobody can. A thread reaps it."""
        if self.is_settled or os.getpid() != self._made_in:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._interrupt_helpers()
        if self._life.over:
            return
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        self._life.kill(0.0)
        self._life.tick(float("inf"))
        for output in self.outputs:
            with contextlib.suppress(RuntimeError):
                output.close()
        with contextlib.suppress(RuntimeError):
            self.close_stdin()
        self._close()
        if self.returncode is not None and not self._reaped:
            self._reap()

    def __del__(self) -> None:
        if hasattr(self, "stdout"):
            self.abandon()

    # What helps: whoever feeds it and takes its lines

    def _help(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.loop.create_task(coroutine)
        if task.done():  # an eager one
            self._helped(task)
        else:
            self._helpers.add(task)
            task.add_done_callback(self._helped)
        return task

    def _helped(self, task: asyncio.Task[None]) -> None:
        self._helpers.discard(task)
        error: BaseException | None = None
        if task.cancelled():
            if not self._interrupted and not (task is self._feeder and self._life.over):
                error = CallCancelled(
                    f"a callback of {self!r} raised CancelledError although nobody had cancelled it: something it "
                    "awaits was cancelled; catch that where it is awaited"
                )
        else:
            error = task.exception()
        if error is not None:
            self.error = self.error or error
            if not self._life.over:
                self.end()
            else:
                self._interrupt_helpers()
        self._settle()

    def _interrupt_helpers(self) -> None:
        self._interrupted = True
        for task in self._helpers:
            task.cancel()

    def deliver(self, output: Output, on_line: Callable[[Any], Awaitable[object] | object], text: bool) -> None:
        """Calls back with each line, one after the other. While an asynchronous call runs, little is read ahead."""
        self._help(self._deliver(output, on_line, text))

    async def _deliver(self, output: Output, on_line: Callable[[Any], Awaitable[object] | object], text: bool) -> None:
        while batch := await output.take(_BATCH, text, with_ends=False):
            for line in batch:
                answer = on_line(line)
                if isawaitable(answer):
                    await answer
            await asyncio.sleep(0)

    def feed(self, source: bytes | bytearray | memoryview | AsyncIterable[bytes]) -> None:
        """Writes something to its input, then closes that."""
        self._feeder = self._help(self._feed(source))

    async def _feed(self, source: bytes | bytearray | memoryview | AsyncIterable[bytes]) -> None:
        try:
            if not isinstance(source, AsyncIterable):
                await self.write(source)
                return
            chunks = aiter(source)
            try:
                async for chunk in chunks:
                    await self.write(chunk)
            finally:
                # One that was broken off is closed here, if it is ours to close.
                if chunks is not source or hasattr(source, "ag_frame"):
                    close = getattr(chunks, "aclose", None)
                    if close is not None:
                        await close()
        except BrokenPipeError:
            pass  # it does not want more, as in a pipeline of the shell
        finally:
            self.close_stdin()

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Writes all of it to the child's input, as fast as that is read."""
        left = memoryview(data).cast("B")
        if left:
            self._ends_with_line = left[-1] == ord("\n")
        turns = 0
        while left:
            if self.stdin < 0:
                raise BrokenPipeError(errno.EPIPE, f"the input of {self!r} is closed")
            try:
                left = left[os.write(self.stdin, left[:_CHUNK]) :]
            except BlockingIOError:
                await self._writable()
            except OSError as error:
                self.close_stdin()
                raise BrokenPipeError(errno.EPIPE, f"{self!r} has closed its input") from error
            turns += 1
            if turns % 16 == 0:
                await asyncio.sleep(0)

    async def _writable(self) -> None:
        if self._writer is not None:
            raise RuntimeError(f"another task already writes to {self!r}; one may at a time")
        fd = self.stdin
        self._writer = self.loop.create_future()
        self.loop.add_writer(fd, _set, self._writer)
        try:
            await self._writer
        finally:
            self._writer = None
            if fd == self.stdin:
                self.loop.remove_writer(fd)

    def close_stdin(self) -> None:
        """Tells the child that there is no more input."""
        if self.stdin < 0:
            return
        fd, self.stdin = self.stdin, -1
        if self._writer is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.loop.remove_writer(fd)
        if self._pty:
            with contextlib.suppress(OSError):  # the first one ends a line that has no end
                os.write(fd, b"\x04" if self._ends_with_line else b"\x04\x04")
        os.close(fd)
        if self._writer is not None:
            _set(self._writer)

    def __repr__(self) -> str:
        shown = os.fsdecode(self.command[0])
        if self.returncode is not None:
            state = f"exited with {self.returncode}"
        else:
            state = "running" if self._life.running else "ending"
        pid = f" pid={self.pid}" if hasattr(self, "pid") else ""
        return f"<process {shown!r}{pid} {state}>"


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _is_member(pid: int, group: int) -> bool:
    """Whether a process is alive and of that group."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, _, its_group = file.read().rpartition(b")")[2].split(None, 3)[:3]
    except (OSError, ValueError):
        return False
    return int(its_group) == group and state not in (b"Z", b"X")


def _reap_later(popen: subprocess.Popen[bytes]) -> None:
    """Waits in a thread for a child that has been killed."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            popen.wait()

    if sys.is_finalizing():  # a thread would never start, and who reaps orphans does so in a moment
        popen.returncode = -signal.SIGKILL
        return
    try:
        threading.Thread(target=wait, name=f"reap {popen.pid}", daemon=True).start()
    except RuntimeError:  # the interpreter is about to exit
        wait()


def _kill_all() -> None:
    """At the exit of the interpreter: nothing outlives it."""
    for group, made_in in _live:
        if made_in == os.getpid():
            with contextlib.suppress(OSError):
                os.killpg(group, signal.SIGKILL)
