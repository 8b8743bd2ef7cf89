"""Child processes: bounded output that is kept, a group that dies, no zombie, no descriptor left (promise 12)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.loops import CELLS, PLAIN, Cell, parameters, run

import loopwright
from loopwright import (
    CallCancelled,
    LoopwrightError,
    ProcessError,
    ProcessResult,
    ProcessTimeout,
    _child,
    open_process,
    run_process,
    stream_lines,
)
from loopwright.testing import Play, cancel_sweep

DEAF = "trap '' TERM HUP INT; "
"""For a shell: it and what it starts ignore requests to end."""

ENDED = 30.0
"""Seconds in which whatever was killed is gone, on any machine."""


def children() -> set[int]:
    """Our children, zombies included."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def descriptors() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(f"{fd}: {os.readlink(f'/proc/self/fd/{fd}')}")
    return found


def alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def eventually(what: Callable[[], bool]) -> None:
    """Waits in real time for what another process does."""
    until = time.monotonic() + ENDED
    while not what():
        assert time.monotonic() < until, f"never: {what}"
        time.sleep(0.005)


async def until(what: Callable[[], bool]) -> None:
    """The same, in a loop."""
    end = time.monotonic() + ENDED
    while not what():
        assert time.monotonic() < end, f"never: {what}"
        await asyncio.sleep(0.001)


@pytest.fixture(scope="module", autouse=True)
def uvloop_is_warm() -> None:
    """What the first loop opens for all: uvloop's."""
    for cell in CELLS:
        if importlib.util.find_spec(cell.loop):
            run(lambda: asyncio.sleep(0), cell)


@pytest.fixture(params=parameters([PLAIN, Cell("uvloop")]))
def loop(request: pytest.FixtureRequest) -> Cell:
    """asyncio's loop and uvloop, as they come."""
    cell: Cell = request.param
    return cell


@pytest.fixture(autouse=True)
def nothing_is_left(only_new_garbage: None) -> Iterator[None]:
    """After each test: no child, no zombie, no descriptor, no thread."""
    if not Path("/proc/self/task").exists():
        pytest.skip("/proc is Linux")
    before, open_before, threads = children(), descriptors(), set(threading.enumerate())
    yield
    gc.collect()
    assert _child._live == set()
    eventually(lambda: set(threading.enumerate()) <= threads)
    assert children() <= before
    assert descriptors() <= open_before


async def timed_out(*command: str, lines: int, **options: Any) -> ProcessTimeout:
    """The timeout of a command that has written so many lines by then, however slow the machine is."""
    for timeout in (0.2, 1.0, 5.0, ENDED):
        with pytest.raises(ProcessTimeout) as caught:
            await run_process(*command, timeout=timeout, **options)
        if caught.value.result.stdout.count(b"\n") >= lines:
            break
    return caught.value


def python(program: str) -> tuple[str, ...]:
    return sys.executable, "-S", "-E", "-c", textwrap.dedent(program)


# What it does when all is well


