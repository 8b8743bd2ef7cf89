"""The cancel sweep: it passes what is right, and finds what is broken."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from support.loops import Cell, run
from test_recipes import CancellableSleeps

from loopwright import Semaphore, TaskGroup
from loopwright.testing import (
    InjectedError,
    Play,
    Point,
    ReplayError,
    SimLoop,
    SweepFailure,
    SweepReport,
    cancel_sweep,
    random_cancels,
    replay,
)
from loopwright.testing._points import Spot, format_point, parse_point

STEPS: dict[str, Any] = {"at": "step", "waves": ("cancel", "again")}


def failures(scenario: Any, **settings: Any) -> tuple[Point, ...]:
    """What a sweep finds in a scenario that has to fail."""
    with pytest.raises(SweepFailure) as found:
        cancel_sweep(scenario, **settings)
    assert found.value.report is not None, str(found.value)
    return found.value.report.failures


# ------------------------------------------------------------------------------------------- what is right


async def semaphore_keeps_its_permits(play: Play) -> None:
    semaphore = asyncio.Semaphore(2)

    async def user() -> None:
        async with semaphore:
            await play.pause()

    for name in "abcde":
        play.spawn(user(), name=name)
    await play.finished()
    assert semaphore._value == 2, f"{semaphore._value} of 2 permits are left"
    assert not semaphore.locked()


def queue_scenario(make_queue: type) -> Any:
    async def queue_keeps_its_items(play: Play) -> None:
        queue = make_queue(2)
        put: list[int] = []
        got: list[int] = []

        async def producer(first: int) -> None:
            for item in range(first, first + 3):
                await play.pause()
                await queue.put(item)
                put.append(item)

        async def consumer() -> None:
            while True:
                got.append(await queue.get())
                await play.pause()

        producers = [play.spawn(producer(first), name=f"producer-{first}") for first in (0, 10)]
        consumers = [play.spawn(consumer(), name=f"consumer-{n}") for n in (1, 2)]
        while not all(task.done() for task in producers):
            await asyncio.sleep(0)
            while all(task.done() for task in consumers) and not queue.empty():
                got.append(queue.get_nowait())  # the consumers were cancelled: take their part
        for task in consumers:
            task.cancel()
        await play.finished()
        while not queue.empty():
            got.append(queue.get_nowait())
        assert sorted(got) == sorted(put), f"put {put}, got {got}"

    return queue_keeps_its_items


def test_asyncios_semaphore_passes() -> None:
    report = cancel_sweep(semaphore_keeps_its_permits, victims="c", **STEPS)
    assert report.count("cancel") >= 5
    assert report.count("again") > report.count("cancel")
    assert cancel_sweep(semaphore_keeps_its_permits).count("timeout") >= 5
    assert random_cancels(semaphore_keeps_its_permits, 500, seed=1) >= 500
    assert random_cancels(semaphore_keeps_its_permits, 500, seed=1, level="task") >= 500


def test_asyncios_queue_passes() -> None:
    scenario = queue_scenario(asyncio.Queue)
    cancel_sweep(scenario, victims=("consumer-1", "producer-0"), **STEPS)
    cancel_sweep(scenario)
    random_cancels(scenario, 500, seed=1)


@pytest.mark.parametrize("make_group", [asyncio.TaskGroup, TaskGroup])
def test_groups_and_timeouts_pass_at_every_await(make_group: Any) -> None:
    async def scenario() -> None:
        lock = asyncio.Lock()

        async def worker() -> None:
            async with asyncio.timeout(5), lock:
                try:
                    await asyncio.sleep(1)
                finally:
                    await asyncio.sleep(0)

        async def parent() -> None:
            async with make_group() as group:
                group.create_task(worker())
                group.create_task(worker())
                await asyncio.sleep(0.5)

        await asyncio.wait([asyncio.create_task(parent())])
        assert not lock.locked()

    report = cancel_sweep(scenario)
    assert {point.wave for point in report.points} == {"cancel", "again", "timeout", "error", "early"}
    assert {point.victim for point in report.points} == {"parent (0.0)", "worker (0.0.0)", "worker (0.0.1)"}
    assert not any(point.verdict == "missed" for point in report.points)


def test_a_group_that_fails_while_it_is_cancelled_is_no_finding() -> None:
    async def scenario() -> None:
        async def fails() -> None:
            await asyncio.sleep(1)
            raise ValueError

        async def parent() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                group.create_task(asyncio.sleep(2))

        await asyncio.gather(asyncio.create_task(parent()), return_exceptions=True)

    cancel_sweep(scenario)


def test_a_timeout_of_the_program_is_no_finding() -> None:
    async def scenario() -> None:
        async def impatient() -> None:
            for _ in range(2):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await asyncio.sleep(3600)

        await asyncio.wait([asyncio.create_task(impatient())])

    cancel_sweep(scenario, waves=("cancel", "again", "early"))


def test_a_cancel_that_comes_out_of_the_scenario_is_no_finding() -> None:
    async def scenario() -> None:
        async def nap() -> None:
            await asyncio.sleep(1)

        await asyncio.gather(nap(), nap())

    report = cancel_sweep(scenario)
    assert "last asserts were not reached" in report.points[0].detail


def test_what_runs_on_without_any_cancel_is_no_leak_of_a_cancel() -> None:
    async def scenario() -> None:
        async def service() -> None:
            while True:  # noqa: ASYNC110 (as services do)
                await asyncio.sleep(1)

        async def job() -> None:
            await asyncio.sleep(3)

        scenario.service = asyncio.create_task(service())  # type: ignore[attr-defined]
        await asyncio.wait([asyncio.create_task(job())])

    cancel_sweep(scenario, victims="job")


# ------------------------------------------------------------------------------------------- what is broken


class LossyQueue(asyncio.Queue):  # type: ignore[type-arg]
    """Hands an item to a waiting getter before the getter runs, as some libraries do: a cancel loses it."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self.waiting: deque[asyncio.Future[int]] = deque()

    def _put(self, item: int) -> None:
        while self.waiting:
            waiter = self.waiting.popleft()
            if not waiter.done():
                waiter.set_result(item)
                return
        super()._put(item)

    async def get(self) -> int:
        if not self.empty():
            return self.get_nowait()
        waiter = asyncio.get_running_loop().create_future()
        self.waiting.append(waiter)
        return await waiter


