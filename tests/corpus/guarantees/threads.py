"""From other threads: in order from each, and nothing lost."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

from corpus.guarantees import real


@real
async def call_soon_threadsafe_in_order() -> None:
    """Docs: "A thread-safe variant of call_soon()", whose callbacks "are called in the order in which they are
    registered".
    """
    loop, done, seen = asyncio.get_running_loop(), asyncio.Event(), []

    def work() -> None:
        for number in range(5):
            loop.call_soon_threadsafe(seen.append, number)
        loop.call_soon_threadsafe(done.set)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    await done.wait()
    assert seen == [0, 1, 2, 3, 4]


async def call_soon_threadsafe_from_the_loop_itself() -> None:
    """Docs: "A thread-safe variant of call_soon()": from the loop's own thread both keep one order."""
    loop, done, seen = asyncio.get_running_loop(), asyncio.Event(), []
    for number in range(3):
        loop.call_soon(seen.append, f"call_soon {number}")
        loop.call_soon_threadsafe(seen.append, f"threadsafe {number}")
    loop.call_soon_threadsafe(done.set)
    await done.wait()
    assert seen == [f"{how} {number}" for number in range(3) for how in ("call_soon", "threadsafe")]


@real
async def two_threads_each_in_its_order() -> None:
    """Docs: "A thread-safe variant of call_soon()": each thread's callbacks keep the order of that thread."""
    loop, seen = asyncio.get_running_loop(), []
    done = [asyncio.Event(), asyncio.Event()]

    def work(name: int) -> None:
        for number in range(3):
            loop.call_soon_threadsafe(seen.append, (name, number))
        loop.call_soon_threadsafe(done[name].set)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for event in done:
        await event.wait()
    for name in range(2):
        assert [number for who, number in seen if who == name] == [0, 1, 2]


@real
async def the_result_comes_after_what_the_function_registered() -> None:
    """Docs: "This method returns a asyncio.Future object"; what the function registered before the future's own result
    keeps its order among itself.
    """
    loop, done, seen = asyncio.get_running_loop(), asyncio.Event(), []

    def work() -> int:
        for number in range(4):
            loop.call_soon_threadsafe(seen.append, number)
        loop.call_soon_threadsafe(done.set)
        return 42

    assert await loop.run_in_executor(None, work) == 42
    await done.wait()
    assert seen == [0, 1, 2, 3]


@real
async def to_thread_takes_the_context_along() -> None:
    """to_thread(): "The current contextvars.Context is propagated, allowing context variables from the event loop
    thread to be accessed in the separate thread."
    """
    variable: ContextVar[int] = ContextVar("variable")

    async def work(number: int) -> int:
        variable.set(number)
        return await asyncio.to_thread(variable.get)

    assert await asyncio.gather(work(1), work(2)) == [1, 2]


@real
async def run_coroutine_threadsafe_gives_the_result_back() -> None:
    """Docs: "Submit a coroutine to the given event loop. Thread-safe. Return a concurrent.futures.Future to wait for
    the result from another OS thread."
    """
    loop, seen = asyncio.get_running_loop(), []

    async def work(number: int) -> int:
        await asyncio.sleep(0)
        seen.append(number)
        return number

    def ask() -> list[int]:
        return [asyncio.run_coroutine_threadsafe(work(number), loop).result(10) for number in range(3)]

    assert await loop.run_in_executor(None, ask) == [0, 1, 2]
    assert seen == [0, 1, 2]
