"""Child processes: run one to its end, take its lines, talk to it. Nothing of it is left, whatever happens."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from loopwright import _trace
from loopwright._arguments import count, seconds
from loopwright.errors import ProcessError, ProcessTimeout

if TYPE_CHECKING:
    from loopwright._child import Argument, Child, Output

__all__ = [
    "LineStream",
    "Process",
    "ProcessResult",
    "ProcessStats",
    "ProcessStream",
    "open_process",
    "run_process",
    "stream_lines",
]

_MAX_OUTPUT = 1 << 20
_MAX_LINE = 1 << 20
_SHORTEST_LINE = 4
_LINES_A_TIME = 256


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """What became of a process: complete when it has ended, else what there is so far."""

    command: tuple[str | bytes, ...]
    """The command and its arguments."""
    returncode: int | None
    """The exit code; ``-n`` when signal ``n`` ended it; None while it runs."""
    stdout: bytes
    """The last bytes it wrote to its standard output, ``max_output`` at most."""
    stderr: bytes
    """The same of its standard error; empty when that is merged into the other, or on a terminal."""
    stdout_cut: int
    """Bytes of standard output before those, which were not kept."""
    stderr_cut: int
    """The same of standard error."""

    @property
    def text(self) -> str:
        """``stdout`` as text; what is not UTF-8 is replaced."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        """``stderr`` as text; what is not UTF-8 is replaced."""
        return self.stderr.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class ProcessStats:
    """What a :class:`Process` looks like at one moment."""

    pid: int
    """Its number, and that of the group it leads."""
    returncode: int | None
    """The exit code; None while it runs."""
    state: Literal["running", "ending", "over"]
    """``ending``: its group was asked to end, or to die. ``over``: nothing of it is left."""
    stdout_bytes: int
    """Bytes read of its standard output so far."""
    stderr_bytes: int
    """The same of its standard error."""
    stdout_paused: bool
    """Its standard output is not read, as nobody takes what is there: it waits when the pipe is full."""
    stderr_paused: bool
    """The same of its standard error."""


@dataclass(frozen=True, slots=True)
class _Options:
    """What the three forms share, checked."""

    name: str
    command: tuple[Argument, ...]
    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str] | None
    pty: bool
    merge_stderr: bool
    kill_after: float
    linger: float | None
    max_output: int
    max_line: int

    def __post_init__(self) -> None:
        name, command = self.name, self.command
        if not command:
            raise TypeError(f"{name} takes a command and its arguments, got none: {name}('git', 'status')")
        for part in command:
            if not isinstance(part, (str, bytes, os.PathLike)):
                hint = f"unpack it, {name}(*{part!r})" if isinstance(part, (list, tuple)) else "pass str(...) of it"
                raise TypeError(f"{name} takes strings, bytes or paths, got {part!r}: {hint}")
        seconds(self.kill_after, f"{name}(kill_after=...)")
        if self.linger is not None:
            seconds(self.linger, f"{name}(linger=...)")
        count(self.max_output, f"{name}(max_output=...)", least=0)
        count(self.max_line, f"{name}(max_line=...)", least=_SHORTEST_LINE)
        if self.env is not None and not isinstance(self.env, Mapping):
            raise TypeError(f"{name}(env=...) must be a mapping, got {self.env!r}: os.environ | {{...}} adds to ours")

    def start(self, *, feed: bool, tails: tuple[bool, bool], lines: tuple[bool, bool]) -> Child:
        """A child, started. Which of its outputs are kept, and of which lines are taken."""
        if sys.platform == "win32":
            raise RuntimeError(f"{self.name} needs process groups, which Windows has not: use asyncio's subprocesses")
        from loopwright._child import Child  # noqa: PLC0415 (only who starts processes pays for its imports)

        return Child(
            self.command,
            cwd=self.cwd,
            env=self.env,
            pty=self.pty,
            merge_stderr=self.merge_stderr,
            feed=feed,
            tails=(self.max_output * tails[0], self.max_output * tails[1]),
            lines=(self.max_line if lines[0] else None, self.max_line if lines[1] else None),
            kill_after=float(self.kill_after),
            linger=self.linger,
        )


def _result(child: Child) -> ProcessResult:
    out, err = child.stdout.tail, None if child.stderr is None else child.stderr.tail
    return ProcessResult(
        child.command,
        child.returncode,
        out.kept(),
        b"" if err is None else err.kept(),
        out.cut,
        0 if err is None else err.cut,
    )


def _timed_out(child: Child, limit: float | None) -> ProcessTimeout:
    result = _result(child)
    if not child.is_over or child.returncode is None:
        became = "it has outlived SIGKILL"
    elif child.returncode < 0:
        became = "its group was ended"
    else:
        became = f"it had exited with {child.returncode}" if child.returncode == 0 else f"exit code {child.returncode}"
    return ProcessTimeout(f"{_shown(child)} did not end within timeout={limit} s: {became}{_said(result)}", result)


def _failed(child: Child) -> ProcessError:
    result = _result(child)
    assert result.returncode is not None
    how = f"exit code {result.returncode}" if result.returncode > 0 else f"signal {-result.returncode}"
    return ProcessError(f"{_shown(child)}: {how}{_said(result)}", result)


def _shown(child: Child) -> str:
    return repr(os.fsdecode(child.command[0]))


def _said(result: ProcessResult) -> str:
    """Its last words, for a message of one line."""
    lines = (result.error_text.strip() or result.text.strip()).splitlines()
    return f": {lines[-1][-200:]}" if lines else ""


# ---------------------------------------------------------------------------------------------------- run_process


async def run_process(  # noqa: PLR0913 (each is a setting of its own)
    *command: Argument,
    input: bytes | bytearray | memoryview | AsyncIterable[bytes] | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 (what it does is more than a cancel: see below)
    max_output: int = _MAX_OUTPUT,
    on_line: Callable[[Any], Awaitable[object] | object] | None = None,
    on_error_line: Callable[[Any], Awaitable[object] | object] | None = None,
    text: bool = True,
    max_line: int = _MAX_LINE,
    merge_stderr: bool = False,
    pty: bool = False,
    kill_after: float = 2.0,
    linger: float | None = None,
    check: bool = True,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> ProcessResult:
    """Runs a command to its end and keeps the last of its output; nothing of it outlives the call.

    In place of ``asyncio.create_subprocess_exec`` and ``communicate``, which keep everything a child writes in memory,
    lose it on a cancel, and end the child alone::

        result = await run_process("git", "log", "--oneline", timeout=10)
        print(result.text)

    There is no shell: each argument arrives as it is. Both pipes are read all the time, so the child never waits for
    us, however much it writes, unless a callback below holds it up.

    Args:
        *command: the program, looked up in ``PATH``, and its arguments.
        input: what it gets as standard input: bytes, or an asynchronous iterable of bytes, which is read as fast as
            the child reads and closed in the end. None: there is nothing to read. A child that closes its input
            early, or ends, gets no more of it, and that is no error.
        timeout: seconds after which its group is ended, 0 or more; None: never.
        max_output: bytes that are kept of each output, the last ones.
        on_line: called with each line of standard output, without its end, in order. When it returns an awaitable,
            that is awaited before the next line, and the child has to wait when the pipe is full.
        on_error_line: the same for standard error. The two run side by side.
        text: lines as ``str`` (what is not UTF-8 is replaced), or as ``bytes``.
        max_line: bytes, 4 or more; a longer line arrives in pieces of at most so many, never within a character.
        merge_stderr: standard error goes where standard output goes, in the order in which they were written.
        pty: run it on a terminal of its own, 80 x 24, which is its controlling one, has no echo and merges the outputs.
            Input ends with an end-of-file character; without a newline, its lines are limited to 4095 bytes.
        kill_after: seconds from SIGTERM to SIGKILL, 0 or more; 0: SIGKILL at once.
        linger: seconds that others of its group may hold its outputs once the command itself has ended; None: as long
            as they do, as what they write is output too.
        check: raise for an exit code other than 0.
        cwd: the directory it starts in.
        env: its environment, in place of ours.

    Returns:
        A :class:`ProcessResult`.

    Raises:
        ProcessError: the exit code is not 0. It has the ``result``.
        ProcessTimeout: ``timeout`` has passed. It has the ``result`` so far.
        FileNotFoundError, PermissionError: there is no such program, or it may not be run.
        Exception: whatever ``input`` or a callback raises, once the group has ended.
        TypeError, ValueError: an argument that makes no sense, named.

    The command leads a process group (and a session) of its own. When it has ended and its outputs have closed, and
    also on a timeout, a cancel or an error, what is left of the *group* gets SIGTERM and, ``kill_after`` seconds later,
    SIGKILL: only then does the call come back. Cancels that arrive meanwhile are delayed, by ``kill_after`` and five
    seconds at most; the first ``CancelledError`` goes on, with the output so far as its attribute ``process`` (under a
    timeout that is ``error.__cause__.process``). No zombie and no file descriptor is left. Works on every loop with
    ``add_reader`` and in any thread.

    A child that starts a session of its own leaves the group, and is left alone: that is how daemons are made.
    """
    options = _Options("run_process", command, cwd, env, pty, merge_stderr, kill_after, linger, max_output, max_line)
    limit = None if timeout is None else seconds(timeout, "run_process(timeout=...)")
    if input is not None and not isinstance(input, (bytes, bytearray, memoryview, AsyncIterable)):
        hint = "encode it" if isinstance(input, str) else "pass bytes"
        raise TypeError(f"run_process(input=...) must be bytes or an async iterable of bytes, got {input!r}: {hint}")
    for callback, what in ((on_line, "on_line"), (on_error_line, "on_error_line")):
        if callback is not None and not callable(callback):
            raise TypeError(f"run_process({what}=...) must be a function of a line, got {callback!r}")
    if on_error_line is not None and (merge_stderr or pty):
        raise TypeError("run_process(on_error_line=...) gets nothing when the outputs are merged: use on_line")
    if _trace.hook is None:
        return await _run(
            options,
            source=input,
            limit=limit,
            on_line=on_line,
            on_error_line=on_error_line,
            text=text,
            check=check,
        )
    with _trace.hook("loopwright.run_process", {"process.executable.name": os.fsdecode(os.fspath(command[0]))}):
        return await _run(
            options,
            source=input,
            limit=limit,
            on_line=on_line,
            on_error_line=on_error_line,
            text=text,
            check=check,
        )


async def _run(  # noqa: PLR0913
    options: _Options,
    *,
    source: bytes | bytearray | memoryview | AsyncIterable[bytes] | None,
    limit: float | None,
    on_line: Callable[[Any], Awaitable[object] | object] | None,
    on_error_line: Callable[[Any], Awaitable[object] | object] | None,
    text: bool,
    check: bool,
) -> ProcessResult:
    child = options.start(
        feed=source is not None,
        tails=(True, True),
        lines=(on_line is not None, on_error_line is not None),
    )
    try:
        if limit is not None:
            child.expire_after(limit)
        if source is not None:
            child.feed(source)
        if on_line is not None:
            child.deliver(child.stdout, on_line, text)
        if on_error_line is not None and child.stderr is not None:
            child.deliver(child.stderr, on_error_line, text)
        await child.settled()
    except asyncio.CancelledError as error:
        child.end()
        await child.outlast()
        _leave_word(error, child)
        raise
    finally:
        child.abandon()  # only who is thrown away on its way comes here with something left
    if child.error is not None:
        try:
            raise child.error
        finally:
            child.error = None  # its traceback refers to this frame
    if child.timed_out:
        raise _timed_out(child, limit)
    if check and child.returncode != 0:
        raise _failed(child)
    return _result(child)


def _leave_word(error: asyncio.CancelledError, child: Child) -> None:
    """What there is so far, on the cancel that goes on."""
    result = _result(child)
    error.process = result  # type: ignore[attr-defined]
    error.add_note(f"{_shown(child)} was ended by a cancel{_said(result)}")


# --------------------------------------------------------------------------------------------------- open_process


def open_process(  # noqa: PLR0913 (each is a setting of its own)
    *command: Argument,
    stdout: Literal["stream", "keep"] = "stream",
    stderr: Literal["stream", "keep", "merge"] = "keep",
    max_output: int = _MAX_OUTPUT,
    max_line: int = _MAX_LINE,
    pty: bool = False,
    kill_after: float = 2.0,
    linger: float | None = None,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> Process:
    """A process to talk to, for as long as a block lasts::

        async with open_process("bc") as bc:
            await bc.write(b"6 * 7\\n")
            print(await bc.stdout.readline())

    Leaving the block ends the group, as the end of :func:`run_process` does: wait inside for one that shall end by
    itself.

    Args:
        *command: the program and its arguments, without a shell.
        stdout: ``"stream"``: to be read, as :attr:`Process.stdout`; the child waits when nobody reads. ``"keep"``: read
            all the time, the last of it is in :meth:`Process.result`.
        stderr: the same, and ``"merge"``: to where standard output goes.
        max_output: bytes that are kept of an output, the last ones.
        max_line: bytes, 4 or more; a longer line arrives in pieces.
        pty: run it on a terminal; see :func:`run_process`.
        kill_after: seconds from SIGTERM to SIGKILL, 0 or more.
        linger: seconds that others of its group may hold its outputs once the command itself has ended.
        cwd: the directory it starts in.
        env: its environment, in place of ours.

    Returns:
        A :class:`Process`, to be entered with ``async with``, once; it is started then.

    Raises:
        FileNotFoundError, PermissionError: (entered) there is no such program, or it may not be run.
        TypeError, ValueError: an argument that makes no sense, named; at once.

    A cancel that arrives while the group ends is delayed until it has ended. For a deadline put ``async with
    timeout(...)`` around the block.
    """
    for value, what, known in ((stdout, "stdout", ("stream", "keep")), (stderr, "stderr", ("stream", "keep", "merge"))):
        if value not in known:
            raise ValueError(f"open_process({what}=...) must be one of {', '.join(map(repr, known))}, got {value!r}")
    options = _Options(
        "open_process", command, cwd, env, pty, stderr == "merge", kill_after, linger, max_output, max_line
    )
    return Process(options, stdout == "stream", stderr == "stream")


class Process:
    """What :func:`open_process` gives: a running process, inside its block."""

    def __init__(self, options: _Options, stdout: bool, stderr: bool) -> None:
        self._options = options
        self._streams = stdout, stderr and not options.pty
        self._child: Child | None = None
        self._stdout: ProcessStream | None = None
        self._stderr: ProcessStream | None = None

    async def __aenter__(self) -> Process:
        """Starts it."""
        if self._child is not None:
            raise RuntimeError("this process was started already: make another one")
        out, err = self._streams
        self._child = child = self._options.start(feed=True, tails=(not out, not err), lines=(out, err))
        self._stdout = ProcessStream(child.stdout) if out else None
        self._stderr = ProcessStream(child.stderr) if err and child.stderr is not None else None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends its group."""
        del error, traceback
        await self._started.close(kind)

    @property
    def _started(self) -> Child:
        if self._child is None:
            raise RuntimeError("the process is not started: use it inside `async with open_process(...) as process:`")
        return self._child

    @property
    def pid(self) -> int:
        """Its number, and that of the group it leads."""
        return self._started.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; ``-n`` when signal ``n`` ended it; None while it runs."""
        return None if self._child is None else self._child.returncode

    @property
    def stdout(self) -> ProcessStream:
        """Its standard output, to be read."""
        return self._stream(self._stdout, "stdout")

    @property
    def stderr(self) -> ProcessStream:
        """Its standard error, to be read."""
        return self._stream(self._stderr, "stderr")

    def _stream(self, stream: ProcessStream | None, name: str) -> ProcessStream:
        _ = self._started
        if stream is None:
            raise RuntimeError(
                f"{name} is not a stream here, its last bytes are in result(): to read it, open with {name}='stream'"
            )
        return stream

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Writes all of it to the process's input, as fast as it reads.

        Raises:
            BrokenPipeError: the process has closed its input, or has ended, or :meth:`close_input` was called.
            RuntimeError: another task already waits in here.

        A cancelled write may have written a part.
        """
        await self._started.write(data)

    def close_input(self) -> None:
        """Tells the process that there is no more input."""
        self._started.close_stdin()

    async def wait(self) -> int:
        """Waits until the command itself has ended, and gives its exit code. Its outputs may still be held by others,
        and full pipes are read by nobody else: read its streams before, or meanwhile."""
        child = self._started
        await child.until(lambda child: child.returncode is not None or child.is_over)
        if child.returncode is None:
            raise ProcessTimeout(
                f"{_shown(child)} has outlived SIGKILL: nobody waits for it any longer", _result(child)
            )
        return child.returncode

    def send_signal(self, number: int) -> bool:
        """Sends a signal to the whole group; tells whether there was anybody to get it."""
        return self._started.send(number)

    def terminate(self) -> None:
        """Asks the group to end: SIGTERM, and after ``kill_after`` seconds SIGKILL. Streams are not read any more."""
        self._started.end()

    def kill(self) -> None:
        """Ends the group: SIGKILL."""
        self._started.kill()

    def result(self) -> ProcessResult:
        """What there is so far; of outputs that are streams, nothing is kept."""
        return _result(self._started)

    def stats(self) -> ProcessStats:
        """A frozen :class:`ProcessStats` of this moment."""
        child = self._started
        err = child.stderr
        return ProcessStats(
            pid=child.pid,
            returncode=child.returncode,
            state="over" if child.is_over else "ending" if child.is_ending else "running",
            stdout_bytes=child.stdout.total,
            stderr_bytes=0 if err is None else err.total,
            stdout_paused=child.stdout.is_paused,
            stderr_paused=err is not None and err.is_paused,
        )

    def __repr__(self) -> str:
        if self._child is None:
            return f"<process {os.fsdecode(os.fspath(self._options.command[0]))!r} not started>"
        return repr(self._child)