def test_output_exit_code_and_input(cell: Cell) -> None:
    async def main() -> None:
        result = await run_process("cat", input=b"in and out")
        assert result == ProcessResult(("cat",), 0, b"in and out", b"", 0, 0)
        assert result.text == "in and out"
        result = await run_process("sh", "-c", "echo out; echo err >&2; exit 3", check=False)
        assert (result.returncode, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
        assert result.error_text == "err\n"
        assert (await run_process("sh", "-c", "kill -USR1 $$", check=False)).returncode == -signal.SIGUSR1
        assert (await run_process("cat")).stdout == b""

    run(main, cell)


def test_lines_are_called_back_in_order(loop: Cell) -> None:
    async def main() -> None:
        got: list[tuple[str, str]] = []

        async def later(line: str) -> None:
            await asyncio.sleep(0)
            got.append(("err", line))

        await run_process(
            "sh",
            "-c",
            "for i in 1 2 3; do echo $i; echo e$i >&2; done; printf 'last é'",
            on_line=lambda line: got.append(("out", line)),
            on_error_line=later,
        )
        assert [line for name, line in got if name == "out"] == ["1", "2", "3", "last é"]
        assert [line for name, line in got if name == "err"] == ["e1", "e2", "e3"]
        raw: list[bytes] = []
        await run_process("printf", r"a\r\n\377\n", on_line=raw.append, text=False)
        assert raw == [b"a", b"\xff"]

    run(main, loop)


def test_the_exit_code_is_checked(loop: Cell) -> None:
    async def main() -> None:
        with pytest.raises(ProcessError, match=r"^'sh': exit code 3: no such luck$") as caught:
            await run_process("sh", "-c", "echo out; echo no such luck >&2; exit 3")
        assert isinstance(caught.value, RuntimeError)
        assert isinstance(caught.value, LoopwrightError)
        assert caught.value.result.stdout == b"out\n"
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (str(copy), copy.result) == (str(caught.value), caught.value.result)
        with pytest.raises(ProcessError, match=r"^'sh': signal 15$"):
            await run_process("sh", "-c", "kill $$")

    run(main, loop)


def test_there_is_no_shell() -> None:
    async def main() -> None:
        evil = "$(touch /tmp/never) ; `id` '\" *"
        assert (await run_process("printf", "%s", evil)).text == evil
        with pytest.raises(FileNotFoundError) as caught:
            await run_process("ls -l")
        assert caught.value.__notes__ == ["There is no shell here: pass each argument by itself, 'ls', '-l'"]
        with pytest.raises(FileNotFoundError):
            await run_process("no-such-program-at-all", pty=True)
        with pytest.raises(PermissionError):
            await run_process("/etc/passwd")

    run(main)


@pytest.mark.default_only
def test_directory_and_environment(tmp_path: Path) -> None:
    async def main() -> None:
        result = await run_process("/bin/sh", "-c", "pwd; echo $WHAT", cwd=tmp_path, env={"WHAT": "this"})
        assert result.text.split() == [str(tmp_path), "this"]

    run(main)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, TypeError, "takes a command and its arguments, got none"),
        ({"command": (["ls", "-l"],)}, TypeError, r"unpack it, run_process\(\*\['ls', '-l'\]\)"),
        ({"command": (1,)}, TypeError, "pass str"),
        ({"command": ("true",), "input": "text"}, TypeError, "encode it"),
        ({"command": ("true",), "timeout": -1}, ValueError, r"timeout=...\) must be 0 or more"),
        ({"command": ("true",), "kill_after": float("nan")}, ValueError, "kill_after"),
        ({"command": ("true",), "linger": "1"}, TypeError, "linger"),
        ({"command": ("true",), "max_output": 1.5}, TypeError, r"max_output=...\) must be an int"),
        ({"command": ("true",), "max_line": 3}, ValueError, r"max_line=...\) must be 4 or more"),
        ({"command": ("true",), "on_line": "print"}, TypeError, "on_line"),
        ({"command": ("true",), "on_error_line": print, "pty": True}, TypeError, "merged: use on_line"),
        ({"command": ("true",), "env": ["A=1"]}, TypeError, "env"),
    ],
)
def test_what_makes_no_sense_is_named(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    async def main() -> None:
        with pytest.raises(error, match=words):
            await run_process(*arguments.pop("command", ()), **arguments)

    run(main)


# Promise 12


def test_promise_12_output_so_far_is_in_the_timeout(loop: Cell) -> None:
    async def main() -> None:
        # It says so when it is asked to end, and that is kept too.
        script = "trap 'echo bye; exit 5' TERM; echo so far; while :; do sleep 0.01; done"
        error = await timed_out("sh", "-c", script, lines=1, kill_after=ENDED)
        assert re.match(r"'sh' did not end within timeout=[\d.]+ s: exit code 5", str(error))
        assert error.result.returncode == 5
        assert error.result.stdout == b"so far\nbye\n"
        assert isinstance(error, TimeoutError)
        copy = pickle.loads(pickle.dumps(error))
        assert (str(copy), copy.result) == (str(error), error.result)

    run(main, loop)


def test_promise_12_output_so_far_is_on_the_cancel(loop: Cell) -> None:
    async def main() -> None:
        seen = asyncio.Event()
        task = asyncio.create_task(
            run_process("sh", "-c", "echo so far; sleep 1000", on_line=lambda line: seen.set())  # type: ignore[arg-type]
        )
        await seen.wait()
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough") as caught:
            await task
        assert caught.value.process.stdout == b"so far\n"  # type: ignore[attr-defined]
        assert caught.value.process.returncode == -signal.SIGTERM  # type: ignore[attr-defined]
        assert caught.value.__notes__ == ["'sh' was ended by a cancel: so far"]

    run(main, loop)


@pytest.mark.default_only
@pytest.mark.parametrize("timeout", [asyncio.timeout, loopwright.timeout, anyio.fail_after])
def test_promise_12_under_a_timeout_of_somebody_else(timeout: Any) -> None:
    async def main() -> None:
        results = []
        with pytest.raises(TimeoutError):
            scope = timeout(0.3)
            async with contextlib.AsyncExitStack() as stack:
                if timeout is anyio.fail_after:
                    stack.enter_context(scope)
                else:
                    await stack.enter_async_context(scope)
                try:
                    await run_process("sh", "-c", DEAF + "echo so far; while :; do sleep 0.01; done", kill_after=0.1)
                except asyncio.CancelledError as error:
                    results.append(error.process)  # type: ignore[attr-defined]
                    raise
        assert [(result.stdout, result.returncode) for result in results] == [(b"so far\n", -signal.SIGKILL)]

    run(main)


@pytest.mark.default_only
def test_promise_12_who_ignores_sigterm_is_killed(loop: Cell) -> None:
    async def main() -> None:
        for kill_after in (0.1, 0):
            script = DEAF + "echo $$; while :; do sleep 1000; done"
            error = await timed_out("sh", "-c", script, lines=1, kill_after=kill_after)
            assert error.result.returncode == -signal.SIGKILL
            assert not alive(int(error.result.text))

    run(main, loop)


@pytest.mark.default_only
def test_promise_12_who_is_stopped_hears_it_all_the_same() -> None:
    async def main() -> None:
        with pytest.raises(ProcessTimeout) as caught:
            await run_process("sh", "-c", "kill -STOP $$", timeout=0.2, kill_after=ENDED)
        assert caught.value.result.returncode == -signal.SIGTERM

    run(main)


@pytest.mark.default_only
@pytest.mark.parametrize("deaf", ["", DEAF])
def test_promise_12_grandchildren_that_hold_the_pipe_die_with_the_rest(loop: Cell, deaf: str) -> None:
    async def main() -> None:
        script = deaf + "sleep 1000 & echo $!; sh -c 'sleep 1000 & echo $!; wait' & echo $!"
        error = await timed_out("sh", "-c", script, lines=3, kill_after=0.1)
        assert "it had exited with 0" in str(error)
        pids = error.result.text.split()
        assert len(pids) == 3
        assert not any(alive(int(pid)) for pid in pids)
        # And of themselves, if they may not linger.
        result = await run_process("sh", "-c", script, linger=0.2, kill_after=0.1)
        assert len(result.text.split()) >= 2
        assert not any(alive(int(pid)) for pid in result.text.split())

    run(main, loop)


@pytest.mark.default_only
def test_promise_12_grandchildren_that_hold_nothing_do_not_outlive_the_call(loop: Cell) -> None:
    async def main() -> None:
        for deaf in ("", DEAF):
            script = deaf + "sleep 1000 >/dev/null 2>&1 & echo $!"
            result = await run_process("sh", "-c", script, kill_after=0.1)
            assert not alive(int(result.text))

    run(main, loop)


@pytest.mark.default_only
def test_what_grandchildren_write_afterwards_is_output_too() -> None:
    async def main() -> None:
        result = await run_process("sh", "-c", "(sleep 0.2; echo later) & echo at once")
        assert result.text == "at once\nlater\n"

    run(main)


@pytest.mark.default_only
def test_a_session_of_its_own_is_left_alone() -> None:
    async def main() -> None:
        program = """
            import os, time
            if os.fork() == 0:
                os.setsid()
                print(os.getpid(), flush=True)
                [os.close(fd) for fd in range(3)]
                time.sleep(1000)
        """
        result = await run_process(*python(program))
        assert alive(int(result.text))
        os.kill(int(result.text), signal.SIGKILL)
        eventually(lambda: not alive(int(result.text)))

    run(main)


@pytest.mark.default_only
def test_a_daemon_that_keeps_the_pipe_holds_nobody_up_after_a_timeout() -> None:
    async def main() -> None:
        program = """
            import os, time
            print(os.getpid(), flush=True)
            if os.fork() == 0:
                os.setsid()
                print(os.getpid(), flush=True)
            time.sleep(1000)
        """
        error = await timed_out(*python(program), lines=2)
        parent, daemon = map(int, error.result.text.split())
        assert not alive(parent)
        assert alive(daemon)
        os.kill(daemon, signal.SIGKILL)
        eventually(lambda: not alive(daemon))

    run(main)


MEMORY = """
import asyncio, sys
from loopwright import run_process

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024

async def main():
    await run_process("true")
    before, lines = peak(), 0
    def count(line):
        nonlocal lines
        lines += 1
    size, on_line = (int(sys.argv[1]), count) if sys.argv[2] == "lines" else (int(sys.argv[1]), None)
    result = await run_process("head", "-c", sys.argv[1], "/dev/zero", on_line=on_line)
    assert len(result.stdout) == 1 << 20
    assert result.stdout_cut == size - (1 << 20), result.stdout_cut
    assert lines == (-(-size // (1 << 20)) if on_line else 0), lines
    print(peak() - before)

asyncio.run(main())
"""


@pytest.mark.default_only
@pytest.mark.parametrize(("size", "lines"), [(1_000_000_000, "kept"), (100_000_000, "lines")])
def test_promise_12_a_gigabyte_takes_a_few_megabytes(size: int, lines: str) -> None:
    command = [sys.executable, "-c", MEMORY, str(size), lines]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path()}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    print(f"{int(done.stdout) / 2**20:.1f} MiB")
    assert int(done.stdout) < 16 * 2**20


