"""timeout, timeout_at: promises 8 and 13 of DESIGN section 5, and asyncio's contract.

No cancel but the timeout's own becomes a TimeoutError, an inner timeout never outlives an outer one, no deadline is
served late, and what comes and goes leaves the loop alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import gc
import math
import sys
import unittest
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from support.cancels import EVERY_STEP, cancels, in_cell
from support.loops import PLAIN, Cell, VirtualLoop, run

from loopwright import CancelToken, Lock, Queue, Timeout, _loopwright, time_left, timeout, timeout_at
from loopwright.testing import Play, cancel_sweep, random_cancels


def deadlines() -> tuple[int, float | None]:
    """Live deadlines of the running loop, and the earliest."""
    hub = getattr(asyncio.get_running_loop(), "_loopwright_hub", None)
    return hub.deadlines() if hub is not None else (0, None)


class CountingLoop(VirtualLoop):
    """Counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def call_at(self, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        self.calls += 1
        return super().call_at(*args, **kwargs)

    def call_soon(self, *args: Any, **kwargs: Any) -> asyncio.Handle:
        self.calls += 1
        return super().call_soon(*args, **kwargs)


def on(loop: asyncio.AbstractEventLoop, main: Callable[[], Any]) -> Any:
    """Runs ``main()`` on this loop."""
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main())


# -------------------------------------------------------------------- promise 8: no cancel is swallowed


@pytest.mark.parametrize("delay", [0, -1, 0.001, 60])
def test_promise_8_timeout_0_eats_no_earlier_cancel(cell: Cell, delay: float) -> None:
    """python/cpython#134471."""

    async def main() -> None:
        entered = False

        async def victim() -> None:
            nonlocal entered
            current = asyncio.current_task()
            assert current is not None
            current.cancel("the first")
            async with timeout(delay):
                entered = True
                await asyncio.sleep(10)

        task = asyncio.create_task(victim())
        with pytest.raises(asyncio.CancelledError, match="the first"):
            await task
        assert task.cancelled() and not entered, "delivered at the `async with` line"
        assert deadlines()[0] == 0

    run(main, cell)


def test_promise_8_the_asyncio_timeout_does() -> None:
    """What #134471 is about; when this fails, asyncio has been mended."""

    async def main() -> str:
        async def victim() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            async with asyncio.timeout(0):
                await asyncio.sleep(10)

        try:
            await asyncio.create_task(victim())
        except TimeoutError:
            return "eaten"
        except asyncio.CancelledError:
            return "kept"
        return "nothing"

    assert run(main) in ("eaten", "kept")


def test_promise_8_a_cancel_inside_and_the_deadline_in_one_turn(cell: Cell) -> None:
    async def main() -> None:
        async def victim() -> None:
            async with timeout(60) as cm:
                started.set_result(cm)
                await asyncio.sleep(10)

        loop = asyncio.get_running_loop()
        for cancel_first in (True, False):
            started = loop.create_future()
            task = asyncio.create_task(victim())
            cm = await started
            if cancel_first:
                task.cancel("theirs")
            cm.reschedule(loop.time() - 1)
            await asyncio.sleep(0)
            if not cancel_first:
                task.cancel("theirs")
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()

    run(main, cell)


def test_a_cancel_that_is_over_does_not_disturb(cell: Cell) -> None:
    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1)
        assert task.cancelling() == 1
        with pytest.raises(TimeoutError):
            async with timeout(0):
                await asyncio.sleep(1)
        assert task.cancelling() == 1
        task.uncancel()

    run(main, cell)


@pytest.mark.parametrize("victim", ["sleeper", "waiter"])
def test_sweep_a_cancel_at_every_point(victim: str) -> None:
    async def scenario(play: Play) -> None:
        lock = Lock()
        ended: list[str] = []

        async def sleeper() -> None:
            async with lock, timeout(5) as outer:
                with contextlib.suppress(TimeoutError):
                    async with timeout(1) as inner:
                        assert inner.remaining is not None and outer.remaining is not None
                        assert inner.remaining <= outer.remaining
                        await asyncio.sleep(60)
                assert inner.expired() and not outer.expired()
                await asyncio.sleep(0)
            ended.append("sleeper")

        async def waiter() -> None:
            try:
                async with timeout(0.5), lock:
                    ended.append("got the lock")
            except TimeoutError:
                ended.append("gave up")

        play.spawn(sleeper(), name="sleeper")
        play.spawn(waiter(), name="waiter")
        await play.finished()
        assert deadlines() == (0, None)
        assert not lock.locked() and lock.waiting == 0

    assert cancel_sweep(scenario, victims=victim, **EVERY_STEP).count("cancel") > 3


