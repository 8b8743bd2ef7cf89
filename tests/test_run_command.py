"""``loopwright run``: unmodified programs, exit codes, the report."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support import requires
from support.program import Ended, Program

from loopwright._loopwright import _parse_args, _wraps

SERVE = """
    import asyncio

    async def serve():
        try:
            print("ready", flush=True)
            await asyncio.sleep(3600)
        finally:
            print("cleaned up", flush=True)
"""

#: How an unmodified program may run ``serve``.
STARTS = {
    "asyncio.run": "asyncio.run(serve())",
    "Runner": "with asyncio.Runner() as runner:\n        runner.run(serve())",
    "Runner(loop_factory)": (
        "with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:\n        runner.run(serve())"
    ),
    "anyio.run": "import anyio; anyio.run(serve)",
    "run_until_complete": "loop = asyncio.new_event_loop()\n    loop.run_until_complete(serve())",
    "run_forever": (
        "loop = asyncio.new_event_loop()\n    loop.create_task(serve())\n    loop.run_forever()\n    loop.close()"
    ),
}


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    if request.param == "uvloop":
        requires.module("uvloop")
    name: str = request.param
    return name


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_an_unmodified_program_is_cancelled_and_closed(
    tmp_path: Path, start: str, number: signal.Signals, loop: str
) -> None:
    if start.startswith("run_") and number == signal.SIGINT:
        pytest.skip("without a Runner, Ctrl-C raises KeyboardInterrupt in the loop, as it does under plain python")
    if start == "anyio.run":
        requires.module("anyio")
    with Program(tmp_path, f"{SERVE}\n    {STARTS[start]}\n", ["--loop", loop]) as program:
        ended = program.wait_for("ready").send(number).end()
    assert "cleaned up" in ended.out
    assert ended.code == 128 + number
    assert [each["name"] for each in ended.report["signals"]] == [number.name]
    assert ended.report["exit"] == {"code": 128 + number, "reason": number.name, "forced": None}
    assert "Traceback" not in ended.err
    assert ended.phases[0] == "run"
    assert ended.phases[-1] == "end"
    if number == signal.SIGTERM:
        assert "cancel" in ended.phases
    own_factory = start == "Runner(loop_factory)"
    assert ("uvloop" in ended.report["program"]["loop"]) == (loop == "uvloop" and not own_factory)


def test_a_loop_that_is_left_open_is_closed_before_the_interpreter_is_taken_down(tmp_path: Path, loop: str) -> None:
    """Left to the garbage collector it could find its sockets gone before it, and say so in a traceback."""
    program = """
        import asyncio, atexit

        class Last:
            def __del__(self):
                print("closed at the end:", loop.is_closed(), flush=True)

        loop = asyncio.new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        atexit.register(lambda: print("closed for the program's own handlers:", loop.is_closed(), flush=True))
        last = Last()
    """
    with Program(tmp_path, program, ["--loop", loop]) as run:
        ended = run.end()
    assert ended.code == 0
    assert ended.out == "closed for the program's own handlers: False\nclosed at the end: True\n"
    assert ended.err == ""


UVICORN = """
    import asyncio, uvicorn

    async def app(scope, receive, send):
        assert scope["type"] == "lifespan"
        while True:
            message = await receive()
            print(message["type"], flush=True)
            await send({"type": message["type"] + ".complete"})

    if __name__ == "__main__":
        uvicorn.run(app, port=0, log_level="info")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_uvicorn_run(tmp_path: Path, number: signal.Signals) -> None:
    """uvicorn's own handlers do the work; it then raises the signal again, to die of it as plain python would."""
    requires.module("uvicorn")
    with Program(tmp_path, UVICORN) as program:
        ended = program.wait_for("running on", in_err=True).send(number).end()
    assert "lifespan.shutdown" in ended.out
    # Ctrl-C raised again is a KeyboardInterrupt, which uvicorn.run swallows.
    assert ended.code == (143 if number == signal.SIGTERM else 0)
    assert ended.report["exit"]["forced"] is None


