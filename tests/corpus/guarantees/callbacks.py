"""`loop.call_soon`: a queue, first in, first out."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar, copy_context


async def in_the_order_of_registration() -> None:
    """Docs: "Callbacks are called in the order in which they are registered." """
    loop, done, seen = asyncio.get_running_loop(), asyncio.Event(), []
    for number in range(5):
        loop.call_soon(seen.append, number)
    loop.call_soon(done.set)
    await done.wait()
    assert seen == [0, 1, 2, 3, 4]


async def exactly_once() -> None:
    """Docs: "Each callback will be called exactly once." """
    loop, done, seen = asyncio.get_running_loop(), asyncio.Event(), []
    for number in range(5):
        loop.call_soon(seen.append, number)
    loop.call_soon(done.set)
    await done.wait()
    await asyncio.sleep(0)
    assert len(seen) == 5


async def what_a_callback_registers_comes_last() -> None:
    """Docs: "Callbacks are called in the order in which they are registered", those registered by callbacks
    included.
    """
    loop, done, seen = asyncio.get_running_loop(), asyncio.Event(), []

    def first() -> None:
        seen.append("first")
        loop.call_soon(seen.append, "third")
        loop.call_soon(done.set)

    loop.call_soon(first)
    loop.call_soon(seen.append, "second")
    await done.wait()
    assert seen == ["first", "second", "third"]


async def two_chains_alternate() -> None:
    """Docs: "Callbacks are called in the order in which they are registered": two chains of callbacks take turns."""
    loop, done, seen = asyncio.get_running_loop(), asyncio.Event(), []

    def link(name: str, left: int) -> None:
        seen.append(name)
        if left:
            loop.call_soon(link, name, left - 1)
        elif name == "b":
            done.set()

    loop.call_soon(link, "a", 3)
    loop.call_soon(link, "b", 3)
    await done.wait()
    assert seen == ["a", "b"] * 4


async def fill_before_flush() -> None:
    """Docs: "Callbacks are called in the order in which they are registered": a buffer is flushed after it
    was filled.
    """
    loop = asyncio.get_running_loop()
    sent: asyncio.Future[bytes] = loop.create_future()
    buffer: list[bytes] = []
    for chunk in (b"a", b"b", b"c"):
        loop.call_soon(buffer.append, chunk)
    loop.call_soon(lambda: sent.set_result(b"".join(buffer)))
    assert await sent == b"abc"


async def a_cancelled_handle_is_never_called() -> None:
    """Handle.cancel(): "Cancel the callback." The first callback cancels the second before its turn comes."""
    loop, done, seen = asyncio.get_running_loop(), asyncio.Event(), []
    handles: list[asyncio.Handle] = []
    loop.call_soon(lambda: handles[0].cancel())  # noqa: PLW0108 (there is no handle yet)
    handles.append(loop.call_soon(seen.append, "cancelled"))
    loop.call_soon(done.set)
    await done.wait()
    assert seen == []


async def cancelling_a_handle_that_ran_has_no_effect() -> None:
    """Handle.cancel(): "If the callback has already been canceled or executed, this method has no effect." """
    loop, done, seen = asyncio.get_running_loop(), asyncio.Event(), []
    first = loop.call_soon(seen.append, "executed")
    loop.call_soon(first.cancel)
    loop.call_soon(done.set)
    await done.wait()
    assert seen == ["executed"]


async def one_context_for_a_row_of_callbacks() -> None:
    """Docs: "The optional keyword-only context argument specifies a custom contextvars.Context for the callback to run
    in."

    Run in order in one context, the second sees what the first has set.
    """
    loop, done, seen = asyncio.get_running_loop(), asyncio.Event(), []
    variable: ContextVar[int] = ContextVar("variable", default=0)
    context = copy_context()
    loop.call_soon(variable.set, 1, context=context)
    loop.call_soon(lambda: seen.append(variable.get()), context=context)
    loop.call_soon(lambda: variable.set(variable.get() + 1), context=context)
    loop.call_soon(lambda: seen.append(variable.get()), context=context)
    loop.call_soon(done.set)
    await done.wait()
    assert seen == [1, 2]
    assert variable.get() == 0


async def the_current_context_without_one() -> None:
    """Docs: "Callbacks use the current context when no context is provided": that of the moment of the registration."""
    loop, done, seen = asyncio.get_running_loop(), asyncio.Event(), []
    variable: ContextVar[int] = ContextVar("variable", default=0)
    for number in range(3):
        variable.set(number)
        loop.call_soon(lambda: seen.append(variable.get()))
    loop.call_soon(done.set)
    await done.wait()
    assert seen == [0, 1, 2]


async def a_failing_callback_leaves_the_next_its_turn() -> None:
    """Docs: "Callbacks are called in the order in which they are registered": one that raises is one whose turn is
    over.
    """
    loop, done, seen = asyncio.get_running_loop(), asyncio.Event(), []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: seen.append(type(context["exception"]).__name__))
    loop.call_soon(seen.append, "before")
    loop.call_soon({}.__getitem__, "missing")
    loop.call_soon(seen.append, "after")
    loop.call_soon(done.set)
    await done.wait()
    loop.set_exception_handler(before)
    assert seen == ["before", "KeyError", "after"]