async def one_item(play: Play) -> None:
    queue, got = LossyQueue(), []

    async def consumer() -> None:
        got.append(await queue.get())

    async def producer() -> None:
        await asyncio.sleep(0)
        await queue.put(1)

    play.spawn(consumer(), name="consumer-1")
    play.spawn(producer(), name="producer")
    await play.finished()
    assert len(got) + queue.qsize() == 1 or play.tasks["producer"].cancelled(), "lost"


class ForgetfulSemaphore(asyncio.Semaphore):
    """Forgets to pass on the wake-up of a waiter that is cancelled after it was woken."""

    async def acquire(self) -> bool:  # type: ignore[override]
        while self._value <= 0:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters = self._waiters or deque()
            self._waiters.append(waiter)
            await waiter
        self._value -= 1
        return True

    def release(self) -> None:
        self._value += 1
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


def users_of(make: Callable[[], Any]) -> Any:
    async def users() -> None:
        semaphore = make()

        async def user() -> None:
            async with semaphore:
                await asyncio.sleep(0)

        await asyncio.wait([asyncio.create_task(user(), name=name) for name in "abc"])

    return users


def test_a_lost_item_is_found_at_the_moment_of_the_grant() -> None:
    found = failures(one_item, victims="consumer-1", waves="cancel")
    assert [(point.verdict, point.moment, point.wave) for point in found] == [("invariant", "woken", "cancel")]
    assert "lost" in found[0].detail
    assert found[0].source == "return await waiter"
    assert failures(one_item, victims="consumer-1", **STEPS)
    with pytest.raises(SweepFailure, match=r"seed=3, only=\d+"):
        random_cancels(queue_scenario(LossyQueue), 2000, seed=3)


def test_a_lost_wake_up_is_a_hang_that_names_who_waits() -> None:
    found = failures(users_of(lambda: ForgetfulSemaphore(1)), victims="b")
    assert {point.verdict for point in found} == {"hang"}
    assert "c" in found[0].detail
    assert "woken" in {point.moment for point in found}
    assert [function for function, _, _ in found[0].chain][-1].endswith("ForgetfulSemaphore.acquire")


def test_the_same_semaphore_done_right_passes() -> None:
    for make in (lambda: asyncio.Semaphore(1), lambda: Semaphore(1)):
        cancel_sweep(users_of(make))