def path() -> str:
    """Where the package is that is tested."""
    return str(Path(loopwright.__file__).parent.parent)


def test_promise_12_the_tail_is_kept_and_the_cut_is_counted() -> None:
    async def main() -> None:
        program = "import os\nos.write(1, b'x' * 200_000 + b'end')\nos.write(2, b'y' * 200_000 + b'fin')"
        result = await run_process(*python(program), max_output=5)
        assert (result.stdout, result.stdout_cut) == (b"xxend", 200_003 - 5)
        assert (result.stderr, result.stderr_cut) == (b"yyfin", 200_003 - 5)
        result = await run_process(*python(program), max_output=0)
        assert (result.stdout, result.stdout_cut) == (b"", 200_003)
        result = await run_process(*python(program), merge_stderr=True)
        assert result.stdout == b"x" * 200_000 + b"end" + b"y" * 200_000 + b"fin"

    run(main)


@pytest.mark.default_only
@pytest.mark.parametrize("stop", ["cancel", "timeout"])
def test_promise_12_a_flood_is_ended_and_its_tail_is_kept(loop: Cell, stop: str) -> None:
    async def main() -> None:
        if stop == "timeout":
            result = (await timed_out("yes", lines=500, max_output=1000)).result
        else:
            lines = 0

            def count(line: str) -> None:
                nonlocal lines
                lines += 1

            task = asyncio.create_task(run_process("yes", max_output=1000, on_line=count))
            await until(lambda: lines > 1000)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            result = caught.value.process  # type: ignore[attr-defined]
        assert len(result.stdout) == 1000
        assert set(result.stdout) == set(b"y\n")
        assert result.stdout_cut > 0

    run(main, loop)