def test_sweep_the_deadline_as_the_cancel() -> None:
    """The deadline passes at every step: what expires is TimeoutError, and only that."""

    async def scenario(play: Play) -> None:
        loop = asyncio.get_running_loop()
        queue: Queue[int] = Queue(1)
        scope: list[Timeout] = []
        got: list[int] = []

        def expire() -> bool:
            if not scope or scope[0].expired() or "[active]" not in repr(scope[0]):
                return False
            scope[0].reschedule(loop.time() - 1)
            return True

        async def victim() -> None:
            async with timeout(None) as cm:
                scope.append(cm)
                for _ in range(3):
                    got.append(await queue.get())
                    await asyncio.sleep(0)

        async def feeder() -> None:
            for item in range(3):
                with contextlib.suppress(TimeoutError):
                    async with timeout(10):
                        await queue.put(item)

        play.spawn(victim(), name="victim", cancel=expire, allow=(TimeoutError,))
        play.spawn(feeder(), name="feeder")
        await play.finished()
        left = [queue.get_nowait() for _ in range(queue.qsize())]
        assert got + left == list(range(len(got) + len(left)))
        assert deadlines() == (0, None)

    assert cancel_sweep(scenario, victims="victim", **EVERY_STEP).count("cancel") > 3


async def storm(play: Play) -> None:
    """Nested timeouts, sleeps, rescheduling, all at random; virtual or real time."""
    rng = play.rng
    loop = asyncio.get_running_loop()
    token = CancelToken()

    async def worker() -> None:
        for _ in range(rng.randint(1, 4)):
            task = asyncio.current_task()
            assert task is not None
            before = task.cancelling()
            try:
                async with timeout(rng.choice((None, -1, 0, 0.001, 0.002, 5))) as outer:
                    with contextlib.suppress(TimeoutError):
                        async with timeout(rng.choice((None, 0, 0.001, 3))) as inner:
                            around, left = outer.remaining, inner.remaining  # in this order: time may go on
                            assert around is None or (left is not None and left <= around)
                            await play.pause()
                            if rng.random() < 0.3 and not inner.expired():
                                inner.reschedule(rng.choice((None, loop.time() - 1, loop.time() + 0.001)))
                            await token.sleep(rng.choice((0, 0.001, 0.002)))
                    await play.pause()
            except TimeoutError:
                assert task.cancelling() == before, "what the timeout asked for, it took back"

    for n in range(rng.randint(1, 5)):
        play.spawn(worker(), name=f"worker-{n}")
    await play.finished()
    live, _ = deadlines()
    assert live == 0, f"{live} deadlines are left"
    assert token.stats().waiting == 0


def test_random_cancels() -> None:
    random_cancels(storm, cancels(share=0.25), level="task")


def test_random_cancels_in_every_cell(cell: Cell) -> None:
    random_cancels(storm, min(cancels(cell=cell, again=True, share=0.25), 2_000), seed=1, level="task", **in_cell(cell))


# -------------------------------------------------------------------- nesting and deadlines


def test_an_inner_timeout_never_outlives_an_outer_one(cell: Cell) -> None:
    async def main() -> None:
        async def body() -> None:
            async with timeout(0.01) as outer:
                try:
                    async with timeout(60) as inner:
                        assert inner.remaining is not None and inner.remaining < 1
                        await asyncio.sleep(30)
                finally:
                    seen.append((outer.expired(), inner.expired()))

        seen: list[tuple[bool, bool]] = []
        with pytest.raises(TimeoutError):
            await body()
        assert seen == [(True, False)]

    run(main, cell)