def test_a_swallowed_cancel_is_found_with_its_line() -> None:
    async def scenario() -> None:
        async def deaf() -> None:
            for _ in range(3):
                try:  # noqa: SIM105 (its line is asked for)
                    await asyncio.sleep(0)
                except asyncio.CancelledError:  # the guilty line
                    pass

        await asyncio.wait([asyncio.create_task(deaf())])

    found = failures(scenario, waves=("cancel", "timeout"))
    assert {(point.verdict, point.wave) for point in found} == {("swallowed", "cancel"), ("swallowed", "timeout")}
    assert len(found) == 12
    if sys.version_info >= (3, 12):
        assert all("# the guilty line" in point.detail for point in found)


def test_a_second_cancel_inside_the_clean_up_is_found() -> None:
    state: list[str] = []

    async def scenario() -> None:
        state[:] = []

        async def holder() -> None:
            state.append("open")
            try:
                await asyncio.sleep(1)
            finally:
                await asyncio.sleep(0.1)  # say goodbye: a second cancel arrives here
                state.remove("open")

        await asyncio.wait([asyncio.create_task(holder())])

    def all_closed() -> bool:
        return not state

    found = failures(scenario, invariant=all_closed)
    assert {point.wave for point in found} >= {"again"}
    assert {point.verdict for point in found} == {"invariant"}
    sleeps = [point for point in found if point.wave == "cancel"]
    assert {point.source for point in sleeps} == {
        "await asyncio.sleep(0.1)  # say goodbye: a second cancel arrives here"
    }


def test_a_permit_that_leaks_is_found_by_the_invariant() -> None:
    made: list[asyncio.Semaphore] = []

    async def scenario() -> None:
        semaphore = asyncio.Semaphore(2)
        made[:] = [semaphore]

        async def user() -> None:
            await semaphore.acquire()
            await asyncio.sleep(0)
            semaphore.release()

        await asyncio.wait([asyncio.create_task(user()) for _ in range(2)])

    def nobody_holds_a_permit() -> None:
        assert made[0]._value == 2, f"{made[0]._value} of 2 permits"

    found = failures(scenario, invariant=nobody_holds_a_permit)
    assert {point.verdict for point in found} == {"invariant"}
    assert {point.wave for point in found} == {"cancel", "timeout", "error"}
    assert "1 of 2 permits" in found[0].detail


def test_a_failing_call_is_thrown_only_where_calls_can_fail() -> None:
    seen: list[str] = []

    async def scenario() -> None:
        lock = asyncio.Lock()

        async def user() -> None:
            try:
                async with lock:
                    await asyncio.sleep(1)
            except InjectedError:
                seen.append("at the sleep" if not lock.locked() else "at the lock")
                raise

        await asyncio.wait([asyncio.create_task(user()) for _ in range(2)])

    report = cancel_sweep(scenario, waves="error")
    assert seen == ["at the sleep"] * report.count("error") == ["at the sleep"] * 2


def test_a_failing_call_may_be_told_in_the_words_of_the_library() -> None:
    class PoolError(Exception):
        pass

    async def scenario() -> None:
        async def user() -> None:
            try:
                await asyncio.sleep(1)
            except OSError as error:
                raise PoolError("no connection") from error

        await asyncio.gather(asyncio.create_task(user()), return_exceptions=True)

    assert cancel_sweep(scenario, waves="error").count("error") == 1


def test_a_task_left_behind_is_found() -> None:
    async def scenario() -> None:
        async def child() -> None:
            await asyncio.sleep(1)

        async def parent() -> None:
            task = asyncio.create_task(child())
            await asyncio.sleep(0)
            await task

        await asyncio.wait([asyncio.create_task(parent())])

    found = failures(scenario, victims="parent")
    assert {point.verdict for point in found} == {"leaked"}
    assert "child" in found[0].detail
    assert {point.wave for point in found} >= {"cancel", "error"}


def test_the_scenario_itself_can_be_the_victim() -> None:
    async def careless() -> None:
        task = asyncio.create_task(asyncio.sleep(1), name="nap")
        await asyncio.sleep(0.5)
        await task

    async def careful() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(1))
            await asyncio.sleep(0.5)

    assert {(point.verdict, point.victim) for point in failures(careless, victims="main")} == {("leaked", "main")}
    cancel_sweep(careful, victims="main")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the system does not tell which files are open")
