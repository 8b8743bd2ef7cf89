"""A swallowed cancel is found, with the line that swallowed it; what asyncio's own constructs keep rightly is not."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from support.loops import run

from loopwright.testing._swallow import CAN_TELL_LINES, CancelWatch, Swallowed

Body = Callable[[], Coroutine[Any, Any, object]]


async def waits() -> None:
    await asyncio.sleep(3600)


async def cleans_up() -> None:
    try:
        await asyncio.sleep(3600)
    finally:
        child = asyncio.ensure_future(waits())
        await asyncio.sleep(0)
        child.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await child


# Each swallows; the line that does is marked.


async def by_except() -> None:
    try:
        await cleans_up()
    except ValueError as error:
        print(error)
    except (OSError, asyncio.CancelledError):  # guilty
        pass
    await asyncio.sleep(0)


async def by_bare_except() -> None:
    try:
        await cleans_up()
    except ValueError:
        pass
    except:  # noqa: E722 - guilty
        pass


async def by_base_exception() -> None:
    while True:
        try:
            await waits()
        except BaseException:  # guilty
            break


async def by_suppress() -> None:
    with contextlib.suppress(asyncio.CancelledError):  # guilty
        await cleans_up()


async def by_finally() -> int:
    try:
        await waits()
    finally:
        return 3  # noqa: B012 - guilty


async def by_a_loop_in_between() -> None:
    for _ in range(2):
        try:
            async with asyncio.timeout(0):
                await waits()
        except TimeoutError:
            pass
    await by_except()


async def by_an_async_context_manager() -> None:
    @contextlib.asynccontextmanager
    async def quiet() -> Any:
        try:  # noqa: SIM105 - its line is the last one
            yield
        except asyncio.CancelledError:  # guilty
            pass

    async with quiet():
        await waits()


async def by_the_reader_of_a_child() -> None:
    with contextlib.suppress(asyncio.CancelledError):  # guilty
        await asyncio.create_task(waits())


SWALLOWS: list[Body] = [
    by_except,
    by_bare_except,
    by_base_exception,
    by_suppress,
    by_finally,
    by_a_loop_in_between,
    by_an_async_context_manager,
    by_the_reader_of_a_child,
]


async def verdict_on(body: Body, *, armed: bool, steps: int = 8) -> Swallowed | None:
    with CancelWatch() as watch:
        task = asyncio.create_task(body(), name="victim")
        for _ in range(steps):
            await asyncio.sleep(0)
        if armed:
            watch.arm(task)
        task.cancel()
        await asyncio.wait([task], timeout=5)
        assert task.done()
        return watch.verdict(task)


@pytest.mark.parametrize("armed", [True, False])
@pytest.mark.parametrize("body", SWALLOWS)
def test_the_guilty_line_is_named(body: Body, armed: bool) -> None:
    verdict = run(lambda: verdict_on(body, armed=armed))
    assert verdict is not None
    assert (verdict.task, verdict.outcome, verdict.cancels) == ("victim", "result", 1)
    if CAN_TELL_LINES:
        assert verdict.source.endswith("guilty"), verdict
        assert verdict.where == f"{__file__}:{verdict.line} in {verdict.function}"
    else:
        assert verdict.where is None and "3.12" in verdict.note


@pytest.mark.parametrize("armed", [True, False])
def test_what_is_awaited_afterwards_is_not_blamed_for_an_armed_cancel(armed: bool) -> None:
    async def body() -> None:
        with contextlib.suppress(asyncio.CancelledError):  # guilty
            await waits()
        child = asyncio.create_task(waits())
        await asyncio.sleep(0)
        child.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await child

    verdict = run(lambda: verdict_on(body, armed=armed))
    assert verdict is not None
    if CAN_TELL_LINES and armed:
        assert verdict.source.endswith("guilty")


def test_a_task_that_goes_on_has_a_verdict_too() -> None:
    async def body() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await waits()
        await waits()

    async def main() -> None:
        with CancelWatch(keep=True) as watch:
            task = asyncio.create_task(body())
            await asyncio.sleep(0)
            assert watch.verdict(task) is None
            task.cancel()
            await asyncio.sleep(0.01)
            verdict = watch.verdict(task)
            assert verdict is not None and verdict.outcome == "pending"
            assert watch.suspects() == ([task] if CAN_TELL_LINES else [])
            task.cancel()
            await asyncio.wait([task])
            assert watch.verdict(task) is None  # It let go in the end.

    run(main)


def test_an_error_instead_of_the_cancel_is_told_apart() -> None:
    async def body() -> None:
        try:
            await waits()
        except asyncio.CancelledError as error:
            raise ValueError from error

    async def main() -> None:
        with CancelWatch() as watch:
            task = asyncio.create_task(body())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            verdict = watch.verdict(task)
            assert isinstance(task.exception(), ValueError)
        assert verdict is not None and verdict.outcome == "error"

    run(main)


# Each keeps a cancel, or is cancelled, as asyncio's documentation has it.


async def lets_go() -> None:
    await cleans_up()


async def timeout_inside() -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0):
            await waits()
    await waits()


async def wait_for_inside() -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(waits(), 0.001)
    await waits()


async def fails() -> None:
    raise ValueError


async def group_that_failed_in_its_body() -> None:
    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            await waits()
    await waits()


async def group_that_failed_at_its_end() -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
    except* ValueError:
        pass


async def groups_that_failed_at_their_ends() -> None:
    for _ in range(3):
        await group_that_failed_at_its_end()


async def uncancels() -> None:
    try:
        await waits()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
    await asyncio.sleep(0)


async def gathers() -> None:
    await asyncio.gather(waits(), cleans_up(), return_exceptions=True)


async def shields() -> None:
    await asyncio.shield(asyncio.sleep(0.01))


async def waits_for_a_condition() -> None:
    condition = asyncio.Condition()
    async with condition:
        await condition.wait()


async def gets_from_a_queue() -> None:
    await asyncio.Queue[int]().get()


async def under_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(waits())
        group.create_task(cleans_up())


LEGITIMATE: list[Body] = [
    lets_go,
    timeout_inside,
    wait_for_inside,
    group_that_failed_in_its_body,
    group_that_failed_at_its_end,
    groups_that_failed_at_their_ends,
    uncancels,
    gathers,
    shields,
    waits_for_a_condition,
    gets_from_a_queue,
    under_a_group,
]


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 6, 20])
@pytest.mark.parametrize("body", LEGITIMATE)
def test_what_asyncio_keeps_rightly_is_no_swallow(body: Body, steps: int) -> None:
    if sys.version_info < (3, 13) and body.__name__.startswith("group") and 0 < steps < 20:
        pytest.skip("before CPython 3.13 a group that fails does lose a cancel that arrives at the same time")
    assert run(lambda: verdict_on(body, armed=True, steps=steps)) is None


def test_groups_that_fail_alone_leave_nothing_to_explain() -> None:
    async def main() -> None:
        with CancelWatch() as watch:
            task = asyncio.create_task(groups_that_failed_at_their_ends())
            await task
            assert watch.verdict(task) is None
            assert task.cancelling() == (3 if sys.version_info < (3, 13) else 0)

    original = asyncio.TaskGroup._on_task_done  # type: ignore[attr-defined]
    run(main)
    assert asyncio.TaskGroup._on_task_done is original  # type: ignore[attr-defined]


@pytest.mark.skipif(not CAN_TELL_LINES, reason="sys.monitoring came with CPython 3.12")
def test_watches_share_one_tool_and_give_it_back() -> None:
    tools = [sys.monitoring.get_tool(tool) for tool in range(6)]  # type: ignore[attr-defined,unused-ignore]
    with CancelWatch(), CancelWatch():
        inside = [sys.monitoring.get_tool(tool) for tool in range(6)]  # type: ignore[attr-defined,unused-ignore]
        assert inside.count("loopwright cancels") == 1
    assert [sys.monitoring.get_tool(tool) for tool in range(6)] == tools  # type: ignore[attr-defined,unused-ignore]


@pytest.mark.skipif(not CAN_TELL_LINES, reason="sys.monitoring came with CPython 3.12")
def test_without_a_free_tool_the_note_says_so() -> None:
    taken = [tool for tool in range(6) if sys.monitoring.get_tool(tool) is None]  # type: ignore[attr-defined,unused-ignore]
    for tool in taken:
        sys.monitoring.use_tool_id(tool, "another")  # type: ignore[attr-defined,unused-ignore]
    try:
        verdict = run(lambda: verdict_on(by_except, armed=True))
    finally:
        for tool in taken:
            sys.monitoring.free_tool_id(tool)  # type: ignore[attr-defined,unused-ignore]
    assert verdict is not None and verdict.where is None and "taken" in verdict.note