# Children that behave oddly


@pytest.mark.default_only
def test_one_that_closes_its_outputs_and_lives_on_is_waited_for(loop: Cell) -> None:
    async def main() -> None:
        result = await run_process("sh", "-c", "echo x; exec >&- 2>&-; sleep 0.3; exit 7", check=False)
        assert (result.returncode, result.stdout) == (7, b"x\n")
        with pytest.raises(ProcessTimeout) as caught:
            await run_process("sh", "-c", "exec >&- 2>&-; sleep 1000", timeout=0.2)
        assert caught.value.result.returncode == -signal.SIGTERM

    run(main, loop)


@pytest.mark.default_only
def test_those_that_die_at_once_are_all_seen(loop: Cell) -> None:
    async def main() -> None:
        async def exits(n: int) -> int | None:
            return (await run_process("sh", "-c", f"exit {n}", check=False)).returncode

        results = await loopwright.amap(exits, range(60), limit=20)
        assert results == list(range(60))

    run(main, loop)


def test_one_that_does_not_want_its_input_is_no_error(loop: Cell) -> None:
    async def main() -> None:
        closed: list[bool] = []

        async def endless() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 10_000
            finally:
                closed.append(True)

        assert (await run_process("head", "-c", "3", input=b"y" * 1_000_000)).stdout == b"yyy"
        assert (await run_process("head", "-c", "3", input=endless())).stdout == b"xxx"
        assert (await run_process("true", input=b"y" * 1_000_000)).returncode == 0
        assert closed == [True]

    run(main, loop)


@pytest.mark.default_only
def test_input_that_waits_for_more_ends_with_the_process(loop: Cell) -> None:
    async def main() -> None:
        closed: list[bool] = []

        async def waits() -> AsyncIterator[bytes]:
            try:
                yield b"one\n"
                await asyncio.get_running_loop().create_future()
            finally:
                closed.append(True)

        assert (await run_process("head", "-n", "1", input=waits())).stdout == b"one\n"
        assert closed == [True]

    run(main, loop)


