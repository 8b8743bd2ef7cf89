"""SimLoop keeps asyncio's contract, and its own: time, order, lanes, injections, our objects one wake at a time."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib
import signal
import sys
import threading
import time
import unittest
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest

import loopwright
from loopwright.testing import Deadlock, Livelock, SimLoop, SimTask, explore, replay, run

# asyncio's contract


def test_a_program_runs_as_on_asyncios_loop_when_there_is_no_seed() -> None:
    async def program() -> list[object]:
        log: list[object] = []

        async def worker(name: str, turns: int) -> str:
            for turn in range(turns):
                log.append((name, turn))
                await asyncio.sleep(0)
            return name

        loop = asyncio.get_running_loop()
        loop.call_soon(log.append, "soon")
        loop.call_later(0.001, log.append, "later")
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(worker(name, turns)) for name, turns in (("a", 3), ("b", 1), ("c", 2))]
        log.append([task.result() for task in tasks])
        await asyncio.sleep(0.002)
        return log

    assert run(program) == asyncio.run(program())


def test_stop_ends_with_the_turn() -> None:
    """As on asyncio's loop: what is ready runs, what that schedules does not."""

    def log_of(loop: asyncio.AbstractEventLoop) -> list[str]:
        log: list[str] = []

        def first() -> None:
            log.append("first")
            loop.stop()
            loop.call_soon(log.append, "next turn")

        loop.call_soon(first)
        loop.call_soon(log.append, "same turn")
        loop.run_forever()
        log.append("stopped")
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        return log

    wanted = ["first", "same turn", "stopped", "next turn"]
    assert log_of(SimLoop()) == log_of(asyncio.SelectorEventLoop()) == wanted
    assert log_of(SimLoop(seed=3)) == wanted


def test_stop_before_the_start_runs_one_turn() -> None:
    loop = SimLoop()
    log: list[int] = []
    loop.call_soon(log.append, 1)
    loop.stop()
    loop.run_forever()
    assert log == [1]
    loop.close()


def test_what_is_closed_refuses() -> None:
    loop = SimLoop()
    loop.close()
    for call in (
        lambda: loop.call_soon(print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.call_later(1, print),
        lambda: loop.call_at(1, print),
        loop.run_forever,
    ):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            call()
    loop.close()


def test_call_soon_from_another_thread_is_refused_with_the_way_out() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        errors: list[BaseException] = []

        def intrude() -> None:
            try:
                loop.call_soon(print)
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()
        return str(errors[0])

    assert "use loop.call_soon_threadsafe() there" in run(main)


def test_handles_cancel_and_tell() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        log: list[str] = []
        soon = loop.call_soon(log.append, "soon")
        later = loop.call_later(5, log.append, "later")
        assert (soon.cancelled(), later.cancelled(), later.when()) == (False, False, 5.0)
        assert "append" in repr(soon) and repr(later).startswith("<TimerHandle when=5 ")
        soon.cancel()
        later.cancel()
        later.cancel()
        assert (soon.cancelled(), later.cancelled()) == (True, True)
        await asyncio.sleep(10)
        assert log == []

    run(main)


def test_a_callback_that_raises_goes_to_the_exception_handler() -> None:
    async def main() -> list[dict[str, Any]]:
        loop = asyncio.get_running_loop()
        seen: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: seen.append(context))
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)
        return seen

    (context,) = run(main)
    assert isinstance(context["exception"], ZeroDivisionError)
    assert "Exception in callback" in context["message"]


def test_callbacks_run_in_their_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        seen: list[str] = []
        variable.set("copied")
        loop.call_soon(lambda: seen.append(variable.get()))
        loop.call_later(1, lambda: seen.append(variable.get()))
        variable.set("changed since")
        own = contextvars.Context()
        loop.call_soon(lambda: seen.append(variable.get()), context=own)
        await asyncio.sleep(2)
        return seen

    assert run(main) == ["copied", "unset", "copied"]


