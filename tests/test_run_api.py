"""``loopwright.run(main)``: results, the token, the phases, what is refused."""

from __future__ import annotations

import asyncio
import math
import signal
import sys
import threading
from pathlib import Path

import pytest
from support import requires
from support.program import Ended, Program

import loopwright
from loopwright._launch.supervisor import current


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    if request.param == "uvloop":
        requires.module("uvloop")
    name: str = request.param
    return name


def test_returns_the_result(loop: str) -> None:
    async def main(token: loopwright.CancelToken) -> tuple[bool, str]:
        return token.cancelled, type(asyncio.get_running_loop()).__module__

    cancelled, module = loopwright.run(main, loop=loop)
    assert not cancelled
    assert ("uvloop" in module) == (loop == "uvloop")


def test_main_without_parameters() -> None:
    async def main() -> int:
        return 3

    assert loopwright.run(main) == 3


def test_who_gets_the_token() -> None:
    async def optional(argv: object = None) -> object:
        return argv

    async def by_name(token: object = None) -> object:
        return token

    class Service:
        async def main(self, token: object) -> object:
            return token

        async def __call__(self) -> object:
            return None

    assert loopwright.run(optional) is None
    assert isinstance(loopwright.run(by_name), loopwright.CancelToken)
    assert isinstance(loopwright.run(Service().main), loopwright.CancelToken)
    assert loopwright.run(Service()) is None


def test_errors_pass_through() -> None:
    async def main() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        loopwright.run(main)

    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        loopwright.run(cancelled)

    async def leaves() -> None:
        sys.exit(4)

    with pytest.raises(SystemExit) as caught:
        loopwright.run(leaves)
    assert caught.value.code == 4


def test_a_callable_makes_the_loop() -> None:
    made: list[asyncio.AbstractEventLoop] = []

    def make() -> asyncio.AbstractEventLoop:
        made.append(asyncio.SelectorEventLoop())
        return made[0]

    async def main() -> bool:
        return asyncio.get_running_loop() is made[0]

    assert loopwright.run(main, loop=make)
    assert made[0].is_closed()


def test_everything_is_put_back() -> None:
    async def main() -> None:
        assert signal.getsignal(signal.SIGTERM) is not before[0]
        assert current() is not None

    before = [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)]
    threads = threading.active_count()
    for _ in range(3):
        loopwright.run(main)
        assert [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)] == before
        assert current() is None
        assert threading.active_count() == threads


def test_in_another_thread_no_signal_is_handled() -> None:
    async def main(token: loopwright.CancelToken) -> object:
        return signal.getsignal(signal.SIGTERM)

    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(loopwright.run(main)))
    thread.start()
    thread.join()
    assert results == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize("grace", [0, -1, math.nan, math.inf, True, "10", None])
def test_a_wrong_grace_is_named(grace: object) -> None:
    async def main() -> None: ...

    with pytest.raises(ValueError, match="grace must be a number of seconds above 0, not"):
        loopwright.run(main, grace=grace)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["trio", "", ":", "a:", ":b", "no_such_module:f", "asyncio:no_such_name", "os:sep", 3])
def test_a_wrong_loop_is_named(name: object) -> None:
    async def main() -> None: ...

    with pytest.raises(ValueError, match=r"^loop "):
        loopwright.run(main, loop=name)  # type: ignore[arg-type]


