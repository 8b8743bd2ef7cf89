"""TaskGroup: asyncio's newest contract on every version, the limit, spawn, cancel; promises 1, 2, 4, 8 and 13."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from support.cancels import EVERY_STEP, cancels, in_cell
from support.loops import Cell, run

import loopwright
from loopwright import GroupFull, LoopMismatch, TaskGroup, _loopwright
from loopwright.testing import Play, cancel_sweep, random_cancels


async def turns(n: int = 3) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def nothing() -> None:
    pass


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


# ------------------------------------------------------------------------------- the end of the block


def test_the_block_ends_when_every_task_has(cell: Cell) -> None:
    async def main() -> None:
        ended: list[int] = []

        async def work(n: int) -> None:
            await turns(n)
            ended.append(n)

        async with TaskGroup() as group:
            tasks = [group.create_task(work(n), name=f"work-{n}") for n in (5, 1, 3)]
            assert group.alive == 3
        assert sorted(ended) == [1, 3, 5]
        assert all(task.done() for task in tasks)
        assert group.alive == 0
        assert [task.get_name() for task in tasks] == ["work-5", "work-1", "work-3"]

    run(main, cell)


def test_a_failure_cancels_the_others_and_the_body(cell: Cell) -> None:
    async def main() -> None:
        cleaned: list[str] = []

        async def victim() -> None:
            try:
                await forever()
            finally:
                await turns()
                cleaned.append("victim")

        async def fails() -> None:
            await turns()
            raise ValueError("one")

        with pytest.raises(ExceptionGroup, match="unhandled errors in a TaskGroup") as caught:
            async with TaskGroup() as group:
                group.create_task(victim())
                group.create_task(fails())
                await forever()
        assert cleaned == ["victim"]
        assert [repr(error) for error in caught.value.exceptions] == ["ValueError('one')"]
        assert caught.value.__suppress_context__
        assert cancelling() == 0
        await turns()

    run(main, cell)


def test_a_failing_group_leaves_cancelling_right(cell: Cell) -> None:
    """CPython 3.11 and 3.12 leave the parent at 1 when a task fails while the block waits for its end."""

    async def main() -> None:
        async def fails() -> None:
            await turns()
            raise ValueError

        for body in (nothing, turns, forever):
            with pytest.raises(ExceptionGroup):
                async with TaskGroup() as group:
                    group.create_task(fails())
                    await body()
            assert cancelling() == 0, body
            async with asyncio.timeout(1):  # would take a cancel that is left over for its own
                await turns()

    run(main, cell)


def test_an_outer_cancel_that_meets_errors_comes_out_after_them(cell: Cell) -> None:
    async def main() -> None:
        seen: list[str] = []

        async def stubborn() -> None:
            try:
                await forever()
            except asyncio.CancelledError:
                raise ValueError from None

        async def parent() -> None:
            try:
                async with TaskGroup() as group:
                    group.create_task(stubborn())
                    await forever()
            except* ValueError:
                seen.append("errors")
            assert cancelling() == 1
            await turns(1)
            seen.append("not cancelled")

        task = asyncio.create_task(parent())
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["errors"]

    run(main, cell)


def test_many_cancels_of_the_parent_do_not_hurry_the_children(cell: Cell) -> None:
    async def main() -> None:
        ended: list[bool] = []

        async def slow() -> None:
            try:
                await forever()
            finally:
                for _ in range(10):
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(0)
                ended.append(True)

        async def parent() -> None:
            async with TaskGroup() as group:
                group.create_task(slow())

        task = asyncio.create_task(parent())
        await turns()
        for _ in range(5):
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [True]
        assert task.cancelled()

    run(main, cell)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_keyboard_interrupt_comes_out_as_it_is(error: type[BaseException]) -> None:
    async def main() -> None:
        with pytest.raises(error):
            async with TaskGroup() as group:
                task = group.create_task(forever())
                await turns()
                raise error
        assert task.cancelled()
        assert cancelling() == 0

    run(main)


def test_generator_exit_of_a_closed_generator_comes_out_as_it_is() -> None:
    async def main() -> None:
        async def numbers() -> AsyncIterator[int]:
            async with TaskGroup() as group:
                group.create_task(forever())
                yield 1

        generator = numbers()
        assert await anext(generator) == 1
        await generator.aclose()  # type: ignore[attr-defined]

    run(main)


def test_misuse_is_refused_and_the_coroutine_closed(cell: Cell) -> None:
    async def main() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            group = TaskGroup()
            for message in ("has not been entered", "is finished"):
                coroutine = nothing()
                with pytest.raises(RuntimeError, match=message):
                    group.create_task(coroutine)
                assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
                with pytest.raises(RuntimeError, match=message):
                    await group.spawn(nothing)
                if message == "has not been entered":
                    async with group:
                        pass
            with pytest.raises(RuntimeError, match="already been entered"):
                await group.__aenter__()
            async with TaskGroup() as group:
                group.cancel()
                coroutine = nothing()
                with pytest.raises(RuntimeError, match="shutting down"):
                    group.create_task(coroutine)
                assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED

    run(main, cell)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"limit": 0}, ValueError, r"TaskGroup\(limit=...\) must be 1 or more, got 0"),
        ({"limit": -3}, ValueError, "-3"),
        ({"limit": True}, TypeError, "True"),
        ({"limit": 1.5}, TypeError, "1.5"),
        ({"context": {}}, TypeError, "Context"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TaskGroup(**arguments)


# ------------------------------------------------------------------------------- promise 8: cancel()


def test_promise_8_cancel_ends_the_block_without_an_error(cell: Cell) -> None:
    async def main() -> None:
        async with TaskGroup() as group:
            tasks = [group.create_task(forever()) for _ in range(3)]
            await turns()
            group.cancel()
            group.cancel()
            await forever()
        assert all(task.cancelled() for task in tasks)
        assert cancelling() == 0
        await turns()  # no cancel comes out later
        group.cancel()  # after its end: nothing
        assert cancelling() == 0

    run(main, cell)


@pytest.mark.parametrize("children", [0, 2])
@pytest.mark.parametrize("waits", [False, True])
def test_promise_8_a_cancel_that_had_no_time_to_come_out_is_taken_back(cell: Cell, children: int, waits: bool) -> None:
    async def main() -> None:
        async with TaskGroup() as group:
            for _ in range(children):
                group.create_task(forever())
            if waits:
                await turns()
            group.cancel()
        assert cancelling() == 0
        await turns()
        async with asyncio.timeout(5):
            await turns()

    run(main, cell)


def test_promise_8_cancel_before_the_entry_takes_effect_there(cell: Cell) -> None:
    async def main() -> None:
        group = TaskGroup()
        group.cancel()
        reached = False
        async with group:
            with pytest.raises(RuntimeError, match="shutting down"):
                group.create_task(nothing())
            await turns(1)
            reached = True
        assert not reached
        assert cancelling() == 0
        await turns()

    run(main, cell)


def test_promise_8_cancel_by_a_child(cell: Cell) -> None:
    async def main() -> None:
        async with TaskGroup() as group:

            async def child() -> None:
                group.cancel()
                await forever()

            task = group.create_task(child())
            await forever()
        assert task.cancelled()
        assert cancelling() == 0

    run(main, cell)


@pytest.mark.parametrize("order", ["group first", "outer first"])
def test_promise_8_cancel_never_swallows_an_outer_cancel(cell: Cell, order: str) -> None:
    """python/cpython#155433: the cancel from outside arrives in the same turn as the group's own."""

    async def main() -> None:
        went_on = False
        for body_waits in (False, True):
            group = TaskGroup()

            async def parent(body_waits: bool = body_waits, group: TaskGroup = group) -> None:
                nonlocal went_on
                async with group:
                    group.create_task(forever())
                    if body_waits:
                        await forever()
                went_on = True

            task = asyncio.create_task(parent())
            await turns()
            for what in (group, task) if order == "group first" else (task, group):
                what.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()
        assert not went_on

    run(main, cell)