@pytest.mark.default_only
def test_input_is_read_as_fast_as_the_process_reads() -> None:
    async def main() -> None:
        given = 0

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal given
            for _ in range(100):
                given += 1
                yield b"x" * 100_000

        async with open_process("cat") as cat:
            task = asyncio.create_task(feed(cat, chunks()))
            await until(lambda: cat.stats().stdout_paused)
            await asyncio.sleep(0.05)
            assert given < 20
            total = 0
            while data := await cat.stdout.read():
                total += len(data)
            await task
            assert total == 10_000_000
            assert await cat.wait() == 0

    async def feed(process: loopwright.Process, chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            await process.write(chunk)
        process.close_input()

    run(main)


# Callbacks


@pytest.mark.default_only
def test_a_line_longer_than_any_limit_comes_in_pieces(loop: Cell) -> None:
    async def main() -> None:
        pieces: list[str] = []
        program = "import os\nos.write(1, ('é' * 150_001 + '\\nshort\\n').encode())"
        await run_process(*python(program), on_line=pieces.append, max_line=1001)  # in the middle of a character
        assert pieces[-1] == "short"
        assert "".join(pieces[:-1]) == "é" * 150_001
        assert {len(piece) for piece in pieces[:-2]} == {500}
        async with stream_lines("printf", r"12345678\n1234\n", max_line=4, keep_ends=True) as lines:
            assert [line async for line in lines] == ["1234", "5678\n", "1234\n"]

    run(main, loop)


@pytest.mark.default_only
def test_a_slow_callback_holds_the_process_up_and_not_its_other_output(loop: Cell) -> None:
    async def main() -> None:
        go, errors = asyncio.Event(), 0

        async def slow(line: str) -> None:
            await go.wait()

        def count(line: str) -> None:
            nonlocal errors
            errors += 1
            if errors == 100_000:
                go.set()

        program = """
            import os, threading
            def flood(fd):
                for _ in range(100_000):
                    os.write(fd, b"line\\n")
            thread = threading.Thread(target=flood, args=(1,))
            thread.start()
            flood(2)
            thread.join()
        """
        result = await run_process(*python(program), on_line=slow, on_error_line=count, timeout=60)
        assert errors == 100_000
        assert len(result.stdout) == 500_000

    run(main, loop)


def test_an_error_of_a_callback_ends_the_process_and_is_raised(loop: Cell) -> None:
    async def main() -> None:
        def fails(line: str) -> None:
            raise ValueError(line)

        async def cancelled(line: str) -> None:
            raise asyncio.CancelledError

        async def broken() -> AsyncIterator[bytes]:
            yield b"a\n"
            raise ValueError("broken")

        with pytest.raises(ValueError, match=r"^first$"):
            await run_process("sh", "-c", "echo first; sleep 1000", on_line=fails)
        with pytest.raises(ValueError, match=r"^broken$"):
            await run_process("sh", "-c", "sleep 1000", input=broken())
        with pytest.raises(CallCancelled, match="nobody had cancelled it"):
            await run_process("sh", "-c", "echo first; sleep 1000", on_line=cancelled)
        with pytest.raises(ValueError, match=r"^broken$"):
            async with stream_lines("sh", "-c", "sleep 1000", input=broken()) as lines:
                async for _ in lines:
                    pass

    run(main, loop)


@pytest.mark.default_only
def test_a_timeout_also_ends_a_callback_that_outlives_the_process() -> None:
    async def main() -> None:
        async def hangs(line: str) -> None:
            await asyncio.get_running_loop().create_future()

        with pytest.raises(ProcessTimeout, match="it had exited with 0"):
            await run_process("echo", "x", on_line=hangs, timeout=0.5)

    run(main)


# A terminal


def test_on_a_terminal_of_its_own(loop: Cell) -> None:
    async def main() -> None:
        script = "test -t 0 && test -t 1 && test -t 2 && echo yes >/dev/tty; stty size; echo err >&2; cat"
        result = await run_process("sh", "-c", script, pty=True, input=b"line\nand no end")
        assert result.text == "yes\n24 80\nerr\nline\nand no end"
        error = await timed_out("sh", "-c", "echo on; sleep 1000", lines=1, pty=True)
        assert error.result.stdout == b"on\n"

    run(main, loop)


@pytest.fixture
def signals_as_in_a_terminal() -> Iterator[None]:
    """Programs get SIGINT and SIGHUP, also where these tests run behind ``nohup`` or ``&``, which ignore them."""
    ignored = {number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_IGN}
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.default_only
@pytest.mark.usefixtures("signals_as_in_a_terminal")
def test_control_c_reaches_what_runs_on_a_terminal() -> None:
    async def main() -> None:
        async with open_process("sh", "-c", "trap 'echo interrupted; exit 4' INT; echo on; read x", pty=True) as shell:
            assert await shell.stdout.readline() == b"on\n"
            await shell.write(b"\x03")
            assert b"interrupted\n" in await shell.stdout.readline()
            assert await shell.wait() == 4

    run(main)


# open_process


def test_a_conversation(loop: Cell) -> None:
    async def main() -> None:
        process = open_process("cat", stderr="stream")
        assert repr(process) == "<process 'cat' not started>"
        async with process as cat:
            assert re.fullmatch(r"<process 'cat' pid=\d+ running>", repr(cat))
            for line in (b"one\n", b"two\n"):
                await cat.write(line)
                assert await cat.stdout.readline() == line
            await cat.write(b"a\nb\nrest")
            cat.close_input()
            assert [line async for line in cat.stdout] == ["a", "b", "rest"]
            assert await cat.stderr.read() == b""
            assert await cat.wait() == 0
            with pytest.raises(BrokenPipeError):
                await cat.write(b"more")
        assert (cat.returncode, cat.stats().state) == (0, "over")
        assert cat.stats().stdout_bytes == 16
        assert not cat.send_signal(signal.SIGTERM)

    run(main, loop)


@pytest.mark.default_only
def test_leaving_the_block_ends_the_group(loop: Cell) -> None:
    async def main() -> None:
        async with open_process("sh", "-c", "sleep 1000 & echo $!; wait", stderr="merge") as shell:
            pid = int(await shell.stdout.readline())
        assert not alive(pid)
        assert shell.returncode == -signal.SIGTERM
        with pytest.raises(ValueError, match="mine"):
            async with open_process("yes", stdout="stream") as yes:
                raise ValueError("mine")
        async with open_process("sh", "-c", "echo out; echo err >&2; read x", stdout="keep") as shell:
            await until(lambda: bool(shell.result().stdout and shell.result().stderr))
            assert shell.result().stdout + shell.result().stderr == b"out\nerr\n"
            with pytest.raises(RuntimeError, match="stdout is not a stream here"):
                _ = shell.stdout
            shell.terminate()
            assert await shell.wait() == -signal.SIGTERM
        assert yes.returncode == -signal.SIGTERM

    run(main, loop)


@pytest.mark.default_only
@pytest.mark.usefixtures("signals_as_in_a_terminal")
def test_signals_go_to_the_group() -> None:
    async def main() -> None:
        async with open_process("sh", "-c", "trap 'echo hup' HUP; echo on; while :; do sleep 0.01; done") as shell:
            assert await shell.stdout.readline() == b"on\n"
            assert shell.send_signal(signal.SIGHUP)
            assert await shell.stdout.readline() == b"hup\n"
            shell.kill()
            assert await shell.wait() == -signal.SIGKILL

    run(main)


@pytest.mark.default_only
def test_misuse_of_a_process_is_refused() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match=r"open_process\(stderr=...\) must be one of"):
            open_process("true", stderr="null")  # type: ignore[arg-type]
        process = open_process("cat")
        with pytest.raises(RuntimeError, match="not started: use it inside"):
            await process.wait()
        async with process:
            with pytest.raises(RuntimeError, match="started already"):
                await process.__aenter__()
            reader = asyncio.create_task(process.stdout.read())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task already reads stdout"):
                await process.stdout.read()
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            await process.write(b"a\nb\n")
            assert await anext(aiter(process.stdout)) == "a"
            with pytest.raises(RuntimeError, match="either bytes or lines"):
                await process.stdout.read()
        with pytest.raises(TypeError, match="iterate inside `async with stream_lines"):
            aiter(stream_lines("true"))

    run(main)