def test_an_open_file_left_behind_is_found() -> None:
    kept: list[socket.socket] = []

    async def scenario() -> None:
        async def connection() -> None:
            one = socket.socket()
            kept.append(one)
            await asyncio.sleep(0)
            one.close()

        await asyncio.wait([asyncio.create_task(connection())])

    try:
        found = failures(scenario)
    finally:
        for one in kept:
            one.close()
    assert {point.verdict for point in found} == {"leaked"}
    assert "socket" in found[0].detail
    assert {point.wave for point in found} == {"cancel", "timeout", "error"}


def test_an_error_that_nobody_asks_for_is_found() -> None:
    async def scenario() -> None:
        async def logs_off() -> None:
            raise OSError("no connection")

        async def session() -> None:
            try:
                await asyncio.sleep(0)
            except BaseException:
                scenario.task = asyncio.create_task(logs_off())  # type: ignore[attr-defined]
                raise

        await asyncio.wait([asyncio.create_task(session())])
        await asyncio.sleep(0)

    found = failures(scenario, waves="cancel")
    assert {point.verdict for point in found} == {"unreported"}
    assert "no connection" in found[0].detail


def test_an_error_instead_of_the_cancel_is_found() -> None:
    async def scenario() -> None:
        async def worker() -> None:
            done = False
            try:
                await asyncio.sleep(0)
                done = True
            finally:
                if not done:
                    raise KeyError("state")

        await asyncio.wait([asyncio.create_task(worker())])

    found = failures(scenario, waves="cancel")
    assert {point.verdict for point in found} == {"error"}
    assert "KeyError" in found[0].detail
    cancel_sweep(scenario, waves="cancel", allow=(KeyError,))


def test_who_may_catch_is_said() -> None:
    async def scenario() -> None:
        async def patient() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1)

        await asyncio.wait([asyncio.create_task(patient())])

    assert failures(scenario, waves="cancel")
    cancel_sweep(scenario, waves="cancel", catches="patient")
    cancel_sweep(scenario, waves="cancel", catches=None)


# ------------------------------------------------------------------------------------------- the guides


def test_the_guides_sleeps_swallow_the_cancel() -> None:
    async def scenario() -> None:
        sleeps = CancellableSleeps()

        async def worker() -> None:
            for _ in range(3):
                await sleeps.sleep(1)

        await asyncio.wait([asyncio.create_task(worker())])

    found = failures(scenario, victims="worker", waves="cancel")
    assert {point.verdict for point in found} == {"swallowed"}
    if sys.version_info >= (3, 12):
        assert "except asyncio.CancelledError" in found[0].detail


class LockFreeConnectionPool:
    """The guides' pool (A 8), shortened to what it awaits."""

    def __init__(self, connect: Callable[[str], Any]) -> None:
        self._connect = connect
        self._connections: dict[str, object] = {}
        self._pending: dict[str, asyncio.Future[object]] = {}

    async def get_connection(self, host: str) -> object:
        if host in self._connections:
            return self._connections[host]
        if host in self._pending:
            return await self._pending[host]
        future: asyncio.Future[object] = asyncio.Future()
        self._pending[host] = future
        try:
            conn = await self._connect(host)
            self._connections[host] = conn
            future.set_result(conn)
            return conn
        except Exception as e:
            future.set_exception(e)
            raise
        finally:
            del self._pending[host]


def test_the_guides_pool_hangs_its_waiters_when_the_creator_is_cancelled() -> None:
    async def scenario() -> None:
        async def connect(host: str) -> object:
            await asyncio.sleep(1)
            return object()

        pool = LockFreeConnectionPool(connect)
        tasks = [asyncio.create_task(pool.get_connection("a"), name=name) for name in ("creator", "first", "second")]
        await asyncio.wait(tasks)

    found = failures(scenario, waves=("cancel", "early"))
    hangs = [point for point in found if point.verdict == "hang"]
    assert {point.victim for point in hangs} == {"creator"}
    assert all("first" in point.detail and "second" in point.detail for point in hangs)
    assert all("InvalidStateError" in point.detail for point in found if point.victim == "first")


# ------------------------------------------------------------------------------------------- the machine


def test_k_points_cost_k_runs() -> None:
    runs = [0]

    async def scenario() -> None:
        runs[0] += 1

        async def worker() -> None:
            for _ in range(5):
                await asyncio.sleep(0)

        await asyncio.wait([asyncio.create_task(worker())])

    report = cancel_sweep(scenario, waves=("cancel", "early"))
    assert len(report.points) == 11
    assert report.runs == runs[0] == 12