class ProcessStream:
    """An output of a process, to be read by one task at a time. When nobody reads, the process waits.

    ``async for line in process.stdout`` gives its lines as ``str``, without their ends.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._lines: deque[str] = deque()

    async def read(self, n: int = 1 << 16) -> bytes:
        """Up to ``n`` bytes, as soon as there are any; ``b""`` at the end. A cancelled read has taken none."""
        if self._lines:
            raise RuntimeError("some lines were read ahead and not taken: read either bytes or lines of one stream")
        return await self._output.take_bytes(count(n, "read(n)"))

    async def readline(self) -> bytes:
        """The next line with its end, or a piece without one; ``b""`` at the end. A cancelled read has taken none."""
        if self._lines:
            raise RuntimeError("some lines were read ahead and not taken: use readline or `async for` of one stream")
        batch = await self._output.take(1, text=False, with_ends=True)
        line: bytes = batch[0] if batch else b""
        return line

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        """The next line."""
        if not self._lines:
            self._lines.extend(await self._output.take(_LINES_A_TIME, text=True, with_ends=False))
            if not self._lines:
                raise StopAsyncIteration
        return self._lines.popleft()


# --------------------------------------------------------------------------------------------------- stream_lines


def stream_lines(  # noqa: PLR0913 (each is a setting of its own)
    *command: Argument,
    input: bytes | bytearray | memoryview | AsyncIterable[bytes] | None = None,
    timeout: float | None = None,
    text: bool = True,
    keep_ends: bool = False,
    max_line: int = _MAX_LINE,
    max_output: int = _MAX_OUTPUT,
    merge_stderr: bool = False,
    pty: bool = False,
    kill_after: float = 2.0,
    linger: float | None = None,
    check: bool = True,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> LineStream:
    """The lines of a command's standard output, as they come::

        async with stream_lines("journalctl", "--follow") as lines:
            async for line in lines: ...

    Little is read ahead: while nobody takes lines the command has to wait. Standard error is read all the time, and
    the last of it is in the errors. Leaving the block early ends the command's group, and that is no error.

    Args:
        keep_ends: lines with their ends, as with ``str.splitlines(keepends=True)``: a piece of a line longer than
            ``max_line`` is known by having none.
        max_output: bytes that are kept of standard error, the last ones.

    The other arguments are those of :func:`run_process`.

    Returns:
        A :class:`LineStream`, to be entered with ``async with``, once; the command is started then.

    Raises:
        ProcessError: (iterated) after the last line: the exit code is not 0.
        ProcessTimeout: (iterated) after the lines that arrived in time: ``timeout`` has passed.
        FileNotFoundError, PermissionError: (entered) there is no such program, or it may not be run.
        TypeError, ValueError: an argument that makes no sense, named; at once.

    A cancelled wait for the next line has taken none. A cancel that arrives while the group ends is delayed until it
    has ended.
    """
    options = _Options("stream_lines", command, cwd, env, pty, merge_stderr, kill_after, linger, max_output, max_line)
    limit = None if timeout is None else seconds(timeout, "stream_lines(timeout=...)")
    if input is not None and not isinstance(input, (bytes, bytearray, memoryview, AsyncIterable)):
        raise TypeError(f"stream_lines(input=...) must be bytes or an async iterable of bytes, got {input!r}")
    return LineStream(options, source=input, limit=limit, text=text, keep_ends=keep_ends, check=check)


class LineStream:
    """What :func:`stream_lines` gives: ``async with`` it for an asynchronous iterator."""

    def __init__(  # noqa: PLR0913
        self,
        options: _Options,
        *,
        source: bytes | bytearray | memoryview | AsyncIterable[bytes] | None,
        limit: float | None,
        text: bool,
        keep_ends: bool,
        check: bool,
    ) -> None:
        self._options = options
        self._source = source
        self._limit = limit
        self._text = text
        self._keep_ends = keep_ends
        self._check = check
        self._child: Child | None = None
        self._lines: deque[Any] = deque()
        self._told = False

    async def __aenter__(self) -> LineStream:
        """Starts the command."""
        if self._child is not None:
            raise RuntimeError("this command was started already: make another stream_lines")
        self._child = child = self._options.start(
            feed=self._source is not None, tails=(False, True), lines=(True, False)
        )
        try:
            if self._limit is not None:
                child.expire_after(self._limit)
            if self._source is not None:
                child.feed(self._source)
        except BaseException:
            child.abandon()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends the command's group."""
        del error, traceback
        child = self._child
        assert child is not None
        await child.close(kind)
        if kind is None and child.error is not None and not self._told:
            raise child.error

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._child is None:
            raise TypeError("iterate inside `async with stream_lines(...) as lines:`, so that it always ends")
        return self

    async def __anext__(self) -> Any:
        """Waits for the next line."""
        child = self._child
        if child is None:
            raise TypeError("iterate inside `async with stream_lines(...) as lines:`, so that it always ends")
        if not self._lines:
            self._lines.extend(await child.stdout.take(_LINES_A_TIME, self._text, self._keep_ends))
        if self._lines:
            return self._lines.popleft()
        await child.settled()
        if not self._told:
            self._told = True
            if child.error is not None:
                raise child.error
            if child.timed_out:
                raise _timed_out(child, self._limit)
            if self._check and child.returncode != 0:
                raise _failed(child)
        raise StopAsyncIteration

    @property
    def returncode(self) -> int | None:
        """The exit code; None while the command runs."""
        return None if self._child is None else self._child.returncode

    def __repr__(self) -> str:
        if self._child is None:
            return f"<stream_lines {os.fsdecode(os.fspath(self._options.command[0]))!r} not started>"
        return f"<stream_lines of {self._child!r}>"
