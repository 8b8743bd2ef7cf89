"""Resources: opened once however many ask, closed in reverse order whatever fails, hangs or is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import gc
import io
import logging
import pickle
import sqlite3
import threading
import traceback
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any

import anyio
import pytest
from support.cancels import EVERY_STEP, cancels, in_cell
from support.loops import PLAIN, Cell, parameters, run

from loopwright import (
    CallCancelled,
    CloseError,
    CloseTimeout,
    Lock,
    LoopMismatch,
    ResourceCycle,
    Resources,
    ResourcesClosed,
    Semaphore,
    finish,
)
from loopwright.testing import Play, SimLoop, cancel_sweep, random_cancels


async def turns(n: int = 3) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def run_virtual(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=SimLoop) as runner:
        runner.run(main())


class Log(list[str]):
    """What was opened and closed, and factories that write it down."""

    @contextlib.asynccontextmanager
    async def opens(
        self, name: str, resources: Resources | None = None, *needs: str, fails: bool = False, slow: float = 0
    ) -> AsyncIterator[str]:
        task = asyncio.current_task()
        for need in needs:
            assert resources is not None
            await resources.get(need, self.opens, need)
        await asyncio.sleep(0)
        self.append(f"+{name}")
        try:
            yield name
        finally:
            assert asyncio.current_task() is task, "it was left in another task"
            await asyncio.sleep(slow)
            self.append(f"-{name}")
            if fails:
                raise OSError(name)


# ------------------------------------------------------------------------------- opened once


def test_one_is_opened_however_many_ask(cell: Cell) -> None:
    async def main() -> None:
        log = Log()
        async with Resources() as resources:
            asked = await asyncio.gather(*(resources.get("db", log.opens, "db") for _ in range(10)))
            assert asked == ["db"] * 10
            assert await resources.get("db", log.opens, "another") == "db"
            assert log == ["+db"]
            assert resources.peek("db") == "db"
            assert ("db" in resources, len(resources)) == (True, 1)
        assert log == ["+db", "-db"]

    run(main, cell)


def test_cancelling_one_asker_never_fails_the_others(cell: Cell) -> None:
    async def main() -> None:
        log = Log()
        async with Resources() as resources:
            askers = [asyncio.create_task(resources.get("db", log.opens, "db")) for _ in range(3)]
            await asyncio.sleep(0)
            askers[0].cancel()  # it was the one whose factory it is
            assert await asyncio.gather(*askers[1:]) == ["db", "db"]
            assert askers[0].cancelled()
            alone = asyncio.create_task(resources.get("lonely", log.opens, "lonely"))
            await asyncio.sleep(0)
            alone.cancel()
            await turns(5)
            assert resources.peek("lonely") == "lonely", "it is opened all the same, and kept"
        assert log == ["+db", "+lonely", "-lonely", "-db"]

    run(main, cell)


def test_a_failed_factory_raises_its_own_error_to_all_and_is_tried_again(cell: Cell) -> None:
    async def main() -> None:
        tries = 0

        async def connect() -> str:
            nonlocal tries
            tries += 1
            await asyncio.sleep(0)
            if tries < 3:
                raise ConnectionRefusedError(tries)
            return "connection"

        async with Resources() as resources:
            for n in (1, 2):
                errors = await asyncio.gather(*(resources.get("db", connect) for _ in range(3)), return_exceptions=True)
                assert [type(error) for error in errors] == [ConnectionRefusedError] * 3
                assert [error.args for error in errors if isinstance(error, BaseException)] == [(n,)] * 3
                (error, *_) = errors
                assert isinstance(error, BaseException)
                frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
                assert frames.count("connect") == 1
                assert frames.count("get") == 1, "one who asks sees the others' tracebacks"
            assert await resources.get("db", connect) == "connection"
            assert tries == 3
            assert resources.stats().failed == 2

    run(main, cell)


def test_an_error_that_nobody_waits_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def fails() -> None:
            await turns()
            raise LookupError("nobody")

        async with Resources() as resources:
            asker = asyncio.create_task(resources.get("x", fails))
            await asyncio.sleep(0)
            asker.cancel()
            await turns(6)
            assert "x" not in resources

    run(main)
    assert "'x' could not be opened, and nobody waits for it any more" in caplog.text
    assert "LookupError: nobody" in caplog.text


def test_a_factory_runs_in_a_context_of_its_own(cell: Cell) -> None:
    request = contextvars.ContextVar("request", default="none")

    async def main() -> None:
        seen: list[str] = []

        @contextlib.asynccontextmanager
        async def opens() -> AsyncIterator[None]:
            seen.append(request.get())
            request.set("the resource's own")
            yield
            seen.append(request.get())

        request.set("service")
        async with Resources() as resources:
            request.set("request 1")
            await resources.get("a", opens)
            await resources.get("b", opens)
            assert request.get() == "request 1"
        assert seen == ["service", "service", "the resource's own", "the resource's own"]

    contextvars.copy_context().run(run, main, cell)


def test_a_factory_that_raises_cancelled_error_cancels_nobody(cell: Cell) -> None:
    async def main() -> None:
        async def stopped() -> None:
            task = asyncio.create_task(forever())
            task.cancel()
            await task

        async with Resources() as resources:
            with pytest.raises(CallCancelled, match="factory of 'x' raised CancelledError although nobody"):
                await resources.get("x", stopped)

    run(main, cell)


# ------------------------------------------------------------------------------- what a factory gives


class Closable:
    def __init__(self, log: list[str], *methods: str) -> None:
        for method in methods:
            name = method.removeprefix("async ")
            setattr(self, name, self._async(log, name) if method.startswith("async ") else self._sync(log, name))

    @staticmethod
    def _sync(log: list[str], name: str) -> Callable[[], None]:
        return lambda: log.append(name)

    @staticmethod
    def _async(log: list[str], name: str) -> Callable[[], Awaitable[None]]:
        async def method() -> None:
            await asyncio.sleep(0)
            log.append(name)

        return method


@pytest.mark.parametrize(
    ("methods", "called"),
    [
        (["async aclose"], ["aclose"]),
        (["async close"], ["close"]),
        (["close"], ["close"]),
        (["async aclose", "close"], ["aclose"]),
        (["close", "async wait_closed"], ["close", "wait_closed"]),
        (["acquire", "release", "async aclose"], ["aclose"]),
        (["acquire", "release"], []),
        ([], []),
    ],
)
@pytest.mark.parametrize("awaited", [False, True])
def test_what_is_taken_as_it_is_is_closed_as_it_can_be(methods: list[str], called: list[str], awaited: bool) -> None:
    async def main() -> None:
        log: list[str] = []
        thing = Closable(log, *methods)

        async def later() -> Closable:
            return thing

        async with Resources() as resources:
            got: Closable = await resources.get("thing", later if awaited else (lambda: thing))  # type: ignore[arg-type, return-value]
            assert got is thing
            await turns()
            assert resources.peek("thing") is thing
            assert log == []
        assert log == called

    run(main)


def test_context_managers_are_entered_and_left_in_one_task(cell: Cell) -> None:
    async def main() -> None:
        log = Log()

        @contextlib.contextmanager
        def plain(name: str) -> Iterator[str]:
            task = asyncio.current_task()
            log.append(f"+{name}")
            yield name
            assert asyncio.current_task() is task
            log.append(f"-{name}")

        @contextlib.asynccontextmanager
        async def with_a_scope() -> AsyncIterator[str]:
            async with anyio.create_task_group():  # minds being left in another task
                yield "scope"

        async with Resources() as resources:
            assert await resources.get(1, plain, "plain") == "plain"
            assert await resources.get(2, log.opens, "async") == "async"
            assert await resources.get(3, with_a_scope) == "scope"
            await asyncio.create_task(resources.get(4, log.opens, "other task"))
        assert log == ["+plain", "+async", "+other task", "-other task", "-async", "-plain"]

    run(main, cell)


def test_locks_are_not_entered_and_files_are_closed(tmp_path: Any) -> None:
    async def main() -> None:
        async with Resources() as resources:
            semaphore = await resources.get("semaphore", lambda: Semaphore(3))
            assert isinstance(semaphore, Semaphore)  # type: ignore[unreachable]
            assert semaphore.value == 3  # type: ignore[unreachable]
            lock = await resources.get("lock", Lock)
            assert isinstance(lock, Lock)
            assert not lock.locked()
            assert not (await resources.get("threads", threading.Lock)).locked()  # type: ignore[attr-defined]
            file = await resources.get("file", (tmp_path / "file").open, "w")
            assert isinstance(file, io.TextIOBase)
            db = await resources.get("sqlite", sqlite3.connect, ":memory:")
            assert isinstance(db, sqlite3.Connection)
            number = await resources.get("number", lambda: 5)
            assert number == 5
            kind = await resources.get("class", lambda: io.StringIO)
            assert kind is io.StringIO
        assert file.closed
        with pytest.raises(sqlite3.ProgrammingError):
            db.execute("select 1")

    run(main)


# ------------------------------------------------------------------------------- dependencies and order


def test_what_a_factory_asks_for_is_closed_after_it(cell: Cell) -> None:
    async def main() -> None:
        log = Log()
        async with Resources() as resources:
            await resources.get("db", log.opens, "db")
            await resources.get("unrelated", log.opens, "unrelated")
            await resources.get("repo", log.opens, "repo", resources, "db", "cache")
            await resources.get("app", log.opens, "app", resources, "repo", "mail")
            log.clear()
        assert log == ["-app", "-mail", "-repo", "-cache", "-unrelated", "-db"]

    run(main, cell)


def test_what_is_opened_behind_its_dependent_is_closed_behind_it_too() -> None:
    """A factory that lets a task of its own ask, and does not wait for it."""

    async def main() -> None:
        log = Log()

        @contextlib.asynccontextmanager
        async def app() -> AsyncIterator[str]:
            task = asyncio.create_task(resources.get("slow", log.opens, "slow"))
            await asyncio.sleep(0)
            yield "app"
            await task
            log.append("-app")

        async with Resources() as resources:
            await resources.get("app", app)
            await turns(5)
            assert "slow" in resources
        assert log == ["+slow", "-app", "-slow"]

    run(main)


def test_a_cycle_is_an_error_that_names_it(cell: Cell) -> None:
    async def main() -> None:
        async def a() -> None:
            await resources.get("b", b)

        async def b() -> None:
            await asyncio.sleep(0)
            await resources.get("c", c)

        async def c() -> None:
            await resources.get("a", a)

        async def itself() -> None:
            await resources.get("itself", itself)

        async with Resources() as resources:
            with pytest.raises(ResourceCycle, match="a cycle, 'c' -> 'a' -> 'b' -> 'c'"):
                await resources.get("a", a)
            with pytest.raises(ResourceCycle, match="'itself' -> 'itself'"):
                await resources.get("itself", itself)
            assert len(resources) == 0

    run(main, cell)


def test_a_cycle_over_two_of_them_is_found() -> None:
    async def main() -> None:
        async def here() -> None:
            await other.get("there", there)

        async def there() -> None:
            await one.get("here", here)

        async with Resources() as one, Resources() as other:
            with pytest.raises(ResourceCycle, match="'there' -> 'here' -> 'there'"):
                await one.get("here", here)

    run(main)


def test_two_ways_to_one_dependency_are_no_cycle(cell: Cell) -> None:
    async def main() -> None:
        log = Log()
        async with Resources() as resources:
            await asyncio.gather(
                resources.get("left", log.opens, "left", resources, "base"),
                resources.get("right", log.opens, "right", resources, "base"),
                resources.get("top", log.opens, "top", resources, "left", "right"),
            )
        assert log[0] == "+base"
        assert log[-1] == "-base"
        assert log.index("-top") < min(log.index("-left"), log.index("-right"))

    run(main, cell)


def test_discard_closes_what_depends_on_it_first(cell: Cell) -> None:
    async def main() -> None:
        log = Log()
        async with Resources() as resources:
            await resources.get("repo", log.opens, "repo", resources, "db")
            await resources.get("other", log.opens, "other")
            log.clear()
            assert await resources.discard("db") is True
            assert await resources.discard("db") is False
            assert log == ["-repo", "-db"]
            assert "other" in resources
            assert await resources.get("db", log.opens, "db") == "db"
        assert log == ["-repo", "-db", "+db", "-db", "-other"]

    run(main, cell)


def test_who_asks_while_it_is_discarded_gets_a_new_one(cell: Cell) -> None:
    async def main() -> None:
        log = Log()
        async with Resources() as resources:
            await resources.get("db", log.opens, "db")
            discarding = asyncio.create_task(resources.discard("db"))
            await turns(2)
            assert resources.peek("db") is None
            assert await resources.get("db", log.opens, "db") == "db"
            assert log == ["+db", "-db", "+db"]
            await discarding

            opening = asyncio.create_task(resources.get("slow", log.opens, "slow"))
            await turns(2)
            assert await resources.discard("slow")
            assert await opening == "slow", "who waited has it opened anew"

    run(main, cell)


def test_a_resource_may_ask_again_for_what_it_depends_on_while_both_are_closed() -> None:
    async def main() -> None:
        log = Log()

        @contextlib.asynccontextmanager
        async def repo() -> AsyncIterator[None]:
            await resources.get("db", log.opens, "db")
            yield
            log.append(f"-repo, with {await resources.get('db', log.opens, 'another')}")
            with pytest.raises(ResourcesClosed):
                await resources.get("new", log.opens, "new")

        async with Resources() as resources:
            await resources.get("repo", repo)
        assert log == ["+db", "-repo, with db", "-db"]

    run(main)


# ------------------------------------------------------------------------------- closing


def test_everything_is_closed_whatever_fails(cell: Cell) -> None:
    async def main() -> None:
        log = Log()
        resources = Resources()
        for name in "abcd":
            await resources.get(name, lambda name=name: log.opens(name, fails=name in "bd"))
        with pytest.raises(CloseError, match="2 of 4 could not be closed properly") as caught:
            await resources.aclose()
        assert [error.args for error in caught.value.exceptions] == [("d",), ("b",)]
        assert "raised when the resource 'd' was closed" in caught.value.exceptions[0].__notes__
        assert log[4:] == ["-d", "-c", "-b", "-a"]
        assert caught.value.subgroup(OSError) is not None
        assert isinstance(caught.value.subgroup(lambda error: error.args == ("b",)), CloseError)
        with pytest.raises(CloseError):
            await resources.aclose()
        assert len(log) == 8, "it was closed once"
        assert resources.stats().close_failures == 2

    run(main, cell)


def test_what_hangs_is_cancelled_and_what_hangs_even_then_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        log = Log()
        loop = asyncio.get_running_loop()
        release = asyncio.Event()

        @contextlib.asynccontextmanager
        async def stubborn() -> AsyncIterator[None]:
            yield
            while not release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await release.wait()

        resources = Resources(close_timeout=2)
        await resources.get("a", log.opens, "a")
        await resources.get("hangs", lambda: log.opens("hangs", slow=1e6))
        await resources.get("stubborn", stubborn)
        await resources.get("b", log.opens, "b")
        start = loop.time()
        with pytest.raises(CloseError) as caught:
            await resources.aclose()
        assert loop.time() - start == pytest.approx(6, abs=0.1)
        first, second = caught.value.exceptions
        assert isinstance(first, CloseTimeout) and isinstance(second, CloseTimeout)
        assert "'stubborn' did not close within close_timeout=2.0 s and was cancelled, has not ended" in str(first)
        assert "'hangs' did not close within close_timeout=2.0 s and was cancelled;" in str(second)
        assert log[-1] == "-a"
        assert len(resources) == 0
        release.set()
        await turns()

    run_virtual(main)
    assert "'stubborn' does not end, not even cancelled" in caplog.text


def test_a_cancel_during_aclose_leaves_nothing_half_done(cell: Cell) -> None:
    async def main() -> None:
        log = Log()
        resources = Resources()
        for name in "abc":
            await resources.get(name, log.opens, name)
        closing = asyncio.create_task(resources.aclose())
        await asyncio.sleep(0)
        for _ in range(3):
            closing.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert log[3:] == ["-c", "-b", "-a"]

    run(main, cell)


def test_an_error_in_a_cancelled_aclose_is_not_lost(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        log = Log()
        resources = Resources()
        await resources.get("a", lambda: log.opens("a", fails=True))
        closing = asyncio.create_task(resources.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await closing
        assert "could not be closed properly" in str(caught.value.__notes__)

    run(main)
    assert "OSError: a" in caplog.text


def test_aclose_in_a_cancelled_anyio_scope_and_in_finish() -> None:
    async def main() -> None:
        log = Log()
        for _ in range(2):
            resources = Resources()
            for name in "abc":
                await resources.get(name, log.opens, name)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await resources.aclose()
            assert log[3:] == ["-c", "-b", "-a"]
            log.clear()
        resources = Resources()
        await resources.get("a", log.opens, "a")
        await finish(resources.aclose())
        assert log == ["+a", "-a"]

    run(main)


def test_the_blocks_own_error_goes_before_those_of_the_closing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        log = Log()
        with pytest.raises(LookupError, match="mine") as caught:
            async with Resources() as resources:
                await resources.get("a", lambda: log.opens("a", fails=True))
                raise LookupError("mine")
        assert "1 of 1 could not be closed properly: OSError('a')" in caught.value.__notes__[0]
        with pytest.raises(CloseError):
            async with Resources() as resources:
                await resources.get("a", lambda: log.opens("a", fails=True))

        async def cancelled() -> None:
            async with Resources() as resources:
                await resources.get("a", lambda: log.opens("a", fails=True))
                await forever()

        task = asyncio.create_task(cancelled())
        await turns(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled(), "a failed closing swallowed the cancel"

    run(main)
    assert caplog.text.count("could not be closed properly") >= 2


def test_what_is_being_opened_is_cancelled_and_who_waits_is_told(cell: Cell) -> None:
    async def main() -> None:
        cleaned: list[str] = []

        async def slow() -> None:
            try:
                await forever()
            finally:
                await turns()
                cleaned.append("slow")

        async def deaf() -> Closable:
            with contextlib.suppress(asyncio.CancelledError):
                await forever()
            return Closable(cleaned, "close")

        resources = Resources()
        askers = [asyncio.create_task(resources.get(factory.__name__, factory)) for factory in (slow, deaf, slow)]
        await turns()
        await resources.aclose()
        for asker in askers:
            with pytest.raises(ResourcesClosed):
                await asker
        assert sorted(cleaned) == ["close", "slow"], "what was opened after all is closed"
        with pytest.raises(ResourcesClosed, match="opens nothing more: make a new one"):
            await resources.get("x", slow)
        await resources.aclose()

    run(main, cell)


def test_several_may_close_it_at_once(cell: Cell) -> None:
    async def main() -> None:
        log = Log()
        resources = Resources()
        for name in "ab":
            await resources.get(name, log.opens, name)
        await asyncio.gather(resources.aclose(), resources.aclose(), resources.discard("a"), resources.discard("b"))
        assert sorted(log) == ["+a", "+b", "-a", "-b"]
        await Resources().aclose()

    run(main, cell)


def test_its_own_resources_cannot_close_it() -> None:
    async def main() -> None:
        async def suicidal() -> None:
            await resources.aclose()

        async with Resources() as resources:
            with pytest.raises(
                RuntimeError, match=r"Resources.aclose was called while 'x' is opening, by its own code"
            ):
                await resources.get("x", suicidal)

    run(main)


def test_a_keeper_that_is_cancelled_from_outside_is_reported_and_replaced(
    cell: Cell, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        log = Log()
        async with Resources() as resources:
            await resources.get("db", log.opens, "db")
            for task in asyncio.all_tasks():
                if task.get_name() == "Resources['db']":
                    task.cancel()
            await turns(5)
            assert log == ["+db", "-db"]
            assert resources.peek("db") is None
            assert await resources.get("db", log.opens, "db") == "db"
        assert log == ["+db", "-db"] * 2

    run(main, cell)
    assert "'db' open was cancelled by somebody else" in caplog.text


# ------------------------------------------------------------------------------- loops, state, misuse


def test_it_belongs_to_a_loop_while_it_has_resources(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    resources = Resources()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(resources.get("a", log.opens, "a"))

    async def other() -> None:
        for _ in range(2):
            with pytest.raises(LoopMismatch, match=r"1 resource\(s\) of that loop are open"):
                await resources.get("a", log.opens, "a")
        with pytest.raises(LoopMismatch):
            await resources.aclose()

    asyncio.run(other())
    loop.run_until_complete(resources.discard("a"))

    async def third() -> None:
        assert await resources.get("b", log.opens, "b") == "b"

    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    with asyncio.Runner() as runner:
        runner.run(third())
        runner.run(resources.discard("b"))
        runner.run(resources.get("lost", object))
        runner.run(resources.get("kept", lambda: 5))

    async def fourth() -> None:
        assert await resources.get("b", log.opens, "b") == "b"
        await resources.aclose()

    asyncio.run(fourth())
    assert "closed before them, they are lost: 'lost', 'kept'" in caplog.text


def test_it_tells_its_state(cell: Cell) -> None:
    async def main() -> None:
        log = Log()
        resources = Resources()
        assert repr(resources) == "<Resources open=0>"
        await resources.get("a", log.opens, "a")
        states: list[str] = []

        async def opens() -> None:
            states.append(repr(resources))

        await resources.get("b", opens)
        await resources.get("c", Closable, states, "close")
        resources.peek("c").close = lambda: states.append(repr(resources))  # type: ignore[union-attr]
        await resources.aclose()
        assert states == ["<Resources open=1 opening=1>", "<Resources open=0 closing=3 closed>"]
        assert repr(resources) == "<Resources open=0 closed>"
        stats = resources.stats()
        assert dataclasses.asdict(stats) == {
            "open": 0,
            "opening": 0,
            "closing": 0,
            "opened": 3,
            "failed": 0,
            "close_failures": 0,
            "closed": True,
        }
        with pytest.raises(dataclasses.FrozenInstanceError):
            stats.open = 1  # type: ignore[misc]

    run(main, cell)


def test_misuse_is_refused_by_name() -> None:
    for timeout, error in [(0, ValueError), (-1, ValueError), (True, TypeError), ("1", TypeError)]:
        with pytest.raises(error, match="close_timeout"):
            Resources(close_timeout=timeout)  # type: ignore[arg-type]

    async def main() -> None:
        async with Resources() as resources:
            with pytest.raises(TypeError, match="takes a function and its arguments, got <coroutine"):
                await resources.get("x", forever())  # type: ignore[call-overload]
            with pytest.raises(TypeError, match="unhashable"):
                await resources.get([], forever)

    run(main)


def test_errors_pickle_and_are_what_callers_already_catch() -> None:
    assert issubclass(CloseTimeout, TimeoutError)
    assert issubclass(ResourceCycle, RuntimeError)
    assert issubclass(ResourcesClosed, RuntimeError)
    assert issubclass(CloseError, ExceptionGroup)
    for error in (CloseError("m", [OSError(1)]), CloseTimeout("t"), ResourceCycle("c"), ResourcesClosed("d")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy)) == (type(error), str(error))


def test_closed_ones_leave_nothing_behind() -> None:
    class Thing:
        pass

    async def main() -> None:
        resources = Resources()
        await resources.get("base", lambda: 1)
        references = []
        for n in range(100):

            async def opens() -> Thing:
                await resources.get("base", Thing)
                return Thing()

            references.append(weakref.ref(await resources.get(n, opens)))
        assert all(reference() is not None for reference in references)
        for n in range(100):
            await resources.discard(n)
        await turns()
        gc.collect()
        assert not any(reference() is not None for reference in references)
        assert len(resources) == 1

    run(main)


# ------------------------------------------------------------------------------- sweeps


async def scenario(play: Play) -> None:
    """Everybody asks, one fails at first, one discards, the owner closes: whoever is cancelled when, what was opened is
    closed once, behind what depends on it, in the task that opened it."""
    alive: dict[str, asyncio.Task[Any] | None] = {}
    attempts = 0

    @contextlib.asynccontextmanager
    async def opens(name: str, *needs: str) -> AsyncIterator[str]:
        nonlocal attempts
        for need in needs:
            await resources.get(need, opens, need)
        await asyncio.sleep(0)
        play.step()
        if name == "cache":
            attempts += 1
            if attempts == 1:
                raise ConnectionError
        assert name not in alive, f"{name} was opened twice"
        alive[name] = asyncio.current_task()
        try:
            yield name
        finally:
            try:
                for need in needs:
                    assert need in alive, f"{need} was closed before {name}"
                await asyncio.sleep(0)
                play.step()
            finally:
                assert alive.pop(name) is asyncio.current_task()

    resources = Resources()

    async def asks(name: str, *needs: str) -> None:
        with contextlib.suppress(ConnectionError, ResourcesClosed):
            assert await resources.get(name, opens, name, *needs) == name
            await play.pause()

    async def discards() -> None:
        await play.pause()
        await resources.discard("db")

    async def owner() -> None:
        async with resources:
            await asks("db")
            await play.pause()
        assert not alive, f"{alive} are left"

    for n in range(2):
        play.spawn(asks("repo", "db", "cache"), name=f"repo{n}")
    play.spawn(asks("cache"), name="cache")
    play.spawn(discards(), name="discards")
    play.spawn(owner(), name="owner")
    await play.finished()
    await resources.aclose()
    assert not alive
    stats = resources.stats()
    assert (stats.open, stats.opening, stats.closing) == (0, 0, 0)


@pytest.fixture(autouse=True)
def quiet(request: pytest.FixtureRequest) -> Iterator[None]:
    logger = logging.getLogger("loopwright")
    logger.disabled = "sweep" in request.node.name or "random" in request.node.name
    yield
    logger.disabled = False


@pytest.mark.parametrize("cell", parameters([PLAIN, Cell("uvloop")]))
def test_sweep(cell: Cell) -> None:
    assert cancel_sweep(scenario, **EVERY_STEP, **in_cell(cell)).count("cancel") > 10


def test_random_cancels(cell: Cell) -> None:
    random_cancels(scenario, cancels(cell=cell, share=0.02), **in_cell(cell))
