"""Tasks: one at a time, results in the order of the arguments, cancels that reach whom they should."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar


async def _after(turns: int, value: int = 0) -> int:
    for _ in range(turns):
        await asyncio.sleep(0)
    return value


async def nothing_runs_between_two_awaits() -> None:
    """Docs: "An event loop runs one Task at a time. While a Task awaits for the completion of a Future, the event loop
    runs other Tasks."
    """
    inside = 0

    async def work() -> None:
        nonlocal inside
        for _ in range(3):
            inside += 1
            assert inside == 1
            inside -= 1
            await asyncio.sleep(0)

    await asyncio.gather(*[work() for _ in range(4)])


async def gather_keeps_the_order_of_its_arguments() -> None:
    """Docs: "The order of result values corresponds to the order of awaitables in aws." """
    assert await asyncio.gather(*[_after(turns, turns) for turns in (3, 0, 2, 1)]) == [3, 0, 2, 1]


async def a_cancelled_gather_cancels_its_children() -> None:
    """Docs: "If gather() is cancelled, all submitted awaitables (that have not completed yet) are also cancelled." """
    children = [asyncio.create_task(asyncio.sleep(60)) for _ in range(3)]
    together = asyncio.gather(*children)
    await asyncio.sleep(1)
    together.cancel()
    try:
        await together
    except asyncio.CancelledError:
        pass
    await asyncio.wait(children)
    assert all(child.cancelled() for child in children)


async def gather_with_exceptions_as_results() -> None:
    """Docs: "If return_exceptions is True, exceptions are treated the same as successful results, and aggregated in the
    result list."
    """

    async def fail() -> int:
        await asyncio.sleep(0)
        raise ValueError

    one, two, three = await asyncio.gather(_after(1, 1), fail(), _after(3, 3), return_exceptions=True)
    assert (one, type(two), three) == (1, ValueError, 3)


async def a_group_waits_for_all_of_its_tasks() -> None:
    """Docs: "The async with statement will wait for all tasks in the group to finish." """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_after(turns, turns)) for turns in (3, 0, 2)]
    assert [task.result() for task in tasks] == [3, 0, 2]


async def a_failing_task_cancels_its_group() -> None:
    """Docs: "The first time any of the tasks belonging to the group fails with an exception other than CancelledError,
    the remaining tasks in the group are cancelled."
    """

    async def fail() -> None:
        await asyncio.sleep(1)
        raise ValueError

    try:
        async with asyncio.TaskGroup() as group:
            others = [group.create_task(asyncio.sleep(60)) for _ in range(2)]
            group.create_task(fail())
    except* ValueError as errors:
        assert len(errors.exceptions) == 1
    assert all(task.cancelled() for task in others)


async def a_shield_keeps_the_cancel_from_the_task() -> None:
    """Docs: "If the coroutine containing it is cancelled, the Task running in something() is not cancelled." """
    inner = asyncio.create_task(asyncio.sleep(5, 42))

    async def outer() -> int:
        return await asyncio.shield(inner)

    task = asyncio.create_task(outer())
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert await inner == 42


async def wait_returns_what_is_done_and_what_is_not() -> None:
    """Docs: "Futures or Tasks that aren't done when the timeout occurs are simply returned in the second set." """
    quick, slow = asyncio.create_task(asyncio.sleep(1)), asyncio.create_task(asyncio.sleep(60))
    done, pending = await asyncio.wait([quick, slow], timeout=10)
    assert (done, pending) == ({quick}, {slow})
    slow.cancel()
    await asyncio.wait([slow])


async def as_completed_yields_the_earliest() -> None:
    """Docs: "Each coroutine returned can be awaited to get the earliest next result from the iterable of the remaining
    awaitables."
    """

    async def sleep(seconds: int) -> int:
        await asyncio.sleep(seconds)
        return seconds

    tasks = [asyncio.create_task(sleep(seconds)) for seconds in (3, 1, 2)]
    assert [await earliest for earliest in asyncio.as_completed(tasks)] == [1, 2, 3]


async def a_task_runs_in_a_copy_of_the_context() -> None:
    """Docs: "If no context is provided, the Task copies the current context and later runs its coroutine in the copied
    context."
    """
    variable: ContextVar[int] = ContextVar("variable", default=0)

    async def work(number: int) -> int:
        variable.set(variable.get() + number)
        await asyncio.sleep(0)
        return variable.get()

    variable.set(10)
    assert await asyncio.gather(work(1), work(2), work(3)) == [11, 12, 13]
    assert variable.get() == 10


async def cancelling_counts_the_requests() -> None:
    """Task.cancelling(): "Return the number of pending cancellation requests to this Task, i.e., the number of calls to
    cancel() less the number of uncancel() calls."
    """

    async def work() -> int:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return asyncio.current_task().uncancel()
        raise AssertionError

    task = asyncio.create_task(work())
    await asyncio.sleep(1)
    task.cancel()
    assert task.cancelling() == 1
    assert await task == 0


async def gather_raises_what_was_raised_first() -> None:
    """Docs: "If return_exceptions is False (default), the first raised exception is immediately propagated to the task
    that awaits on gather()."
    """
    loop = asyncio.get_running_loop()
    futures = {name: loop.create_future() for name in ("late", "first")}
    loop.call_soon(futures["first"].set_exception, LookupError("first"))
    loop.call_soon(futures["late"].set_exception, ValueError("late"))
    try:
        await asyncio.gather(*futures.values())
    except LookupError:
        pass
    futures["late"].exception()


async def as_completed_by_the_order_of_completion() -> None:
    """Docs: "Get the earliest next result from the iterable of the remaining awaitables": futures set one after the
    other.
    """
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(3)]
    for number in (2, 0, 1):
        loop.call_soon(futures[number].set_result, number)
    assert [await earliest for earliest in asyncio.as_completed(futures)] == [2, 0, 1]


async def a_cancel_registered_first_comes_first() -> None:
    """Docs: "Callbacks are called in the order in which they are registered": the future is cancelled, and not set
    then.
    """
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(future.cancel)
    loop.call_soon(lambda: future.done() or future.set_result(None))
    await asyncio.wait([future])
    assert future.cancelled()


async def a_cancelled_child_counts_as_raising() -> None:
    """Docs of gather(): "If any Task or Future from the aws sequence is cancelled, it is treated as if it raised
    CancelledError"; it was the first to do so.
    """
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()
    loop.call_soon(first.cancel)
    loop.call_soon(second.set_exception, ValueError())
    try:
        await asyncio.gather(second, first)
    except asyncio.CancelledError:
        assert first.cancelled()
    second.exception()
