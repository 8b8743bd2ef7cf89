"""Futures and their callbacks, which are scheduled with `call_soon` and so run in its order."""

from __future__ import annotations

import asyncio


async def done_callbacks_in_the_order_they_were_added() -> None:
    """Docs of Future: callbacks "are scheduled with loop.call_soon()"; they are kept in a list, in order."""
    loop, done, seen = asyncio.get_running_loop(), asyncio.Event(), []
    future = loop.create_future()
    for number in range(4):
        future.add_done_callback(lambda _, number=number: seen.append(number))
    future.add_done_callback(lambda _: done.set())
    future.set_result(None)
    await done.wait()
    assert seen == [0, 1, 2, 3]


async def done_callbacks_of_a_task_in_order() -> None:
    """Docs: "Callbacks registered with add_done_callback are not called immediately. They are scheduled with
    call_soon()."
    """
    done, seen = asyncio.Event(), []
    task = asyncio.create_task(asyncio.sleep(0))
    for number in range(4):
        task.add_done_callback(lambda _, number=number: seen.append(number))
    task.add_done_callback(lambda _: done.set())
    await done.wait()
    assert seen == [0, 1, 2, 3]


async def a_callback_added_late_takes_its_turn() -> None:
    """Docs: "If the Future is already done when this method is called, the callback is scheduled with
    loop.call_soon()."
    """
    loop, done, seen = asyncio.get_running_loop(), asyncio.Event(), []
    future = loop.create_future()
    future.set_result(None)
    loop.call_soon(seen.append, "before")
    future.add_done_callback(lambda _: seen.append("callback"))
    loop.call_soon(seen.append, "after")
    loop.call_soon(done.set)
    await done.wait()
    assert seen == ["before", "callback", "after"]


async def callbacks_before_what_is_registered_after_the_result() -> None:
    """Docs of Future: callbacks "are scheduled with loop.call_soon()": at `set_result`, before a later `call_soon`."""
    loop, done, seen = asyncio.get_running_loop(), asyncio.Event(), []
    future = loop.create_future()
    future.add_done_callback(lambda _: seen.append("callback"))
    future.set_result(None)
    loop.call_soon(seen.append, "registered later")
    loop.call_soon(done.set)
    await done.wait()
    assert seen == ["callback", "registered later"]


async def the_future_that_was_done_first_calls_first() -> None:
    """Docs of Future: callbacks "are scheduled with loop.call_soon()": those of the first before those of the
    second.
    """
    loop, done, seen = asyncio.get_running_loop(), asyncio.Event(), []
    futures = {name: loop.create_future() for name in "ab"}
    for name, future in futures.items():
        future.add_done_callback(lambda _, name=name: seen.append(name))
    futures["b"].set_result(None)
    futures["a"].set_result(None)
    loop.call_soon(done.set)
    await done.wait()
    assert seen == ["b", "a"]


async def a_cancel_schedules_the_callbacks() -> None:
    """Future.cancel(): "Otherwise, change the Future's state to cancelled, schedule the callbacks, and return
    True."
    """
    loop, done, seen = asyncio.get_running_loop(), asyncio.Event(), []
    future = loop.create_future()
    future.add_done_callback(lambda future: seen.append(future.cancelled()))
    future.add_done_callback(lambda _: seen.append("second"))
    assert future.cancel() is True
    assert future.cancel() is False
    loop.call_soon(done.set)
    await done.wait()
    assert seen == [True, "second"]


async def a_removed_callback_is_not_called() -> None:
    """remove_done_callback(): "Remove callback from the callbacks list. Returns the number of callbacks removed." """
    loop, done, seen = asyncio.get_running_loop(), asyncio.Event(), []
    future = loop.create_future()
    future.add_done_callback(seen.append)
    loop.call_soon(lambda: seen.append(future.remove_done_callback(seen.append)))
    loop.call_soon(future.set_result, None)
    future.add_done_callback(lambda _: done.set())
    await done.wait()
    assert seen == [1]


async def awaited_only_when_it_is_set() -> None:
    """Docs: "Coroutines can await on Future objects until they either have a result or an exception set, or until they
    are cancelled." What was registered before `set_result` has happened by then.
    """
    loop, seen = asyncio.get_running_loop(), []
    future = loop.create_future()
    loop.call_soon(seen.append, 1)
    loop.call_soon(seen.append, 2)
    loop.call_soon(future.set_result, None)
    await future
    assert seen == [1, 2]


async def set_once() -> None:
    """set_result(): "Raises a InvalidStateError error if the Future is already done." The first registered wins."""
    loop, seen = asyncio.get_running_loop(), []
    future = loop.create_future()

    def answer(name: str) -> None:
        try:
            future.set_result(name)
        except asyncio.InvalidStateError:
            seen.append(name)

    for name in "abc":
        loop.call_soon(answer, name)
    assert await future == "a"
    done = asyncio.Event()
    loop.call_soon(done.set)
    await done.wait()
    assert seen == ["b", "c"]