def test_a_scenario_that_fails_by_itself_is_told_apart() -> None:
    async def scenario() -> None:
        await asyncio.sleep(0)
        raise LookupError("mine")

    async def hangs() -> None:
        await asyncio.Event().wait()

    with pytest.raises(SweepFailure, match=r"fails without any cancel.*LookupError") as failure:
        cancel_sweep(scenario, victims="main")
    assert failure.value.report is None
    with pytest.raises(SweepFailure, match=r"fails without any cancel: hang"):
        cancel_sweep(hangs, victims="main")


def test_one_point_can_be_repeated() -> None:
    scenario = users_of(lambda: ForgetfulSemaphore(1))
    first = failures(scenario, victims="b")
    for point in first:
        (again,) = failures(scenario, only=point.replay)
        assert again == point
    with pytest.raises(SweepFailure) as failure:
        replay(scenario, first[0].replay)
    assert failure.value.report is not None
    assert failure.value.report.failures == first[:1]
    (again,) = failures(one_item, only=failures(one_item, victims="consumer-1", **STEPS)[0].replay)
    assert again.moment == "step"


def test_points_are_text_and_back() -> None:
    for text, spot in {
        "0.1@3/waiting": Spot("0.1", 3, "waiting"),
        "0.1@3/woken+again:2": Spot("0.1", 3, "woken", "again", 2),
        "0.10.2@3/woken+timeout": Spot("0.10.2", 3, "woken", "timeout"),
        "0@1/woken+error": Spot("0", 1, "woken", "error"),
        "0.1@0/start": Spot("0.1", 0, "start", "early"),
        "0.1@17/step": Spot("0.1", 17, "step"),
        "0.1@2/waiting+anyio": Spot("0.1", 2, "waiting", "anyio"),
    }.items():
        assert parse_point(text) == parse_point(f"lw1:3.13:task:AAEC:{text}") == spot
        assert format_point(spot) == text
    for text in ("", "0.1@3", "0.1@x/waiting", "0.1@3/asleep", "0.1@3/waiting+again:0", "lw1:3.13:task:AAEC"):
        with pytest.raises(ReplayError, match="cancel point"):
            parse_point(text)


def test_misuse_is_told_at_once() -> None:
    async def scenario() -> None:
        await asyncio.wait([asyncio.create_task(asyncio.sleep(0), name="nap")])

    async def two(play: Play, more: int) -> None: ...

    with pytest.raises(ValueError, match="there is no wave 'tsunami': there are cancel, again"):
        cancel_sweep(scenario, waves=("cancel", "tsunami"))
    with pytest.raises(ValueError, match=r"has no task like .*'nobody'.* to cancel; it has nap"):
        cancel_sweep(scenario, victims="nobody")
    with pytest.raises(ValueError, match=r"at is .await. or .step., not 'line'"):
        cancel_sweep(scenario, at="line")  # type: ignore[arg-type]
    coroutine = scenario()
    with pytest.raises(TypeError, match="called anew for each run"):
        cancel_sweep(coroutine)  # type: ignore[arg-type]
    coroutine.close()
    with pytest.raises(TypeError, match=r"takes nothing, or a Play; .*two takes play, more"):
        cancel_sweep(two)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rate is a chance"):
        random_cancels(scenario, 1, rate=0)


def test_victims_are_chosen_by_name_function_lane_or_predicate() -> None:
    async def scenario() -> None:
        async def worker() -> None:
            await asyncio.sleep(0)

        await asyncio.wait([asyncio.create_task(worker(), name=name) for name in "ab"])

    def victims(chosen: Any) -> list[str]:
        return sorted({point.victim for point in cancel_sweep(scenario, victims=chosen, waves="cancel").points})

    assert victims(None) == victims("worker") == victims(("a", "b")) == ["a", "b"]
    assert victims("b") == victims("0.1") == victims(lambda task: task.get_name() == "b") == ["b"]
    assert victims(("main", "a")) == ["a", "main"]


def test_the_report_is_a_table_and_json() -> None:
    with pytest.raises(SweepFailure) as failure:
        cancel_sweep(users_of(lambda: ForgetfulSemaphore(1)))
    report = failure.value.report
    assert isinstance(report, SweepReport)
    text = str(report)
    assert str(failure.value) == text
    lines = text.splitlines()
    assert lines[0].startswith("cancel sweep of users_of.<locals>.users: ")
    assert lines[1].startswith("  HANG")
    assert "await waiter" in lines[1]
    assert any(line.startswith("  ok") and "await asyncio.sleep(0)" in line for line in lines)
    assert lines[-1].split(", ")[0].startswith("  hang ")
    assert "replay: lw1:" in text
    data = json.loads(json.dumps(report.to_json()))
    assert data["failures"] == len(report.failures)
    assert data["points"][0]["verdict"] == "hang"
    passed = cancel_sweep(users_of(lambda: asyncio.Semaphore(1)), show="failing")
    assert len(str(passed).splitlines()) == 2