# stream_lines


def test_lines_as_they_come(loop: Cell) -> None:
    async def main() -> None:
        async with stream_lines("seq", "1000") as lines:
            assert [int(line) async for line in lines] == list(range(1, 1001))
            assert lines.returncode == 0
        async with stream_lines("cat", input=b"x\r\ny", text=False) as lines:
            assert [line async for line in lines] == [b"x", b"y"]
        async with stream_lines("yes") as lines:  # left early: no error
            async for line in lines:
                assert line == "y"
                break
        assert lines.returncode is not None

    run(main, loop)


def test_after_the_last_line_comes_the_verdict(loop: Cell) -> None:
    async def main() -> None:
        got = []
        with pytest.raises(ProcessError, match="exit code 2: sorry"):
            async with stream_lines("sh", "-c", "echo a; echo sorry >&2; exit 2") as lines:
                async for line in lines:
                    got.append(line)
        with pytest.raises(ProcessTimeout, match=r"did not end within timeout=0.5 s") as caught:
            async with stream_lines("sh", "-c", "echo b; echo so far >&2; sleep 1000", timeout=0.5) as lines:
                async for line in lines:
                    got.append(line)
        assert caught.value.result.stderr == b"so far\n"
        assert got == ["a", "b"]
        async with stream_lines("sh", "-c", "exit 2", check=False) as lines:
            assert [line async for line in lines] == []
            assert lines.returncode == 2

    run(main, loop)