def test_promise_8_an_outer_cancel_during_the_clean_up_of_a_cancelled_group(cell: Cell) -> None:
    async def main() -> None:
        async def slow() -> None:
            try:
                await forever()
            finally:
                await turns(5)

        async def parent() -> None:
            async with TaskGroup() as group:
                group.create_task(slow())
                await turns()
                group.cancel()

        task = asyncio.create_task(parent())
        await turns(6)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main, cell)


# ------------------------------------------------------------------------------- the limit


def test_create_task_beyond_the_limit_raises_group_full(cell: Cell) -> None:
    async def main() -> None:
        async with TaskGroup(limit=2) as group:
            tasks = [group.create_task(turns(3)) for _ in range(2)]
            coroutine = nothing()
            with pytest.raises(GroupFull, match=r"2 tasks are alive, limit=2.*spawn") as caught:
                group.create_task(coroutine)
            assert isinstance(caught.value, RuntimeError)
            assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
            await asyncio.wait(tasks)
            await turns(1)
            group.create_task(nothing())

    run(main, cell)


def test_never_more_than_limit_tasks_alive(cell: Cell) -> None:
    async def main() -> None:
        running = most = 0

        async def work(n: int) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await turns(n % 4)
            running -= 1
            return n

        async with TaskGroup(limit=3) as group:
            tasks = [await group.spawn(work, n) for n in range(50)]
            assert group.alive <= 3
        assert most <= 3
        assert [task.result() for task in tasks] == list(range(50))

    run(main, cell)