def test_a_failing_random_run_can_be_repeated() -> None:
    with pytest.raises(SweepFailure) as first:
        random_cancels(queue_scenario(LossyQueue), 5000, seed=7)
    number = int(str(first.value).split("only=")[1].split(")")[0])
    with pytest.raises(SweepFailure) as again:
        random_cancels(queue_scenario(LossyQueue), 1, seed=7, only=number)
    assert str(again.value) == str(first.value)


def test_time_is_virtual() -> None:
    async def naps(play: Play) -> None:
        async def nap() -> None:
            await asyncio.sleep(3600)

        play.spawn(nap(), name="nap")
        await play.finished()

    assert cancel_sweep(naps, victims="nap").steps > 0


def test_the_schedule_can_be_another() -> None:
    for level in ("timing", "task"):
        for seed in range(5):
            cancel_sweep(semaphore_keeps_its_permits, seed=seed, level=level)


def test_an_anyio_scope_cancels_at_each_await() -> None:
    pytest.importorskip("anyio")
    left: list[str] = []

    async def scenario() -> None:
        left[:] = []

        async def polite() -> None:
            left.append("line")
            try:
                await asyncio.sleep(1)
            finally:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)  # a native cancel lets this pass, a scope does not
                    left.clear()

        await asyncio.wait([asyncio.create_task(polite())])

    found = failures(scenario, waves=("cancel", "anyio"), invariant=lambda: not left)
    assert {(point.wave, point.nth) for point in found} >= {("anyio", 1)}
    cancel_sweep(users_of(lambda: Semaphore(1)), waves="anyio")


def test_any_loop_will_do(cell: Cell) -> None:
    settings: dict[str, Any] = {"loop_factory": cell.new_loop, "setup": lambda loop: loop.set_debug(cell.debug)}
    settings["patience"] = 0.05
    cancel_sweep(semaphore_keeps_its_permits, victims="c", at="step", waves="cancel", **settings)
    cancel_sweep(users_of(lambda: Semaphore(1)), victims="b", **settings)
    random_cancels(semaphore_keeps_its_permits, 50, **settings)
    found = failures(users_of(lambda: ForgetfulSemaphore(1)), victims="b", waves="cancel", **settings)
    assert {point.verdict for point in found} == {"hang"}
    assert "c" in found[0].detail


def test_eager_tasks_and_debug_mode_on_virtual_time(cell: Cell) -> None:
    if cell.loop != "asyncio":
        pytest.skip("virtual time is SimLoop's")

    def setup(loop: asyncio.AbstractEventLoop) -> None:
        loop.set_debug(cell.debug)
        if cell.eager:
            loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]

    report = cancel_sweep(semaphore_keeps_its_permits, victims="c", setup=setup, at="step", waves="cancel")
    assert report.count("cancel") > 1
    assert cancel_sweep(users_of(lambda: Semaphore(1)), victims="b", setup=setup).count("cancel") >= 2
    random_cancels(semaphore_keeps_its_permits, 50, setup=setup)
    assert failures(users_of(lambda: ForgetfulSemaphore(1)), victims="b", setup=setup)


def test_real_sockets_are_swept_too() -> None:
    async def scenario() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                writer.write(await reader.readline())
                await writer.drain()
            finally:
                writer.close()

        async def client() -> None:
            reader, writer = await asyncio.open_connection(*address)
            try:
                writer.write(b"hello\n")
                await writer.drain()
                assert await reader.readline() == b"hello\n"
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        await asyncio.wait([asyncio.create_task(client(), name="client")])
        server.close()
        await asyncio.sleep(0.01)

    report = cancel_sweep(scenario, victims="client")
    assert report.count("cancel") >= 2
    assert report.count("error") >= 1


def test_nothing_of_a_sweep_is_left_in_the_process() -> None:
    async def main() -> None:
        assert len(asyncio.all_tasks()) == 1

    cancel_sweep(semaphore_keeps_its_permits)
    run(main)
    assert not isinstance(asyncio.new_event_loop(), SimLoop)