def test_time_left_is_that_of_the_blocks_around_it_in_the_same_task() -> None:
    async def main() -> None:
        async def other() -> float | None:
            return time_left()

        assert time_left() is None
        async with timeout(None):
            assert time_left() is None
            async with timeout(50) as a, timeout(20):
                async with timeout(100):
                    assert time_left() == 20
                    assert await other() == 20
                    assert await asyncio.create_task(other()) is None, "a task has its own"
                a.reschedule(asyncio.get_running_loop().time() - 5)
                assert time_left() == 0.0
                a.reschedule(None)
            assert time_left() is None
        asyncio.get_running_loop().call_soon(lambda: outside.append(time_left()))
        await asyncio.sleep(0)

    outside: list[float | None] = [time_left()]
    on(VirtualLoop(), main)
    assert outside == [None, None]


def test_remaining_is_the_least_of_this_and_those_around_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        lone = timeout(None)
        assert lone.remaining is None
        assert timeout(7).remaining == 7, "before it is entered: its own"
        async with lone as nothing:
            assert nothing.remaining is None
            async with timeout(50) as a, timeout(100) as b, timeout(20) as c:
                assert (a.remaining, b.remaining, c.remaining) == (50, 50, 20)

                async def other() -> float | None:
                    async with timeout(500) as mine:
                        return mine.remaining

                assert await asyncio.create_task(other()) == 500, "other tasks' timeouts are theirs"
                a.reschedule(now + 10)
                assert (a.remaining, b.remaining, c.remaining) == (10, 10, 10)
                b.reschedule(now - 5)
                assert c.remaining == 0.0
                b.reschedule(None)
                a.reschedule(None)
                assert (a.remaining, b.remaining, c.remaining) == (None, None, 20)
            assert nothing.remaining is None
        assert c.remaining == 20, "afterwards: its own"

    on(VirtualLoop(), main)


def test_blocks_that_end_out_of_order() -> None:
    async def main() -> None:
        async def generator(delay: float) -> AsyncIterator[Timeout]:
            async with timeout(delay) as cm:
                yield cm

        first, second = generator(10), generator(20)
        a = await anext(first)
        b = await anext(second)
        async with timeout(30) as c:
            assert (a.remaining, b.remaining, c.remaining) == (10, 10, 10)
            await first.aclose()  # type: ignore[attr-defined]
            assert (b.remaining, c.remaining) == (20, 20)
            await second.aclose()  # type: ignore[attr-defined]
            assert c.remaining == 30
        assert deadlines() == (0, None)
        async with timeout(5) as d:
            assert d.remaining == 5

    on(VirtualLoop(), main)


def test_a_deadline_in_the_past_expires_in_the_next_turn_never_synchronously(cell: Cell) -> None:
    async def main() -> None:
        for make in (lambda: timeout(0), lambda: timeout(-math.inf), lambda: timeout_at(0)):
            reached = False
            with pytest.raises(TimeoutError):
                async with make() as cm:
                    assert not cm.expired()
                    reached = True
                    await asyncio.sleep(0)
            assert reached and cm.expired()
            async with make() as cm:
                pass
            assert not cm.expired(), "a body that does not wait is through"

    run(main, cell)


def test_deadlines_are_served_in_order_and_ties_in_the_order_of_entry() -> None:
    async def main() -> None:
        order: list[int] = []

        async def wait(number: int, delay: float) -> None:
            try:
                async with timeout(delay):
                    await asyncio.sleep(1_000)
            except TimeoutError:
                order.append(number)

        delays = [5, 3, 5, 1, 3, 5, 1, 2]
        tasks = [asyncio.create_task(wait(number, delay)) for number, delay in enumerate(delays)]
        await asyncio.gather(*tasks)
        assert order == sorted(range(len(delays)), key=delays.__getitem__)

    on(AutoVirtualLoop(), main)


class AutoVirtualLoop(VirtualLoop):
    """Jumps ahead by itself when nothing is ready."""

    def _run_once(self) -> None:
        if not self._ready:  # type: ignore[attr-defined]
            self.advance()
        super()._run_once()  # type: ignore[misc]


def test_infinity_is_a_deadline_that_never_comes(cell: Cell) -> None:
    async def main() -> None:
        async with timeout(math.inf) as cm:
            await asyncio.sleep(0.001)
            assert cm.remaining == math.inf and cm.when() == math.inf
        async with timeout(math.inf), timeout(10) as cm:
            assert cm.remaining is not None and cm.remaining <= 10
        assert deadlines() == (0, None)

    run(main, cell)


