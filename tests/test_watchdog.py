"""Promise 11: ``run`` ends within grace, whatever blocks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from support import requires
from support.program import PATIENCE, Ended, Program

import loopwright

PYTHON = [sys.executable]
#: What a loaded machine may add. What blocks here would do so for a minute.
SLACK = 15.0

BLOCKED = {
    "time.sleep on the loop": """
        async def main():
            print("ready", flush=True)
            time.sleep(60)
    """,
    "a stuck executor thread": """
        async def main():
            work = asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)
            print("ready", flush=True)
            await work
    """,
    "a child process that ignores TERM": """
        async def main():
            code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
            child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
            await child.stdout.readline()
            print("child", child.pid, flush=True)
            print("ready", flush=True)
            try:
                await asyncio.sleep(3600)
            finally:
                child.terminate()
                await child.wait()
    """,
    "a coroutine that outlasts every cancel": """
        async def finish(coroutine):
            work = asyncio.ensure_future(coroutine)
            while not work.done():
                try:
                    await asyncio.shield(work)
                except asyncio.CancelledError:
                    pass

        async def main():
            print("ready", flush=True)
            await finish(asyncio.sleep(60))
    """,
    "a finish of 60 s": """
        async def main():
            print("ready", flush=True)
            await loopwright.finish(asyncio.sleep(60))
    """,
    "a C call that holds the interpreter": """
        async def main():
            print("ready", flush=True)
            sum(range(10**12))
    """,
    "a lock held by another thread": """
        async def main():
            lock = threading.Lock()
            lock.acquire()
            print("ready", flush=True)
            lock.acquire()
    """,
    "a generator that is never closed": """
        async def numbers():
            try:
                while True:
                    yield 1
            finally:
                await asyncio.sleep(60)

        async def main():
            source = numbers()
            await anext(source)
            print("ready", flush=True)
            await asyncio.sleep(60)
    """,
    "a thread that is not a daemon": """
        async def main():
            threading.Thread(target=time.sleep, args=(60,)).start()
            print("ready", flush=True)
            await asyncio.sleep(60)
    """,
    "an object that is slow to die": """
        class Slow:
            def __del__(self, sleep=time.sleep):
                sleep(60)

        async def main():
            sys.slow = Slow()
            print("ready", flush=True)
            await asyncio.sleep(60)
    """,
    "a function at exit": """
        async def main():
            atexit.register(time.sleep, 60)
            print("ready", flush=True)
            await asyncio.sleep(60)
    """,
    "standard error that nobody reads": """
        async def main():
            read, write = os.pipe()
            os.dup2(write, 2)
            os.set_blocking(2, False)
            try:
                while os.write(2, b"x" * 4096):
                    pass
            except BlockingIOError:
                os.set_blocking(2, True)
            main.keep = read
            print("ready", flush=True)
            time.sleep(60)
    """,
    "a log handler's lock": """
        class Handler(logging.Handler):
            def emit(self, record):
                time.sleep(60)

        async def main():
            logging.getLogger().addHandler(Handler())
            print("ready", flush=True)
            logging.warning("held")
    """,
}
HEADER = "import asyncio, atexit, logging, os, sys, threading, time, loopwright\n"
RUNS = {
    "loopwright.run by python": (PYTHON, "loopwright.run(main, grace=2)"),
    "loopwright.run by loopwright run": (None, "loopwright.run(main)"),
    "asyncio.run by loopwright run": (None, "asyncio.run(main())"),
}


def program(tmp_path: Path, case: str, how: str, *options: str) -> Program:
    command, start = RUNS[how]
    (tmp_path / "app.py").write_text(f"{HEADER}{textwrap.dedent(BLOCKED[case])}\n{start}\n")
    return Program(tmp_path, options=list(options) if command is None else [], command=command)


def needs_finish() -> None:
    if not hasattr(loopwright, "finish"):
        pytest.skip("loopwright.finish has not landed")


def kill_children(ended: Ended) -> None:
    for line in ended.out.splitlines():
        if line.startswith("child "):
            os.kill(int(line.split()[1]), signal.SIGKILL)


#: The four of promise 11 however they are run, the others once.
PROMISED = list(BLOCKED)[:5]
CASES = [(how, case) for how in RUNS for case in BLOCKED if case in PROMISED or how != list(RUNS)[2]]


@pytest.mark.parametrize(("how", "case"), CASES)
def test_promise_11_run_ends_within_grace(tmp_path: Path, how: str, case: str) -> None:
    if case == "a finish of 60 s":
        needs_finish()
    with program(tmp_path, case, how, "--grace", "2") as running:
        ended = running.wait_for("ready").send().end()
    kill_children(ended)
    assert ended.code == 143, ended.err
    assert 0.5 < ended.took < 2 + SLACK
    if case == "standard error that nobody reads":
        return
    assert "ended by force (grace)" in ended.err
    assert "stacks of every Python thread" in ended.err
    assert "most recent call first" in ended.err
    if case in {"time.sleep on the loop", "a C call that holds the interpreter", "a lock held by another thread"}:
        assert "in main" in ended.err.partition("stacks of every")[2]
    if ended.report:
        report = ended.report
        assert report["exit"] == {"code": 143, "reason": "SIGTERM", "forced": "grace"}
        assert ended.phases[-1] == "forced"
        assert "most recent call first" in report["stacks"]
        assert report["tasks"]["unreadable"] == (case == "a C call that holds the interpreter")
    if case == "a child process that ignores TERM":
        assert "still runs" in ended.err
        assert "SIG_IGN" in ended.err


@pytest.mark.parametrize("case", [*PROMISED, "a C call that holds the interpreter"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_second_signal_forces(tmp_path: Path, case: str, number: signal.Signals) -> None:
    if case == "a finish of 60 s":
        needs_finish()
    with program(tmp_path, case, "loopwright.run by loopwright run", "--grace", "600") as running:
        running.wait_for("ready").send(signal.SIGTERM)
        time.sleep(0.5)
        ended = running.send(number).end()
    kill_children(ended)
    assert ended.code == 128 + number
    assert ended.took < PATIENCE
    assert ended.report["exit"]["forced"] == "second signal"
    assert [each["name"] for each in ended.report["signals"]] == ["SIGTERM", number.name]
    assert "ended by force (second signal)" in ended.err


def test_the_same_key_press_twice_is_one_signal(tmp_path: Path) -> None:
    """A parent that forwards what its whole group got anyway: npm, make, uv run."""
    source = """
        import asyncio, loopwright

        async def main(token):
            print("ready", flush=True)
            await token.wait()
            await asyncio.sleep(0.5)
            print("drained", flush=True)

        loopwright.run(main)
    """
    with Program(tmp_path, source) as running:
        ended = running.wait_for("ready").send(signal.SIGINT).send(signal.SIGTERM).end()
    assert "drained" in ended.out
    assert ended.report["exit"]["forced"] is None


def test_a_signal_to_itself_never_forces(tmp_path: Path) -> None:
    source = """
        import asyncio, os, signal, loopwright

        async def main(token):
            os.kill(os.getpid(), signal.SIGTERM)
            await token.wait()
            await asyncio.sleep(0.3)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.3)
            print("drained", flush=True)

        loopwright.run(main)
    """
    with Program(tmp_path, source) as running:
        ended = running.end()
    assert (ended.out, ended.code) == ("drained\n", 0)
    assert [each["from_self"] for each in ended.report["signals"]] == [True, True]


@pytest.mark.parametrize(
    "install",
    [
        "asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)",
        "signal.signal(signal.SIGTERM, lambda *_: None)",
        "signal.signal(signal.SIGTERM, signal.default_int_handler); signal.signal(signal.SIGTERM, lambda *_: None)",
    ],
    ids=["add_signal_handler", "signal.signal", "twice"],
)
@pytest.mark.parametrize("how", ["python", "loopwright run"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_watchdog_sees_past_the_programs_own_handler(tmp_path: Path, install: str, how: str, loop: str) -> None:
    """asyncio, uvloop and programs replace the handler; the watchdog puts its own in front again."""
    if loop == "uvloop":
        requires.module("uvloop")
    source = f"""
        import asyncio, signal, time, loopwright

        async def main():
            {install}
            await asyncio.sleep(0.5)
            print("ready", flush=True)
            while True:
                await asyncio.sleep(1)

        loopwright.run(main, grace=2, loop="{loop}")
    """
    with Program(tmp_path, source, command=PYTHON if how == "python" else None) as running:
        ended = running.wait_for("ready").send().end()
    assert ended.code == 143
    assert "ended by force (grace)" in ended.err
    assert ended.took < 2 + SLACK


def test_output_and_logs_are_flushed(tmp_path: Path) -> None:
    source = """
        import asyncio, logging.handlers, time, loopwright

        async def main():
            target = logging.FileHandler("app.log")
            logging.getLogger().addHandler(logging.handlers.MemoryHandler(1000, target=target))
            logging.getLogger().warning("in a buffer")
            print("in a buffer")
            with open("ready", "w") as file:
                print("ready", file=file)
            time.sleep(60)

        loopwright.run(main)
    """
    with Program(tmp_path, source, ["--grace", "5"]) as running:
        until = time.monotonic() + PATIENCE
        while not (tmp_path / "ready").exists() and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.1)
        ended = running.send().end()
    assert ended.code == 143
    assert "in a buffer" in ended.out
    assert "in a buffer" in (tmp_path / "app.log").read_text()


def test_tasks_are_named_when_the_end_is_forced(tmp_path: Path) -> None:
    source = """
        import asyncio, time, loopwright

        async def worker():
            await asyncio.sleep(3600)

        async def main():
            tasks = [asyncio.create_task(worker()) for _ in range(5)]
            await asyncio.sleep(0.1)
            print("ready", flush=True)
            time.sleep(60)

        loopwright.run(main)
    """
    with Program(tmp_path, source, ["--grace", "2"]) as running:
        ended = running.wait_for("ready").send().end()
    rows = {row["created"]: row["count"] for row in ended.report["tasks"]["sites"]}
    assert 5 in rows.values()
    assert any("in main" in str(place) for place, count in rows.items() if count == 5)
    assert ended.report["loop"]["culprits"][0]["stack"][0].endswith("in main")
    assert ended.report["loop"]["worst_lag"] > 1


def test_the_grace_counts_until_the_process_has_ended(tmp_path: Path) -> None:
    """run has returned long ago; a thread keeps the interpreter."""
    source = """
        import loopwright, threading, time

        async def main(token):
            print("ready", flush=True)
            await token.wait()

        loopwright.run(main, grace=2)
        threading.Thread(target=time.sleep, args=(60,)).start()
    """
    with Program(tmp_path, source, command=PYTHON) as running:
        ended = running.wait_for("ready").send().end()
    assert ended.code == 143
    assert "ended by force (grace)" in ended.err


def test_two_watchdogs_are_refused() -> None:
    code = """
from loopwright._loopwright import Watchdog
a, b = (Watchdog(grace=1.0, report=[]) for _ in range(2))
a.start(print)
try:
    b.start(print)
except RuntimeError as error:
    print(error)
a.stop()
a.stop()
b.start(print)
b.stop()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "runs in this process already" in done.stdout