def test_promise_2_spawners_are_served_in_order(cell: Cell) -> None:
    async def main() -> None:
        started: list[int] = []

        async def work(n: int) -> None:
            started.append(n)
            await turns(2)

        async with TaskGroup(limit=1) as group:
            blocker = await group.spawn(forever)

            async def spawner(n: int) -> None:
                await group.spawn(work, n)

            spawners = []
            for n in range(5):
                spawners.append(asyncio.create_task(spawner(n)))
                await turns()
            assert group.waiting == 5
            with pytest.raises(GroupFull):  # nobody barges
                group.create_task(nothing())
            blocker.cancel()
            await asyncio.gather(*spawners)
        assert started == [0, 1, 2, 3, 4]

    run(main, cell)


def test_promise_1_a_spawn_cancelled_in_the_turn_of_its_slot_passes_it_on(cell: Cell) -> None:
    async def main() -> None:
        called: list[str] = []

        async def work(name: str) -> None:
            called.append(name)

        async with TaskGroup(limit=1) as group:
            blocker = asyncio.get_running_loop().create_future()

            async def block() -> None:
                await blocker

            first = await group.spawn(block)
            victim = asyncio.ensure_future(group.spawn(work, "victim"))
            heir = asyncio.ensure_future(group.spawn(work, "heir"))
            await turns()
            assert group.waiting == 2
            # The victim is cancelled when its slot has been reserved and before it runs.
            first.add_done_callback(lambda _: victim.cancel())
            blocker.set_result(None)
            with pytest.raises(asyncio.CancelledError):
                await victim
            await (await heir)
        assert called == ["heir"]

    run(main, cell)


def test_spawn_is_lazy_and_takes_a_function(cell: Cell) -> None:
    async def main() -> None:
        calls: list[Any] = []

        async def work(*args: Any, **kwargs: Any) -> int:
            calls.append((args, kwargs))
            return 7

        async with TaskGroup(limit=1) as group:
            operation = group.spawn(work, 1, name="a", key=2)
            assert group.alive == 0
            assert not calls
            task = await operation
            assert await task == 7
            with pytest.warns(RuntimeWarning, match="'TaskGroup.spawn' was never awaited"):
                group.spawn(work)
                gc.collect()
            coroutine = work()
            with pytest.raises(TypeError, match=r"spawn\(f, x\) and not spawn\(f\(x\)\)"):
                group.spawn(coroutine)  # type: ignore[arg-type]
            assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
        assert calls == [((1,), {"name": "a", "key": 2})]

    run(main, cell)