def test_a_wrong_main_is_named() -> None:
    async def main(token: object) -> None: ...

    async def two(a: object, b: object) -> None: ...

    async def needs(*, config: object) -> None: ...

    async def needs_both(token: object, *, config: object) -> None: ...

    def plain() -> int:
        return 3

    with pytest.raises(TypeError, match=r"run\(main\), not run\(main\(\)\)"):
        loopwright.run(main(None))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="requires a, b"):
        loopwright.run(two)  # type: ignore[arg-type]
    for wrong in (needs, needs_both):
        with pytest.raises(TypeError, match="config"):
            loopwright.run(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must return an awaitable"):
        loopwright.run(plain)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be an async function"):
        loopwright.run(3)  # type: ignore[arg-type]


def test_refused_in_a_running_loop() -> None:
    async def inner() -> None: ...

    async def main() -> None:
        with pytest.raises(RuntimeError, match="inside a running one"):
            loopwright.run(inner)

    asyncio.run(main())


PYTHON = [sys.executable]
UNDER = {"python": PYTHON, "loopwright run": None}


@pytest.fixture(params=UNDER)
def under(request: pytest.FixtureRequest) -> list[str] | None:
    """By plain Python, and by ``loopwright run``, where the report tells more."""
    return UNDER[request.param]


SERVICE = """
    import asyncio, sys, loopwright

    async def main(token):
        print("ready", flush=True)
        await token.wait()
        print("stopped accepting:", token.reason, flush=True)
        try:
            for _ in range({requests}):
                await asyncio.sleep(0.1)
            print("drained", flush=True)
        except asyncio.CancelledError:
            print("cancelled", flush=True)
            raise
        return "result"

    print(loopwright.run(main, grace={grace}, loop="{loop}"), flush=True)
"""


def service(tmp_path: Path, under: list[str] | None, number: int = signal.SIGTERM, **values: object) -> Ended:
    with Program(tmp_path, SERVICE.format(**{"loop": "asyncio", **values}), command=under) as program:
        return program.wait_for("ready").send(number).end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_drains(tmp_path: Path, under: list[str] | None, number: signal.Signals, loop: str) -> None:
    ended = service(tmp_path, under, number, requests=3, grace=30, loop=loop)
    assert ended.out == f"ready\nstopped accepting: {number.name}\ndrained\nresult\n"
    assert ended.code == 0, "main ended by itself"
    if ended.report:
        assert ended.phases == ["run", "stop accepting", "drain", "close", "end"]
        assert ended.report["program"]["grace"] == 30


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_is_cancelled_when_draining_takes_too_long(
    tmp_path: Path, under: list[str] | None, number: signal.Signals, loop: str
) -> None:
    ended = service(tmp_path, under, number, requests=10**6, grace=3, loop=loop)
    assert ended.out == f"ready\nstopped accepting: {number.name}\ncancelled\n"
    # Plain Python dies of the signal after an unhandled KeyboardInterrupt, as it should.
    assert ended.code in {128 + number, -number}
    if ended.report:
        assert ended.phases == ["run", "stop accepting", "drain", "cancel", "close", "end"]
        phases = {phase["name"]: phase["at"] for phase in ended.report["phases"]}
        assert phases["cancel"] - phases["drain"] >= 1.5, "60 % of the grace"


def test_without_a_token_main_is_cancelled_at_once(tmp_path: Path, under: list[str] | None) -> None:
    source = """
        import asyncio, loopwright

        async def main():
            try:
                print("ready", flush=True)
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(0.1)
                print("cleaned up", flush=True)

        loopwright.run(main)
    """
    with Program(tmp_path, source, command=under) as program:
        ended = program.wait_for("ready").send().end()
    assert (ended.out, ended.code) == ("ready\ncleaned up\n", 143)
    if ended.report:
        assert ended.phases == ["run", "stop accepting", "cancel", "close", "end"]


def test_what_main_started_is_closed(tmp_path: Path, under: list[str] | None) -> None:
    source = """
        import asyncio, loopwright

        async def child():
            try:
                await asyncio.sleep(3600)
            finally:
                print("child", flush=True)

        async def numbers():
            try:
                while True:
                    yield 1
            finally:
                print("generator", flush=True)

        async def main(token):
            task = asyncio.create_task(child())
            source = numbers()
            async for _ in source:
                break
            print("ready", flush=True)
            main.kept = source, task
            await token.wait()

        loopwright.run(main)
    """
    with Program(tmp_path, source, command=under) as program:
        ended = program.wait_for("ready").send().end()
    assert ended.out == "ready\nchild\ngenerator\n"
    assert ended.code == 0


def test_a_signal_before_main_has_begun(tmp_path: Path) -> None:
    source = """
        import asyncio, os, signal, loopwright

        def make():
            os.kill(os.getpid(), signal.SIGTERM)
            return asyncio.new_event_loop()

        async def main(token):
            print(token.cancelled, await token.sleep(60), flush=True)

        loopwright.run(main, loop=make)
    """
    with Program(tmp_path, source, command=PYTHON) as program:
        ended = program.end()
    assert (ended.out, ended.code) in {("False True\n", 0), ("True True\n", 0)}


def test_an_earlier_handler_is_called_too(tmp_path: Path) -> None:
    source = """
        import loopwright, signal

        signal.signal(signal.SIGTERM, lambda number, frame: print("mine", flush=True))

        async def main(token):
            print("ready", flush=True)
            await token.wait()

        loopwright.run(main)
        print(signal.getsignal(signal.SIGTERM).__name__, flush=True)
    """
    with Program(tmp_path, source, command=PYTHON) as program:
        ended = program.wait_for("ready").send().end()
    assert (ended.out, ended.code) == ("ready\nmine\n<lambda>\n", 0)


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    source = """
        import asyncio, loopwright, signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)

        async def main(token):
            print("ready", flush=True)
            print(await token.sleep(1), flush=True)

        loopwright.run(main)
    """
    with Program(tmp_path, source, command=PYTHON) as program:
        ended = program.wait_for("ready").send(signal.SIGINT).end()
    assert (ended.out, ended.code) == ("ready\nFalse\n", 0)


def test_the_command_line_wins(tmp_path: Path) -> None:
    source = """
        import asyncio, loopwright

        async def main():
            print(type(asyncio.get_running_loop()).__module__)

        loopwright.run(main, grace=30)
    """
    with Program(tmp_path, source, ["--grace", "5", "--loop", "asyncio"]) as program:
        ended = program.end()
    assert "asyncio" in ended.out
    assert ended.report["program"]["grace"] == 5


def test_one_run_after_another(tmp_path: Path, under: list[str] | None) -> None:
    source = """
        import asyncio, os, signal, loopwright

        async def first(token):
            os.kill(os.getpid(), signal.SIGTERM)
            return await token.sleep(60)

        async def second(token):
            return token.cancelled

        print(loopwright.run(first), loopwright.run(second), flush=True)
    """
    with Program(tmp_path, source, command=under) as program:
        ended = program.end()
    assert (ended.out, ended.code) == ("True False\n", 0), ended.err


def test_a_forked_child_may_run_its_own(tmp_path: Path) -> None:
    source = """
        import asyncio, os, signal, loopwright

        async def child(token):
            os.kill(os.getpid(), signal.SIGTERM)
            print("child", await token.sleep(60), flush=True)

        async def main(token):
            pid = os.fork()
            if pid == 0:
                asyncio._set_running_loop(None)
                loopwright.run(child, loop="asyncio")
                os._exit(5)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), token.cancelled, flush=True)

        loopwright.run(main, loop="asyncio")
    """
    with Program(tmp_path, source, command=PYTHON) as program:
        ended = program.end()
    assert (ended.out, ended.code) == ("child True\n5 False\n", 0), ended.err