def test_keyboard_interrupt_comes_out_at_once() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
        await asyncio.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        run(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with CPython 3.12")
def test_eager_tasks_work() -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        log: list[str] = []

        async def child(name: str) -> None:
            log.append(f"{name} begins")
            await asyncio.sleep(1)
            log.append(f"{name} ends")

        tasks = [asyncio.create_task(child(name)) for name in "ab"]
        log.append("created")
        await asyncio.gather(*tasks)
        return log

    assert run(main)[:3] == ["a begins", "b begins", "created"]


def cpython_cases() -> list[Any]:
    """CPython's own tests of event loops, which are written for any loop."""
    try:
        events = importlib.import_module("test.test_asyncio.test_events")
        sockets = importlib.import_module("test.test_asyncio.test_sock_lowlevel")
        servers = importlib.import_module("test.test_asyncio.test_server")
    except ImportError:
        return [pytest.param(None, id="none", marks=pytest.mark.skip("this CPython comes without its tests"))]

    class Simulated:
        def create_event_loop(self) -> SimLoop:
            return SimLoop()

        new_loop = create_event_loop

    kinds = getattr(events, "UnixEventLoopTestsMixin", events.EventLoopTestsMixin)  # before 3.14: child watchers, too

    class Events(Simulated, kinds, events.test_utils.TestCase):  # type: ignore[misc,name-defined,valid-type]
        pass

    class Sockets(Simulated, sockets.BaseSockTestsMixin, events.test_utils.TestCase):  # type: ignore[misc,name-defined]
        def setUp(self) -> None:
            self.loop = self.create_event_loop()
            self.set_event_loop(self.loop)
            super().setUp()

    class Servers(Simulated, servers.BaseStartServer, unittest.TestCase):  # type: ignore[misc,name-defined]
        pass

    left_out = {
        "test_internal_fds": "counts a private attribute: the pipe is made when it is needed",
        "test_create_ssl_connection": "a race with the server's thread, lost now and then on asyncio's loop too",
        "test_create_ssl_unix_connection": "the same",
        "test_timeout_rounding": "counts the turns of asyncio's own _run_once",
    }
    return [
        pytest.param(case, id=case.id().split(".")[-1])
        for kind in (Events, Sockets, Servers)
        for case in unittest.defaultTestLoader.loadTestsFromTestCase(kind)
        if case.id().split(".")[-1] not in left_out  # type: ignore[union-attr]
    ]


@pytest.mark.default_only
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", cpython_cases())
def test_cpythons_own_tests_of_loops(case: unittest.TestCase) -> None:
    result = case.run()
    assert result is not None
    assert [text for _, text in [*result.errors, *result.failures]] == []


# Time


def test_time_is_virtual_and_exact() -> None:
    async def main() -> tuple[float, float]:
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(asyncio.sleep(seconds) for seconds in (1, 3600, 0.5)))
        return began, asyncio.get_running_loop().time()

    real = time.monotonic()
    assert run(main) == (0.0, 3600.0)
    assert time.monotonic() - real < 60


def test_real_time_on_request() -> None:
    async def main() -> None:
        await asyncio.sleep(0.05)

    real = time.monotonic()
    run(main, virtual_time=False)
    assert time.monotonic() - real >= 0.05


def test_a_timer_that_was_cancelled_never_moves_the_clock() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(100), loopwright.timeout(50), loopwright.timeout(70):
            await asyncio.sleep(1)
        loop.call_later(30, print).cancel()
        await asyncio.sleep(1)
        with pytest.raises(TimeoutError):
            async with loopwright.timeout(10):
                await asyncio.sleep(99)
        return loop.time()

    assert run(main) == 12.0


def test_an_infinite_timer_is_no_timer() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(float("inf"), print)
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        run(main)


@pytest.mark.parametrize("when", [float("nan"), None, "soon"])
def test_a_time_that_is_none_is_refused(when: Any) -> None:
    loop = SimLoop()
    with pytest.raises((TypeError, ValueError)):
        loop.call_later(when, print)
    loop.close()


def test_a_timeout_of_the_run_is_in_the_loops_time() -> None:
    async def main() -> None:
        while True:  # noqa: ASYNC110 (the point)
            await asyncio.sleep(10)

    with pytest.raises(TimeoutError, match="not over after 100 s"):
        run(main, timeout=100)


# Nothing moves any more