def test_a_spawn_whose_function_raises_gives_its_slot_back(cell: Cell) -> None:
    async def main() -> None:
        def broken() -> Any:
            raise ValueError("broken")

        async with TaskGroup(limit=1) as group:
            for _ in range(3):
                with pytest.raises(ValueError, match="broken"):
                    await group.spawn(broken)
                with pytest.raises(TypeError, match="coroutine"):
                    await group.spawn(lambda: 5)  # type: ignore[arg-type,return-value]
            await group.spawn(nothing)

    run(main, cell)


def test_waiting_spawners_of_a_cancelled_group_are_refused(cell: Cell) -> None:
    async def main() -> None:
        group = TaskGroup(limit=1)
        spawner: asyncio.Future[Any]
        async with group:
            await group.spawn(forever)
            spawner = asyncio.ensure_future(group.spawn(nothing))
            await turns()
            group.cancel()
        with pytest.raises(RuntimeError, match="shutting down"):
            await spawner

    run(main, cell)


def test_the_block_waits_for_spawners_in_line(cell: Cell) -> None:
    """Whoever stands in line when the body ends was promised a turn."""

    async def main() -> None:
        done: list[int] = []

        async def work(n: int) -> None:
            await turns(2)
            done.append(n)

        async with TaskGroup(limit=1) as group:
            await group.spawn(work, 0)
            others = [asyncio.ensure_future(group.spawn(work, n)) for n in (1, 2)]
            await turns(1)
        assert done == [0, 1, 2]
        await asyncio.gather(*others)

    run(main, cell)


def test_spawn_from_another_loop_is_refused() -> None:
    async def main() -> None:
        async with TaskGroup(limit=1) as group:
            await group.spawn(turns)
            errors: list[BaseException] = []

            async def other() -> None:
                try:
                    await group.spawn(nothing)
                except LoopMismatch as error:
                    errors.append(error)

            thread = threading.Thread(target=lambda: asyncio.run(other()))
            thread.start()
            await asyncio.get_running_loop().run_in_executor(None, thread.join)
            assert len(errors) == 1

    run(main)


# ------------------------------------------------------------------------------- tasks as asyncio makes them


def test_keywords_go_to_create_task(cell: Cell) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outer")

    async def main() -> None:
        seen: list[str] = []

        async def look() -> None:
            seen.append(variable.get())
            variable.set("changed by a task")

        context = contextvars.copy_context()
        context.run(variable.set, "inner")
        async with TaskGroup() as group:
            task = group.create_task(look(), name="a name", context=context)
        assert task.get_name() == "a name"
        async with TaskGroup(context=context) as group:
            group.create_task(look())
            group.create_task(look(), context=None)
            group.create_task(look(), context=contextvars.copy_context())
        assert seen == ["inner", "changed by a task", "changed by a task", "outer"]
        assert variable.get() == "outer"

    run(main, Cell(cell.loop, False, cell.debug))


@pytest.mark.skipif(sys.version_info < (3, 14), reason="create_task(eager_start=) came with CPython 3.14")
def test_eager_start_is_forwarded() -> None:
    async def main() -> None:
        ran: list[int] = []

        async def work() -> None:
            ran.append(1)

        async with TaskGroup() as group:
            task = group.create_task(work(), eager_start=True)
            assert ran == [1]
            assert task.done()

    run(main)


def test_a_task_is_an_ordinary_one_of_the_users_own_coroutine(cell: Cell) -> None:
    async def main() -> None:
        async with TaskGroup() as group:
            coroutine = turns()
            task = group.create_task(coroutine)
            assert isinstance(task, asyncio.Task)
            assert task.get_coro() is coroutine or cell.eager

    run(main, cell)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with CPython 3.12")
def test_an_eager_task_that_stops_the_group_while_it_is_made_is_cancelled() -> None:
    async def main() -> None:
        async with TaskGroup(limit=2) as group:

            async def child() -> None:
                group.cancel()
                await forever()

            task = group.create_task(child())
        assert task.cancelled()
        assert cancelling() == 0

    run(main, Cell(eager=True))