# -------------------------------------------------------------------- the loop is left alone


def test_a_timeout_behind_an_armed_timer_makes_no_call_into_the_loop() -> None:
    loop = CountingLoop()

    async def main() -> None:
        async with timeout(10):
            before = loop.calls
            for n in range(1_000):
                async with timeout(10 + n), timeout(None), timeout_at(loop.time() + 11) as cm:
                    cm.reschedule(loop.time() + 20)
            assert loop.calls == before
            async with timeout(9):
                assert loop.calls == before + 1, "an earlier one sets the timer"
            async with timeout(9.5):
                assert loop.calls == before + 1, "and it stays set"

    on(loop, main)


def test_the_timer_that_goes_off_for_nobody_is_set_for_the_next() -> None:
    loop = CountingLoop()

    async def main() -> None:
        async with timeout(1):
            pass
        try:
            async with timeout(3):
                await asyncio.sleep(100)
        except TimeoutError:
            assert 3 <= loop.time() < 3.1

    loop.__class__ = type("AutoCountingLoop", (CountingLoop, AutoVirtualLoop), {})
    on(loop, main)


def test_an_interrupt_out_of_a_timer_leaves_the_others_armed() -> None:
    class Interrupting(asyncio.Task):  # type: ignore[type-arg]
        armed = False

        def cancel(self, msg: Any = None) -> bool:
            if Interrupting.armed:
                Interrupting.armed = False
                raise KeyboardInterrupt
            return super().cancel(msg)

    loop = asyncio.new_event_loop()
    loop.set_task_factory(lambda loop, coro, **kw: Interrupting(coro, loop=loop, **kw))
    outcomes: list[str] = []

    async def worker(name: str) -> None:
        try:
            async with timeout(0.01):
                await asyncio.sleep(2)
                outcomes.append(f"{name} was forgotten")
        except TimeoutError:
            outcomes.append(name)

    try:
        tasks = [loop.create_task(worker(name)) for name in "abc"]
        loop.run_until_complete(asyncio.sleep(0))
        Interrupting.armed = True
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.gather(*tasks[1:]))
        loop.run_until_complete(asyncio.gather(*tasks[1:]))
        assert outcomes == ["b", "c"]
        tasks[0].cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    finally:
        loop.close()


def test_an_error_of_a_tasks_cancel_goes_to_the_exception_handler() -> None:
    class Failing(asyncio.Task):  # type: ignore[type-arg]
        def cancel(self, msg: Any = None) -> bool:
            if self.get_name() == "failing" and msg is None:
                raise ValueError("no")
            return super().cancel(msg)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        told: list[Any] = []
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        loop.set_task_factory(lambda loop, coro, **kw: Failing(coro, loop=loop, **kw))

        async def worker() -> None:
            async with timeout(0.001):
                await asyncio.sleep(60)

        failing = loop.create_task(worker(), name="failing")
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await loop.create_task(worker())
        assert [str(error) for error in told] == ["no"]
        failing.cancel("now")
        await asyncio.wait([failing])
        loop.set_task_factory(None)

    run(main)


def test_the_clock_is_the_loops(cell: Cell) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        cm = timeout(100)
        when = cm.when()
        assert when is not None and before + 100 <= when <= loop.time() + 100
        deadline = loop.time() + 50
        async with timeout_at(deadline) as cm:
            assert cm.when() == deadline
            assert cm.remaining is not None and 49 < cm.remaining <= 50

    run(main, cell)


def test_a_loop_with_a_clock_of_its_own_is_asked() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert timeout(5).when() == loop.time() + 5

    loop = asyncio.new_event_loop()
    loop.time = lambda: 1234.5  # type: ignore[method-assign]
    on(loop, main)


def test_a_closed_loop_is_told() -> None:
    loop = asyncio.new_event_loop()
    cm = loop.run_until_complete(_made())
    loop.close()
    with pytest.raises(RuntimeError):
        cm.__aenter__().__await__().__next__()


async def _made() -> Timeout:
    return timeout(1)


# -------------------------------------------------------------------- asyncio's contract