@pytest.mark.parametrize("option", [["--workers", "2"], ["--reload"]], ids=["workers", "reload"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_uvicorn_with_processes(tmp_path: Path, option: list[str], number: signal.Signals) -> None:
    requires.module("uvicorn")
    (tmp_path / "web.py").write_text(
        "import os\n"
        "async def app(scope, receive, send):\n"
        "    while True:\n"
        "        message = await receive()\n"
        "        print(message['type'], os.getpid(), flush=True)\n"
        "        await send({'type': message['type'] + '.complete'})\n"
    )
    with Program(tmp_path, target="uvicorn", args=["web:app", "--port", "0", *option]) as program:
        program.wait_for("lifespan.startup")
        program.wait_for("startup complete", in_err=True)
        ended = program.send(number).end()
    pids = {int(pid) for pid in re.findall(r"lifespan.startup (\d+)", ended.out)}
    assert pids
    assert not [pid for pid in pids if is_running(pid)], "a worker outlived the command"
    assert ended.report["exit"]["forced"] is None
    assert ended.report["process"]["children"] == []


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_aiohttp_run_app(tmp_path: Path, number: signal.Signals, loop: str) -> None:
    requires.module("aiohttp")
    source = """
        from aiohttp import web

        async def clean_up(app):
            print("cleaned up", flush=True)

        app = web.Application()
        app.on_cleanup.append(clean_up)
        web.run_app(app, port=0, host="127.0.0.1", print=lambda text: print("ready", flush=True))
    """
    with Program(tmp_path, source, ["--loop", loop]) as program:
        ended = program.wait_for("ready").send(number).end()
    assert "cleaned up" in ended.out
    assert ended.code == 0, "run_app turns both signals into a normal end"
    assert ended.report["signals"][0]["name"] == number.name
    assert ("uvloop" in ended.report["program"]["loop"]) == (loop == "uvloop")


@pytest.mark.parametrize("start", ["asyncio.run", "anyio.run", "uvicorn"])
def test_as_process_1(tmp_path: Path, start: str) -> None:
    """As the first process of a container: the kernel ignores signals that have no handler there."""
    unshare = shutil.which("unshare")
    namespace = [unshare or "unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        requires.missing("the right to make a process namespace (unshare --user --pid)")
    if start == "uvicorn":
        requires.module("uvicorn")
    source = UVICORN if start == "uvicorn" else f"{SERVE}\n    {STARTS[start]}\n"
    with Program(tmp_path, source, prefix=namespace) as program:
        program.wait_for("lifespan.startup" if start == "uvicorn" else "ready")
        if start == "uvicorn":
            program.wait_for("running on", in_err=True)
        # unshare's child is process 1 inside.
        children = Path(f"/proc/{program.process.pid}/task/{program.process.pid}/children").read_text().split()
        ended = program.send(pid=int(children[0])).end()
    assert ended.code == 143
    assert ended.report["program"]["pid"] == 1
    assert ended.report["exit"]["forced"] is None
    assert ("lifespan.shutdown" if start == "uvicorn" else "cleaned up") in ended.out


EXITS = {
    "returns": ("pass", 0, "finished"),
    "sys.exit(3)": ("sys.exit(3)", 3, "exit 3"),
    "sys.exit()": ("sys.exit()", 0, "exit 0"),
    "sys.exit(text)": ("sys.exit('no luck')", 1, "exit 1"),
    "raises": ("raise ValueError('no luck')", 1, "exception ValueError: no luck"),
}


@pytest.mark.parametrize("case", EXITS)
@pytest.mark.parametrize("inside", [True, False], ids=["in a task", "outside"])
def test_exit_codes(tmp_path: Path, case: str, inside: bool) -> None:
    statement, code, reason = EXITS[case]
    body = f"async def main():\n    {statement}\nasyncio.run(main())" if inside else statement
    (tmp_path / "app.py").write_text(f"import asyncio, sys\n{body}\n")
    with Program(tmp_path) as program:
        ended = program.end()
    assert ended.code == code
    assert ended.report["exit"] == {"code": code, "reason": reason, "forced": None}
    assert ("no luck" in ended.err) == ("no luck" in statement)
    assert not any(ours in ended.err for ours in ("command.py", "target.py", "runpy")), (
        "the traceback begins with theirs"
    )


def test_an_exit_code_of_its_own_survives_a_signal(tmp_path: Path) -> None:
    source = """
        import asyncio, sys

        async def main():
            try:
                print("ready", flush=True)
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                sys.exit(7)

        asyncio.run(main())
    """
    with Program(tmp_path, source) as program:
        assert program.wait_for("ready").send().end().code == 7


def test_a_signal_outside_any_loop(tmp_path: Path) -> None:
    source = """
        import time
        try:
            print("ready", flush=True)
            time.sleep(3600)
        finally:
            print("cleaned up", flush=True)
    """
    with Program(tmp_path, source) as program:
        ended = program.wait_for("ready").send().end()
    assert (ended.code, "cleaned up" in ended.out) == (143, True), ended.err


def test_own_signal_handlers_are_chained(tmp_path: Path) -> None:
    source = """
        import asyncio, signal

        async def main():
            stop = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
            print("ready", flush=True)
            await stop.wait()
            print("own handler", flush=True)

        asyncio.run(main())
    """
    with Program(tmp_path, source) as program:
        ended = program.wait_for("ready").send().end()
    assert ended.code == 0, "a program that handles the signal itself has its own exit code"
    assert "own handler" in ended.out
    assert "cancel" not in ended.phases


def test_own_task_factory_and_exception_handler_are_chained(tmp_path: Path, loop: str) -> None:
    source = """
        import asyncio

        class OwnTask(asyncio.Task):
            pass

        def factory(loop, coro, **kwargs):
            return OwnTask(coro, loop=loop, **kwargs)

        def handler(loop, context):
            print("handled:", context["exception"], flush=True)

        async def bad():
            raise ValueError("oops")

        async def idle():
            await asyncio.sleep(3600)

        async def main():
            loop = asyncio.get_running_loop()
            assert loop.get_task_factory() is None, loop.get_task_factory()
            loop.set_task_factory(factory)
            assert loop.get_task_factory() is factory
            loop.set_exception_handler(handler)
            assert loop.get_exception_handler() is handler
            task = asyncio.create_task(bad())
            assert type(task) is OwnTask
            await asyncio.sleep(0)
            del task
            asyncio.create_task(idle(), name="left")
            loop.set_task_factory(None)
            assert loop.get_task_factory() is None
            try:
                loop.set_task_factory(3)
            except TypeError:
                pass
            else:
                raise AssertionError

        asyncio.run(main())
    """
    with Program(tmp_path, source, ["--loop", loop]) as program:
        ended = program.end()
    assert ended.code == 0, ended.err
    assert "handled: oops" in ended.out
    [lost] = ended.report["lost_exceptions"]["items"]
    assert lost["exception"] == "ValueError: oops"
    assert lost["created"].endswith("in main")
    assert ended.report["tasks"]["left_over"] == 1


REPORTED = """
    import asyncio, time

    async def worker():
        await asyncio.sleep(3600)

    async def stubborn():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

    async def bad():
        raise ValueError("oops")

    async def forgotten():
        pass

    def blocking():
        time.sleep(0.6)

    async def main():
        for _ in range(3):
            asyncio.create_task(worker())  # left over
        asyncio.create_task(stubborn())
        asyncio.create_task(bad())  # lost
        forgotten()  # dropped
        await asyncio.sleep(0.1)
        blocking()

    asyncio.run(main())
"""


def line_of(source: str, text: str) -> int:
    return next(number for number, line in enumerate(source.splitlines(), 1) if text in line)


def test_the_report_names_what_was_left_behind(tmp_path: Path, loop: str) -> None:
    with Program(tmp_path, REPORTED, ["--loop", loop]) as program:
        ended = program.end()
    report = ended.report
    app = str(tmp_path / "app.py")

    assert report["schema"] == 1
    assert report["uptime"] > 0.6
    assert report["program"]["target"] == "app.py"
    assert report["program"]["python"] == sys.version.split()[0]
    assert report["tasks"]["started"] >= 6
    assert report["tasks"]["left_over"] == 4
    assert not report["tasks"]["unreadable"]
    first, second = report["tasks"]["sites"]
    assert (first["count"], first["created"]) == (3, f"app.py:{line_of(REPORTED, '# left over')} in main")
    assert first["waiting_at"] == f"app.py:{line_of(REPORTED, 'sleep(3600)')} in worker"
    assert second["count"] == 1

    [lost] = report["lost_exceptions"]["items"]
    assert lost["exception"] == "ValueError: oops"
    assert lost["raised"] == f"app.py:{line_of(REPORTED, 'raise ValueError')} in bad"
    assert lost["created"] == f"app.py:{line_of(REPORTED, '# lost')} in main"

    dropped = {"what": "forgotten", "dropped": f"app.py:{line_of(REPORTED, '# dropped')}", "count": 1}
    assert report["never_awaited"] == {"count": 1, "items": [dropped]}

    [swallowed] = report["swallowed_cancels"]["items"]
    assert "in main" in swallowed["created"]

    assert report["loop"]["worst_lag"] >= 0.4
    assert report["loop"]["stalls"] >= 1
    culprit = report["loop"]["culprits"][0]["stack"]
    assert culprit[0] == f"app.py:{line_of(REPORTED, 'time.sleep')} in blocking"
    assert culprit[1].endswith("in main")

    process = report["process"]
    assert process["rss"] > 1_000_000
    assert process["file_descriptors"] >= 3
    assert process["threads"] >= 1
    assert app.endswith("app.py")


def test_report_as_text(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loopwright", "run"]
    with Program(tmp_path, REPORTED, command=command) as program:
        ended = program.end()
    assert "loopwright: app.py: finished, exit code 0" in ended.err
    for words in ("4 left over", "3 x created at app.py:", "ValueError: oops", "1 x forgotten", "loop lag", "MiB"):
        assert words in ended.err


def test_report_as_json_is_the_last_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loopwright", "run", "--report", "json", "--report", "r.txt"]
    with Program(tmp_path, "print('hello')", command=command) as program:
        ended = program.end()
    assert json.loads(ended.err.splitlines()[-1])["exit"]["code"] == 0
    assert (tmp_path / "r.txt").read_text().startswith("loopwright: app.py: finished")


def test_report_off(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loopwright", "run", "--report", "off"]
    with Program(tmp_path, "print('hello')", command=command) as program:
        assert program.end().err == ""


def test_the_program_sees_what_plain_python_shows_it(tmp_path: Path) -> None:
    source = """
        import json, sys, os
        print(json.dumps([sys.argv, sys.path[0], __name__, os.path.basename(__file__), "uvloop" in sys.modules]))
    """
    with Program(tmp_path, source, ["--loop", "asyncio"], args=["--grace", "-x", "a b"]) as program:
        ended = program.end()
    assert json.loads(ended.out) == [["app.py", "--grace", "-x", "a b"], str(tmp_path), "__main__", "app.py", False]


def test_modules_and_callables(tmp_path: Path) -> None:
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("import sys; print('package', __name__, __spec__.name, sys.argv[1:])")
    (package / "mod.py").write_text(
        "import asyncio, sys\n"
        "async def main(): print('async', sys.argv[1:])\n"
        "async def with_token(token): print('token', token.cancelled)\n"
        "def sync(): return 5\n"
        "class App:\n"
        "    @staticmethod\n"
        "    async def start(): print('nested')\n"
        "print('imported as', __name__)\n"
    )

    def run(target: str) -> Ended:
        with Program(tmp_path, target=target, args=["-a"]) as program:
            return program.end()

    assert run("pkg").out == "package __main__ pkg.__main__ ['-a']\n"
    assert run("pkg.mod").out == "imported as __main__\n"
    assert run("pkg.mod:main").out == "imported as pkg.mod\nasync ['-a']\n"
    assert "token False" in run("pkg.mod:with_token").out
    assert "nested" in run("pkg.mod:App.start").out
    assert run("pkg.mod:sync").code == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.py"], "there is no file 'nothing.py'"),
        (["no_such_module"], "there is no module 'no_such_module'"),
        (["no.such.module:main"], "cannot be imported"),
        (["asyncio:nothing"], "has no 'nothing'"),
        (["os:sep"], "not callable"),
        (["what is this"], "no file here"),
        (["--loop", "json:nothing", "app.py"], "cannot be imported"),
        (["--loop", "trio", "app.py"], "pkg.mod:factory"),
        (["--grace", "0", "app.py"], "above 0"),
        (["--grace", "nan", "app.py"], "above 0"),
        (["--frobnicate", "app.py"], "--frobnicate"),
        ([], "TARGET"),
    ],
)
def test_what_cannot_be_run_is_named(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "app.py").write_text("")
    command = [sys.executable, "-m", "loopwright", "run", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="3.12 has eager tasks")
def test_eager_is_refused_before_3_12(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loopwright", "run", "--eager", "app.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "--eager needs Python 3.12" in done.stderr) == (2, True)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_eager(tmp_path: Path) -> None:
    source = """
        import asyncio

        async def child():
            print("child", flush=True)

        async def main():
            task = asyncio.create_task(child())
            print("after create_task", task.done(), flush=True)
            assert asyncio.get_running_loop().get_task_factory() is asyncio.eager_task_factory

        asyncio.run(main())
    """
    with Program(tmp_path, source, ["--eager", "--loop", "asyncio"]) as program:
        ended = program.end()
    assert ended.out == "child\nafter create_task True\n", ended.err
    assert ended.report["program"]["eager"]


def test_a_loop_by_name(tmp_path: Path) -> None:
    (tmp_path / "loops.py").write_text(
        "import asyncio\nclass Mine(asyncio.SelectorEventLoop): pass\ndef make(): return Mine()\n"
    )
    with Program(
        tmp_path, "import asyncio\nasync def m(): pass\nasyncio.run(m())\n", ["--loop", "loops:make"]
    ) as program:
        assert program.end().report["program"]["loop"] == "loops.Mine"


def test_a_forked_child_dies_of_its_signal_alone(tmp_path: Path) -> None:
    source = """
        import asyncio, os, signal, time

        async def main():
            ends = set()
            for nth in range(100):  # signals at all moments of the child's first two milliseconds
                child = os.fork()
                if child == 0:
                    time.sleep(3600)
                    os._exit(0)
                due = time.perf_counter() + nth * 20e-6
                while time.perf_counter() < due:
                    pass
                os.kill(child, signal.SIGTERM)
                _, status = os.waitpid(child, 0)
                ends.add(os.waitstatus_to_exitcode(status))
            print(ends, flush=True)

        asyncio.run(main())
    """
    with Program(tmp_path, source) as program:
        ended = program.end()
    assert (ended.out, ended.code, ended.report["signals"]) == ("{-15}\n", 0, [])


def test_a_forked_child_that_ends_writes_no_report(tmp_path: Path) -> None:
    source = """
        import os, sys
        child = os.fork()
        if child == 0:
            sys.exit(0)
        os.waitpid(child, 0)
        assert not os.path.exists("report.json")
    """
    with Program(tmp_path, source) as program:
        ended = program.end()
    assert (ended.code, ended.report["exit"]["reason"]) == (0, "finished")


def test_the_list_of_what_is_wrapped_is_in_the_documentation() -> None:
    page = Path(__file__).parent.parent / "docs" / "reference" / "loopwright-run.md"
    text = " ".join(page.read_text().split())
    for name, what in _wraps():
        assert f"| `{name}` | {what} |" in text


def test_wraps_help_and_version() -> None:
    for words, expected in (
        (["run", "--wraps"], "asyncio.new_event_loop"),
        (["run", "--help"], "--grace"),
        (["--version"], "loopwright "),
    ):
        command, fields = _parse_args(words)
        assert command == "print"
        assert expected in fields["text"]
        assert (fields["to_stderr"], fields["code"]) == (False, 0)


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_systemd_hears_of_it(tmp_path: Path, abstract: bool) -> None:
    if abstract and sys.platform != "linux":
        pytest.skip("abstract names are Linux's")
    name = f"@loopwright-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(60)
        env = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "200000"}
        with Program(tmp_path, f"{SERVE}\n    asyncio.run(serve())\n", env=env) as program:
            program.wait_for("ready")
            heard = [manager.recv(100) for _ in range(5)]
            assert heard.count(b"READY=1") == 1
            assert heard.count(b"WATCHDOG=1") == 4
            program.send()
            while (message := manager.recv(100)) == b"WATCHDOG=1":
                pass
            assert message == b"STOPPING=1"
            assert program.end().code == 143


def test_systemd_hears_nothing_of_a_stuck_loop(tmp_path: Path) -> None:
    name = str(tmp_path / "notify")
    source = """
        import asyncio, time

        async def main():
            await asyncio.sleep(0.3)
            print("ready", flush=True)
            time.sleep(1.5)

        asyncio.run(main())
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.settimeout(0.7)
        env = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "100000"}
        with Program(tmp_path, source, env=env) as program:
            program.wait_for("ready")
            with pytest.raises(TimeoutError):
                for _ in range(50):
                    manager.recv(100)
            assert program.end().code == 0