def test_a_task_factory_and_a_replaced_create_task_are_honoured() -> None:
    async def main() -> None:
        made: list[str] = []
        loop = asyncio.get_running_loop()

        def factory(loop: Any, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
            made.append("factory")
            return asyncio.Task(coroutine, loop=loop, **kwargs)

        async with TaskGroup() as group:
            group.create_task(nothing())
            loop.set_task_factory(factory)
            group.create_task(nothing())
        loop.set_task_factory(None)
        original = loop.create_task

        def create_task(coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
            made.append("replaced")
            return original(coroutine, **kwargs)

        loop.create_task = create_task  # type: ignore[method-assign,assignment]
        async with TaskGroup() as group:
            group.create_task(nothing())
        assert made == ["factory", "replaced"]

    run(main)


@pytest.mark.parametrize("private", [True, False])
def test_tasks_without_anything_private_are_the_same(private: bool) -> None:
    async def main() -> None:
        async with TaskGroup() as group:
            tasks = [group.create_task(turns(n)) for n in range(5)]
        assert all(task.done() for task in tasks)

    _loopwright._use_private(private)
    try:
        run(main)
    finally:
        _loopwright._use_private(True)


def test_groups_in_many_threads_at_once() -> None:
    """Each loop has a context of its own for our callbacks: one context cannot be entered by two threads."""
    errors: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(str(context)))
        for _ in range(200):
            async with TaskGroup(limit=4) as group:
                for n in range(8):
                    await group.spawn(turns, n % 3)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=lambda: asyncio.run(main()), daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads), "a loop hangs"
    finally:
        sys.setswitchinterval(interval)
    assert errors == []