def test_cpythons_own_tests() -> None:
    """``test.test_asyncio.test_timeouts`` of this interpreter, with ours in the place of asyncio's."""
    suite = pytest.importorskip("test.test_asyncio.test_timeouts", reason="missing: the test package of CPython")
    made = 0
    using: set[str] = set()

    class Result(unittest.TestResult):
        def startTest(self, test: unittest.TestCase) -> None:
            self.before = made
            super().startTest(test)

        def stopTest(self, test: unittest.TestCase) -> None:
            if made > self.before:
                using.add(test.id())
            super().stopTest(test)

    def counted(make: Callable[[Any], Timeout]) -> Callable[[Any], Timeout]:
        def call(argument: Any) -> Timeout:
            nonlocal made
            made += 1
            return make(argument)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "timeout", counted(timeout))
        patch.setattr(asyncio, "timeout_at", counted(timeout_at))
        result = Result()
        unittest.defaultTestLoader.loadTestsFromModule(suite).run(result)
    assert result.wasSuccessful(), "\n".join(text for _, text in result.failures + result.errors)
    print(f"{result.testsRun} tests, {len(result.skipped)} skipped, ours in {len(using)}")
    assert result.testsRun - len(result.skipped) >= 25
    assert len(using) >= 0.9 * (result.testsRun - len(result.skipped))


def test_the_error_tells_what_expired(cell: Cell) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError, match=r"timeout\(0.001\) expired") as told:
            async with timeout(0.001):
                await asyncio.sleep(1)
        assert type(told.value) is TimeoutError
        assert isinstance(told.value.__cause__, asyncio.CancelledError)
        assert told.value.__context__ is told.value.__cause__
        with pytest.raises(TimeoutError, match=r"the deadline at .* on the event loop's clock passed"):
            async with timeout_at(1):
                await asyncio.sleep(1)

    run(main, cell)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio does so since CPython 3.13")
def test_an_error_during_the_cancel_has_the_timeout_in_its_context() -> None:
    async def main() -> None:
        with pytest.raises(ExceptionGroup) as told:
            async with timeout(0.001):
                try:
                    await asyncio.sleep(1)
                finally:
                    raise ExceptionGroup("group", [ValueError()])
        assert isinstance(told.value.__context__, TimeoutError)

    run(main)


def test_in_a_task_group(cell: Cell) -> None:
    async def main() -> None:
        async def child() -> None:
            async with timeout(0.001):
                await asyncio.sleep(60)

        with pytest.raises(ExceptionGroup) as told:
            async with timeout(60), asyncio.TaskGroup() as group:
                group.create_task(child())
                await asyncio.sleep(60)
        assert [type(error) for error in told.value.exceptions] == [TimeoutError]

        with pytest.raises(TimeoutError):
            async with timeout(0.001), asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(60))
        task = asyncio.current_task()
        assert task is not None and task.cancelling() == 0

    run(main, cell)


def test_in_and_around_anyio_scopes(cell: Cell) -> None:
    async def main() -> None:
        with anyio.move_on_after(0.001) as scope:
            async with timeout(60):
                await asyncio.sleep(30)
        assert scope.cancelled_caught
        with anyio.move_on_after(60) as scope:
            with pytest.raises(TimeoutError):
                async with timeout(0.001):
                    await asyncio.sleep(30)
        assert not scope.cancelled_caught
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with timeout(0):  # entered in a cancelled scope: the scope's cancel, not a timeout
                await asyncio.sleep(30)
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError):
            async with timeout(0.001):
                with anyio.CancelScope():
                    await anyio.sleep(30)
        assert deadlines()[0] == 0

    run(main, cell)


def test_states_and_misuse(cell: Cell) -> None:
    async def main() -> None:
        cm = timeout(10)
        assert repr(cm) == "<Timeout [created]>" and cm.stats().state == "created"
        with pytest.raises(RuntimeError, match="has not been entered"):
            cm.reschedule(1)
        with pytest.raises(RuntimeError, match="Cannot leave a Timeout that is created"):
            await cm.__aexit__(None, None, None)
        with pytest.raises(RuntimeError, match="use `async with"):
            await cm  # type: ignore[misc]
        async with cm as bound:
            assert bound is cm
            assert repr(cm).startswith("<Timeout [active] when=")
            stats = cm.stats()
            assert stats.state == "active" and stats.when == cm.when() and stats.remaining is not None
            with pytest.raises(dataclasses.FrozenInstanceError):
                stats.when = 1  # type: ignore[misc]
            with pytest.raises(RuntimeError, match="already been entered"):
                async with cm:
                    pass
        assert repr(cm) == "<Timeout [finished]>"
        with pytest.raises(RuntimeError, match="Cannot change state of finished Timeout"):
            cm.reschedule(None)
        with pytest.raises(RuntimeError, match="already been entered"):
            async with cm:
                pass

    run(main, cell)