@pytest.mark.parametrize("seed", [None, 1])
def test_a_deadlock_is_found_at_once_and_the_loop_can_be_closed(seed: int | None) -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock), asyncio.Runner(loop_factory=lambda: SimLoop(seed=seed)) as runner:
        runner.run(main())


def test_a_livelock_is_found() -> None:
    async def main() -> None:
        while True:  # noqa: ASYNC110 (the point)
            await asyncio.sleep(0)

    with pytest.raises(Livelock, match="1,000 steps were run and no time passed"):
        run(main, max_steps=1_000)


def test_many_steps_are_no_livelock_while_time_passes() -> None:
    async def main() -> None:
        for _ in range(300):
            for _ in range(5):
                await asyncio.sleep(0)
            await asyncio.sleep(1)

    run(main, max_steps=100)


# Order


def test_every_task_has_a_lane_named_by_creation() -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)

        async def child() -> asyncio.Task[None]:
            return asyncio.create_task(asyncio.sleep(0))

        first, second = asyncio.create_task(child()), asyncio.create_task(child())
        grandchild = await second
        tasks = [asyncio.current_task(), first, second, grandchild]
        assert [hash(task) for task in tasks] == sorted(hash(task) for task in tasks)
        return [loop.lane(task) for task in tasks]

    assert run(main) == ["0", "0.0", "0.1", "0.1.0"]


def test_tasks_are_held_weakly_and_told_in_order() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        tasks = [asyncio.create_task(asyncio.sleep(1), name=str(number)) for number in range(3)]
        assert [type(task) for task in tasks] == [SimTask] * 3
        assert [task.get_name() for task in loop.tasks()] == ["Task-1", "0", "1", "2"]
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)  # gather's future, which has the tasks, has woken us and goes with that step
        assert len(loop.tasks()) == 1
        gone = weakref.ref(tasks[0])
        del tasks
        gc.collect()
        assert gone() is None

    run(main)


def test_a_seed_is_a_schedule_and_many_seeds_are_many() -> None:
    def course(seed: int) -> tuple[str, ...]:
        log: list[str] = []

        async def worker(name: str) -> None:
            for _ in range(3):
                log.append(name)
                await asyncio.sleep(0)

        async def main() -> None:
            await asyncio.gather(*map(worker, "abc"))

        run(main, seed=seed)
        return tuple(log)

    assert [course(seed) for seed in range(20)] == [course(seed) for seed in range(20)]
    assert len({course(seed) for seed in range(100)}) > 50


def test_our_objects_step_one_wake_at_a_time() -> None:
    """On other loops the hub runs all that one turn has woken in one callback: no schedule could come between."""

    async def main() -> None:
        event, woken = loopwright.Event(), []

        async def waiter(name: str) -> None:
            await event.wait()
            woken.append(name)

        tasks = [asyncio.create_task(waiter(name)) for name in "abc"]
        await asyncio.sleep(1)
        event.set()
        await asyncio.gather(*tasks)
        orders.add("".join(woken))

    orders: set[str] = set()
    explore(main, seeds=200)
    assert orders == {"abc", "acb", "bac", "bca", "cab", "cba"}


def test_our_deadlines_are_the_loops() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        token = loopwright.CancelToken()
        assert not await token.sleep(7)
        with pytest.raises(TimeoutError):
            async with loopwright.timeout(3):
                await token.wait()
        return loop.time()

    assert run(main) == 10.0
    assert run(main, seed=4) == 10.0


# Steps