def test_a_subclass_may_change_everything() -> None:
    class Counting(TaskGroup):
        def __init__(self, *, least: int) -> None:
            super().__init__(limit=least)
            self.created = 0

        def create_task(self, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
            self.created += 1
            return super().create_task(coro, **kwargs)

    async def main() -> None:
        async with Counting(least=3) as group:
            group.create_task(nothing())
            assert group.limit == 3
        assert group.created == 1
        assert "<Counting" in repr(group)

    run(main)


def test_repr_and_stats(cell: Cell) -> None:
    async def main() -> None:
        group = TaskGroup(limit=2)
        assert repr(group) == "<TaskGroup limit=2>"
        assert group.stats().state == "new"
        async with group:
            group.create_task(forever())
            group.create_task(turns(2))
            spawner = asyncio.ensure_future(group.spawn(nothing))
            await turns(1)
            assert repr(group) == "<TaskGroup tasks=2 limit=2 waiting=1 entered>"
            stats = group.stats()
            assert (stats.alive, stats.limit, stats.waiting, stats.started, stats.state) == (2, 2, 1, 2, "entered")
            await spawner
            await turns()
            group.cancel()
            assert group.stats().state == "cancelling"
        assert repr(group) == "<TaskGroup limit=2 over>"
        stats = group.stats()
        assert (stats.started, stats.failed, stats.cancelled, stats.state) == (3, 0, 1, "over")
        with pytest.raises(AttributeError):
            stats.alive = 1  # type: ignore[misc]
        with pytest.raises(TypeError):
            copy.copy(group)

    run(main, cell)


# ------------------------------------------------------------------------------- sweeps


async def pause(play: Play) -> None:
    """A pause of a group's child, whose steps the play does not see by itself."""
    for _ in range(play.rng.randint(0, 3)):
        await asyncio.sleep(0)
        play.step()


async def limited_group(play: Play) -> None:
    """A parent, its children, and spawners that wait; whoever is cancelled, the limit holds and nobody is left."""
    alive: set[int] = set()
    groups: list[TaskGroup] = []

    async def child(n: int) -> None:
        alive.add(n)
        assert len(alive) <= 2
        try:
            await pause(play)
        finally:
            alive.discard(n)

    async def parent() -> None:
        async with TaskGroup(limit=2) as group:
            groups.append(group)
            for n in range(5):
                await group.spawn(child, n)
        assert not alive

    async def spawner() -> None:
        await play.pause(5)
        for group in groups:
            for n in range(100, 103):
                with contextlib.suppress(RuntimeError):  # the group is over, or shutting down
                    await group.spawn(child, n)

    play.spawn(parent(), name="parent")
    play.spawn(spawner(), name="spawner")
    await play.finished()
    assert not alive
    if groups:
        assert groups[0].alive == groups[0].waiting == 0, groups[0]


async def failing_group(play: Play) -> None:
    async def fails() -> None:
        await pause(play)
        raise ValueError

    async def cleans_up() -> None:
        try:
            await forever()
        finally:
            await pause(play)

    async def parent() -> None:
        task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        try:
            async with TaskGroup() as group:
                group.create_task(cleans_up())
                group.create_task(fails())
                await pause(play)
        except* ValueError:
            pass
        assert group.alive == 0
        assert task.cancelling() == before or play.delivered
        await asyncio.sleep(0)  # here a cancel that met the errors comes out

    play.spawn(parent(), name="parent")
    await play.finished()


async def cancelled_group(play: Play) -> None:
    """cancel() from inside, and cancels from outside at every step: those are never swallowed (the sweep checks)."""

    async def cleans_up() -> None:
        try:
            await forever()
        finally:
            await pause(play)

    async def parent() -> None:
        async with TaskGroup() as group:
            group.create_task(cleans_up())
            await pause(play)
            group.cancel()
            await pause(play)
        assert group.alive == 0

    play.spawn(parent(), name="parent")
    await play.finished()


async def nested_groups(play: Play) -> None:
    async def leaf() -> None:
        await pause(play)

    async def branch() -> None:
        async with TaskGroup(limit=2) as group:
            for _ in range(3):
                await group.spawn(leaf)

    async def root() -> None:
        async with TaskGroup() as group:
            for _ in range(2):
                group.create_task(branch())

    play.spawn(root(), name="root")
    await play.finished()


SCENARIOS = {
    "parent": [limited_group, failing_group, cancelled_group],
    "spawner": [limited_group],
    "root": [nested_groups],
}
CASES = [(victim, scenario) for victim, scenarios in SCENARIOS.items() for scenario in scenarios]
ids = [f"{scenario.__name__}-{victim}" for victim, scenario in CASES]


@pytest.mark.parametrize(("victim", "scenario"), CASES, ids=ids)
def test_sweep(cell: Cell, victim: str, scenario: Any) -> None:
    assert cancel_sweep(scenario, victims=victim, **EVERY_STEP, **in_cell(cell)).count("cancel") > 3


@pytest.mark.parametrize("scenario", [limited_group, failing_group, cancelled_group, nested_groups])
def test_random_cancels(cell: Cell, scenario: Any) -> None:
    random_cancels(scenario, cancels(cell=cell, share=0.25), level="task", **in_cell(cell))


# ------------------------------------------------------------------------------- anyio


@pytest.mark.parametrize("waits_in", ["body", "end", "spawn"])
def test_anyio_scopes_work_around_a_group(waits_in: str) -> None:
    async def main() -> None:
        cleaned = 0

        async def child() -> None:
            nonlocal cleaned
            try:
                await forever()
            finally:
                await turns()
                cleaned += 1

        with anyio.move_on_after(0.01) as scope:
            async with TaskGroup(limit=1) as group:
                await group.spawn(child)
                if waits_in == "body":
                    await forever()
                elif waits_in == "spawn":
                    await group.spawn(nothing)
        assert scope.cancelled_caught
        assert cleaned == 1
        assert cancelling() == 0
        await turns()

    run(main)


# ------------------------------------------------------------------------------- memory


def rss() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.default_only
def test_a_million_spawned_tasks_leave_no_growth() -> None:
    async def main() -> None:
        async with TaskGroup(limit=100) as group:
            for _ in range(100_000):
                await group.spawn(nothing)
            before = rss()
            for _ in range(900_000):
                await group.spawn(nothing)
            assert rss() - before < 5_000_000

    run(main)


def test_reference_cycles_are_collected() -> None:
    class Witness:
        pass

    async def main() -> weakref.ref[Witness]:
        witness = Witness()
        group = TaskGroup(limit=1)

        async def child() -> None:
            _ = group, witness
            await forever()

        async def parent() -> None:
            _ = witness
            async with group:
                await group.spawn(child)
                await group.spawn(child)

        coroutine = parent()
        task = asyncio.create_task(coroutine)
        await turns()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return weakref.ref(witness)

    reference = run(main)
    gc.collect()
    assert reference() is None


@pytest.mark.skipif(sys.version_info < (3, 12), reason="3.11's own tasks keep their error in a cycle")
def test_an_error_is_freed_without_the_collector() -> None:
    async def main() -> None:
        class Gone(Exception):
            pass

        async def fails() -> None:
            raise Gone

        gone: weakref.ref[Gone] | None = None
        try:
            async with TaskGroup() as group:
                group.create_task(fails())
        except* Gone as errors:
            gone = weakref.ref(errors.exceptions[0])  # type: ignore[arg-type]
        del group
        assert gone is not None
        await turns()
        assert gone() is None

    gc.collect()
    gc.disable()
    try:
        run(main)
    finally:
        gc.enable()


# ------------------------------------------------------------------------------- visibility

PROGRAM = """
import asyncio, sys
from loopwright import Background, TaskGroup, finish, race

async def leaf_task():
    await asyncio.sleep(600)

async def user_function():
    await leaf_task()

async def racer():
    await asyncio.sleep(600)

async def commit():
    await asyncio.sleep(600)

async def main():
    async with TaskGroup() as group:
        group.create_task(user_function(), name="child")
        group.create_task(race(racer(), racer()), name="race")
        group.create_task(finish(commit()), name="finish")
        Background().spawn(user_function(), name="job")
        await asyncio.sleep(0.1)
        print("ready", flush=True)

asyncio.run(main())
"""


def snapshot(program: str, *command: str) -> str:
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        done = subprocess.run([*command, str(process.pid)], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def tree(text: str) -> dict[str, tuple[str | None, list[str]]]:
    """Each task of a ``pstree``: the task it hangs under, and the frames of its own coroutine."""
    tasks: dict[str, tuple[str | None, list[str]]] = {}
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        label = line.lstrip("├└─│ ")
        indent = len(line) - len(label)
        if label.startswith("(T) "):
            name = label.removeprefix("(T) ")
            above = [(at, task) for at, task in above if at < indent]
            tasks[name] = (above[-1][1] if above else None, [])
            above.append((indent, name))
        elif label:
            above = [(at, task) for at, task in above if at < indent]
            tasks[above[-1][1]][1].append(label.split()[0])
    return tasks


@pytest.mark.skipif(sys.version_info < (3, 14), reason="`python -m asyncio pstree` came with CPython 3.14")
def test_pstree_shows_user_frames_nested_as_asyncios_own() -> None:
    text = snapshot(PROGRAM, sys.executable, "-m", "asyncio", "pstree")
    ours = tree(text)
    parents = {name: parent for name, (parent, _) in ours.items()}
    assert parents["child"] == parents["race"] == parents["finish"] == "Task-1", text
    assert parents["finish(commit)"] == "finish", text
    assert parents["job"] is None, text
    frames = {name: frames for name, (_, frames) in ours.items()}
    assert frames["Task-1"] == ["main"], text
    assert frames["child"][:2] == frames["job"][:2] == ["user_function", "leaf_task"], text
    assert frames["finish(commit)"][0] == "commit", text
    racers = [name for name, parent in parents.items() if parent == "race"]
    assert [frames[name][0] for name in racers] == ["racer", "racer"], text
    pure = tree(
        snapshot(PROGRAM.replace("TaskGroup()", "asyncio.TaskGroup()"), sys.executable, "-m", "asyncio", "pstree")
    )
    assert {name: parent for name, (parent, _) in pure.items()} == parents
    assert pure["child"] == ours["child"]


def test_every_public_method_is_documented() -> None:
    for name in ("create_task", "spawn", "cancel", "stats", "limit", "alive", "waiting"):
        assert getattr(TaskGroup, name).__doc__, name
    assert loopwright.TaskGroup.__doc__