@pytest.mark.parametrize("bad", [True, False, "5", b"5", [], datetime.timedelta(seconds=1), 1j])
def test_what_is_no_number_is_refused_at_once(bad: Any) -> None:
    async def main() -> None:
        for make in (timeout, timeout_at, CancelToken().sleep):
            with pytest.raises(TypeError, match=r"must be a number of seconds, got"):
                make(bad)
        async with timeout(1) as cm:
            with pytest.raises(TypeError, match="must be a number of seconds"):
                cm.reschedule(bad)
            assert cm.remaining is not None

    run(main)


def test_nan_is_refused_at_once() -> None:
    async def main() -> None:
        for make in (timeout, timeout_at, CancelToken().sleep):
            with pytest.raises(ValueError, match="got nan"):
                make(math.nan)
        with pytest.raises(ValueError, match="out of range"):
            timeout(10**400)
        with pytest.raises(TypeError, match="total_seconds"):
            timeout(datetime.timedelta(seconds=1))  # type: ignore[arg-type]

    run(main)


def test_outside_of_a_loop_and_of_a_task() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        timeout(1)
    cm = timeout_at(1)
    with pytest.raises(RuntimeError, match="no running event loop"):
        next(cm.__aenter__().__await__())

    async def main() -> None:
        loop = asyncio.get_running_loop()
        told = loop.create_future()

        def callback() -> None:
            try:
                next(timeout(1).__aenter__().__await__())
            except RuntimeError as error:
                told.set_result(str(error))

        loop.call_soon(callback)
        assert "inside a task" in await told

    run(main)


def test_with_the_exit_stack(cell: Cell) -> None:
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            cm = await stack.enter_async_context(timeout(10))
            assert deadlines()[0] == 1 and cm.remaining is not None
        assert deadlines()[0] == 0

    run(main, cell)


# -------------------------------------------------------------------- memory


def rss() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.default_only
def test_a_million_timeouts_leave_no_growth() -> None:
    async def main() -> None:
        async def some(n: int) -> None:
            for _ in range(n):
                async with timeout(60):
                    pass

        await some(100_000)
        gc.collect()
        before = rss()
        await some(1_000_000)
        gc.collect()
        assert rss() - before < 2 << 20
        assert deadlines()[0] == 0

    run(main)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.default_only
def test_a_crowd_gives_its_memory_back() -> None:
    async def main() -> None:
        async def crowd(n: int) -> None:
            async def one() -> None:
                async with timeout(60):
                    await gate

            gate = asyncio.get_running_loop().create_future()
            tasks = [asyncio.create_task(one()) for _ in range(n)]
            await asyncio.sleep(0)
            assert deadlines()[0] == n
            gate.set_result(None)
            await asyncio.gather(*tasks)

        for _ in range(2):  # CPython's own arenas settle with the second
            await crowd(30_000)
        gc.collect()
        before = rss()
        for _ in range(3):
            await crowd(30_000)
        gc.collect()
        assert rss() - before < 8 << 20
        assert deadlines() == (0, None)

    run(main)


def test_an_abandoned_task_is_collected_with_its_timeout() -> None:
    async def main() -> weakref.ref[Any]:
        async def stuck() -> None:
            async with timeout(60):
                await asyncio.get_running_loop().create_future()

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        task = loop.create_task(stuck())
        await asyncio.sleep(0)
        return weakref.ref(task)

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(main())
    loop.close()
    assert task() is not None
    del loop
    _loopwright._forget_cached_hub()  # of the last loop that ran in this thread
    gc.collect()
    assert task() is None


def test_references() -> None:
    async def main() -> None:
        cm = timeout(10)
        alive = weakref.ref(cm)
        async with cm:
            pass
        del cm
        assert alive() is None

    run(main, PLAIN)