def test_on_step_tells_every_step_of_every_task() -> None:
    steps: list[tuple[str, int]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        loop.on_step = lambda task, nth: steps.append((task.get_name(), nth)) if task is not None else None
        task = asyncio.create_task(asyncio.sleep(0), name="child")
        await task
        loop.on_step = None

    run(main)
    assert steps == [("Task-1", 1), ("child", 1), ("child", 2)]


@pytest.mark.parametrize("before", [False, True])
def test_an_injection_runs_at_its_step_outside_of_any_task(before: bool) -> None:
    async def main() -> list[object]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        log: list[object] = []

        async def child() -> None:
            for turn in range(3):
                log.append(turn)
                await asyncio.sleep(0)

        loop.inject("0.0", 2, lambda task: log.append((task.get_name(), asyncio.current_task())), before=before)
        await asyncio.create_task(child(), name="child")
        return log

    assert run(main) == ([0, ("child", None), 1, 2] if before else [0, 1, ("child", None), 2])


def test_the_lane_of_all_counts_the_steps_of_the_loop() -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        seen: list[int] = []
        for nth in (2, 4):
            loop.inject("", nth, lambda _task: seen.append(loop.steps))
        for _ in range(6):
            await asyncio.sleep(0)
        return seen

    assert run(main) == [2, 4]


# Searching


def lost_update() -> Coroutine[Any, Any, None]:
    """Fails on every schedule but the one in which a worker ends before the other begins."""

    async def test() -> None:
        box = [0]

        async def worker() -> None:
            value = box[0]
            await asyncio.sleep(0)
            box[0] = value + 1

        await asyncio.gather(worker(), worker())
        assert box == [2], f"{box[0]} of 2"

    return test()


def test_a_failure_says_what_and_how_to_repeat_it() -> None:
    with pytest.raises(AssertionError, match="1 of 2") as caught:
        explore(lost_update)
    failure = caught.value.__loopwright__  # type: ignore[attr-defined]
    assert failure.error is caught.value
    note = "\n".join(caught.value.__notes__)
    assert failure.replay in note and "await asyncio.sleep(0)" in note and "raises AssertionError: 1 of 2" in note
    assert failure.replay.startswith(f"lw1:{sys.version_info.major}.{sys.version_info.minor}:task:")
    with pytest.raises(AssertionError, match="1 of 2"):
        replay(lost_update, failure.replay)


def test_a_test_that_holds_is_reported_with_what_was_searched() -> None:
    async def test() -> None:
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(3)))

    found = explore(test, seeds=40)
    assert found.schedules == 40
    assert not found.covered
    assert len(found.digests) > 1


def test_what_is_left_running_is_cancelled_as_asyncio_run_does() -> None:
    log: list[str] = []

    async def left() -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    async def generator() -> Any:
        try:
            yield 1
        finally:
            log.append("closed")

    async def main() -> None:
        tasks.append(asyncio.create_task(left()))
        async for _ in opened:
            await asyncio.sleep(0)
            break

    tasks: list[asyncio.Task[None]] = []
    opened = generator()
    run(main)
    assert sorted(log) == ["cancelled", "closed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "luck"}, "no strategy 'luck'"),
        ({"level": "anarchy"}, "no level 'anarchy'"),
        ({"strategy": "chaos", "level": "task"}, "a level itself"),
        ({"seeds": 0}, "one schedule or more"),
    ],
)
def test_bad_input_is_refused_in_words(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explore(lost_update, **arguments)


def test_what_is_no_test_is_refused() -> None:
    with pytest.raises(TypeError, match="a test is an async def without arguments"):
        explore(lambda: 3)  # type: ignore[arg-type,return-value]


def replay_strings() -> dict[str, tuple[str, str]]:
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {
        "nonsense": ("hello", "is not a replay string"),
        "version": (f"lw9:{minor}:task:AAEC", "another version of Loopwright"),
        "minor": ("lw1:3.7:task:AAEC", "was recorded on CPython 3.7"),
        "level": (f"lw1:{minor}:anarchy:AAEC", "names no level"),
        "cut": (f"lw1:{minor}:task:AAE", "is damaged"),
        "changed": (f"lw1:{minor}:task:AAF_", "the test has changed"),
    }


@pytest.mark.parametrize("kind", replay_strings())
def test_a_replay_string_that_cannot_be_used_says_why(kind: str) -> None:
    from loopwright.testing import ReplayError  # noqa: PLC0415 (beside its use)

    string, message = replay_strings()[kind]

    async def holds() -> None:
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))

    with pytest.raises(ReplayError, match=message):
        replay(holds, string)


def test_a_run_leaves_nothing_behind() -> None:
    """Loop, tasks and callbacks are collected: a search of thousands of schedules must not grow."""
    seen: list[weakref.ref[Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen.append(weakref.ref(loop))
        async with loopwright.timeout(5):
            await asyncio.gather(*(asyncio.sleep(1) for _ in range(3)))

    run(main, seed=1)
    loopwright._loopwright._forget_cached_hub()
    gc.collect()
    assert seen[0]() is None