@pytest.mark.default_only
def test_who_takes_no_lines_stops_the_process() -> None:
    async def main() -> None:
        async with open_process("yes") as yes:
            await until(lambda: yes.stats().stdout_paused)
            read = yes.stats().stdout_bytes
            await asyncio.sleep(0.05)
            assert yes.stats().stdout_bytes == read < 300_000
            assert await yes.stdout.readline() == b"y\n"

    run(main)


# Loops, threads, interpreters


@pytest.mark.default_only
def test_in_a_thread_that_is_not_the_main_one(loop: Cell) -> None:
    failures: list[BaseException] = []

    async def main() -> None:
        assert (await run_process("cat", input=b"x")).stdout == b"x"
        with pytest.raises(ProcessTimeout):
            await run_process("sleep", "1000", timeout=0.1)

    def work() -> None:
        try:
            run(main, loop)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.default_only
@pytest.mark.parametrize("how", ["no pidfd", "no waitid"])
def test_without_pidfd_a_thread_waits(how: str, loop: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pid: int, flags: int = 0) -> int:
        raise OSError("Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refused, raising=False)
    if how == "no waitid":
        monkeypatch.delattr(os, "waitid")

    async def main() -> None:
        assert (await run_process("sh", "-c", "echo x; exit 3", check=False)).returncode == 3
        with pytest.raises(ProcessTimeout) as caught:
            await run_process("sh", "-c", DEAF + "sleep 1000 & wait", timeout=0.2, kill_after=0.1)
        assert caught.value.result.returncode == -signal.SIGKILL

    run(main, loop)


@pytest.mark.default_only
def test_one_that_somebody_else_reaps_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with open_process("cat") as cat:
            cat.send_signal(signal.SIGKILL)
            os.waitpid(cat.pid, 0)  # noqa: ASYNC222 (it was killed)
            assert await cat.wait() == 255

    run(main)
    assert "was reaped by somebody else" in caplog.text


ADOPTS = """
import asyncio, ctypes, os
from loopwright import run_process
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER: orphans are ours, as in a container

async def main():
    for _ in range(3):
        await run_process("sh", "-c", "sleep 1000 >/dev/null 2>&1 & true")
        await run_process("sh", "-c", "trap '' TERM; sleep 1000 & true", linger=0, kill_after=0.1)

asyncio.run(main())
try:
    print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print("no child is left")
"""


@pytest.mark.default_only
def test_orphans_that_are_left_to_us_become_no_zombies() -> None:
    command = [sys.executable, "-c", ADOPTS]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path()}, capture_output=True, text=True, check=False)
    assert done.stdout == "no child is left\n", done.stderr


@pytest.mark.default_only
def test_a_zombie_that_nobody_reaps_is_not_waited_for() -> None:
    """Orphans in a container whose first process does not reap."""

    async def main() -> None:
        # The grandchild leaves its zombie in the group, with a parent that lives on outside of it.
        program = """
            import os, sys, time
            group = os.getpid()
            if os.fork() == 0:
                os.setsid()
                child = os.fork()
                if child == 0:
                    os._exit(0)
                print(os.getpid(), flush=True)
                [os.close(fd) for fd in range(3)]
                time.sleep(1000)
        """
        result = await run_process(*python(program), timeout=60)
        os.kill(int(result.text), signal.SIGKILL)
        eventually(lambda: not alive(int(result.text)))

    run(main)


def test_one_that_outlives_sigkill_is_given_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_child, "_GIVE_UP", 0.2)
    sent: list[int] = []

    def send(self: _child.Child, number: int) -> bool:
        sent.append(number)
        return True

    monkeypatch.setattr(_child.Child, "send", send)

    async def main() -> None:
        pids: list[int] = []
        with pytest.raises(ProcessTimeout, match="it has outlived SIGKILL") as caught:
            await run_process("sh", "-c", "echo $$; exec sleep 1000", timeout=0.2, kill_after=0.1, on_line=pids.append)
        assert sent == [signal.SIGTERM, signal.SIGCONT, signal.SIGKILL]
        pid = int(caught.value.result.text)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: pid not in children())  # a thread has reaped it

    run(main)
    assert "has outlived SIGKILL for 0.2 s" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_is_closed_leaves_nothing_running() -> None:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    pids: list[str] = []

    async def main() -> None:
        await run_process("sh", "-c", DEAF + "echo $$; while :; do sleep 1000; done", on_line=pids.append)

    task = loop.create_task(main())
    loop.run_until_complete(until(lambda: bool(pids)))
    loop.close()
    del task
    gc.collect()
    eventually(lambda: not alive(int(pids[0])))
    eventually(lambda: int(pids[0]) not in children())


EXITS = """
import asyncio
from loopwright import open_process

async def main():
    global process
    process = open_process("sh", "-c", "trap '' TERM; echo $$; while :; do sleep 1000; done")
    await process.__aenter__()
    print((await process.stdout.readline()).decode())

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
"""


@pytest.mark.default_only
def test_the_exit_of_the_interpreter_leaves_nothing_running() -> None:
    command = [sys.executable, "-c", EXITS]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path()}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    eventually(lambda: not alive(int(done.stdout)))


@pytest.mark.default_only
def test_importing_loopwright_does_not_import_what_only_processes_need() -> None:
    program = (
        "import sys, loopwright; print([m for m in ('loopwright._child', 'fcntl', 'termios') if m in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path()}, capture_output=True, text=True, check=False)
    assert "loopwright._child" not in done.stdout, done.stderr


# A cancel at every step


def scenarios() -> dict[str, Any]:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x\n"
            await asyncio.sleep(0)

    async def plain() -> None:
        await run_process("sh", "-c", "echo x; exit 0")

    async def fed() -> None:
        async def slow(line: str) -> None:
            await asyncio.sleep(0)

        await run_process("cat", input=chunks(), on_line=slow)

    async def deaf() -> None:
        with contextlib.suppress(ProcessTimeout):
            await run_process("sh", "-c", DEAF + "sleep 1000 & wait", timeout=0.02, kill_after=0.02)

    async def opened() -> None:
        async with open_process("cat") as cat:
            await cat.write(b"x\n")
            await cat.stdout.readline()
            cat.close_input()
            await cat.wait()

    async def streamed() -> None:
        async with stream_lines("seq", "3") as lines:
            async for _ in lines:
                pass

    return {"plain": plain, "fed": fed, "deaf": deaf, "opened": opened, "streamed": streamed}


@pytest.mark.default_only
@pytest.mark.parametrize("which", ["plain", "fed", "deaf", "opened", "streamed"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_promise_12_a_cancel_at_every_step_leaves_nothing(which: str, loop: str) -> None:
    """The turn of the loop at which it arrives grows by one until the call ends first."""
    scenario = scenarios()[which]
    before, points = children(), 0

    async def main(turns: int) -> bool:
        task = asyncio.create_task(scenario())
        for _ in range(turns):
            await asyncio.sleep(0)
            if task.done():
                break
        arrived = not task.done() and task.cancel()
        again = turns % 2
        while not task.done():
            await asyncio.wait([task], timeout=0.005)
            if again and arrived:  # and a second one in the clean-up
                task.cancel()
        assert task.cancelled() == arrived or not arrived
        assert _child._live == set()
        assert children() <= before
        return arrived

    turns, misses = 0, 0
    while misses < 3 and points < 60:
        hit = run(lambda: main(turns), Cell(loop))  # noqa: B023
        points, misses = points + hit, misses + (not hit)
        turns = turns + 1 if turns < 20 else int(turns * 1.4)
    assert points > 3


@pytest.mark.default_only
def test_promise_12_sweep() -> None:
    """The same at every await point, as the proof kit sees them."""
    before = children()

    async def scenario(play: Play) -> None:
        async def user() -> None:
            await run_process("sh", "-c", "cat; echo y", input=b"x\n", on_line=lambda line: None)
            async with open_process("cat") as cat:
                await cat.write(b"x\n")
                await cat.stdout.readline()

        play.spawn(user(), name="user")
        await play.finished()
        assert _child._live == set()
        assert children() <= before

    report = cancel_sweep(scenario, victims="user", waves=("cancel", "again", "timeout"))
    assert report.count("cancel") > 3
