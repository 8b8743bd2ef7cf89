"""Loops driven from outside: `run_until_complete`, `stop`, `Runner`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextvars import ContextVar

from corpus.guarantees import LoopFactory, drives_loops


@drives_loops
def stop_ends_with_the_batch(factory: LoopFactory) -> None:
    """Docs: "If stop() is called while run_forever() is running, the loop will run the current batch of callbacks and
    then exit. Note that new callbacks scheduled by callbacks will not run in this case; instead, they will run the next
    time run_forever() or run_until_complete() is called."
    """
    loop, seen = factory(), []

    def stop() -> None:
        seen.append("stop")
        loop.call_soon(seen.append, "new")
        loop.stop()

    try:
        loop.call_soon(seen.append, "before")
        loop.call_soon(stop)
        loop.call_soon(seen.append, "same batch")
        loop.run_forever()
        assert seen == ["before", "stop", "same batch"]
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert seen == ["before", "stop", "same batch", "new"]
    finally:
        loop.close()


@drives_loops
def stop_before_run_runs_what_was_scheduled(factory: LoopFactory) -> None:
    """Docs: "If stop() is called before run_forever() is called, the loop will poll the I/O selector once with a
    timeout of zero, run all callbacks scheduled in response to I/O events (and those that were already scheduled), and
    then exit."
    """
    loop, seen = factory(), []
    try:
        for number in range(3):
            loop.call_soon(seen.append, number)
        loop.stop()
        loop.run_forever()
        assert seen == [0, 1, 2]
    finally:
        loop.close()


@drives_loops
def run_until_complete_returns_the_result(factory: LoopFactory) -> None:
    """Docs: "Run until the future (an instance of Future) has completed. [...] Return the Future's result or raise its
    exception." Callbacks registered before it is set are over by then.
    """
    loop, seen = factory(), []
    try:
        future = loop.create_future()
        loop.call_soon(seen.append, 1)
        loop.call_soon(seen.append, 2)
        loop.call_soon(future.set_result, 42)
        assert loop.run_until_complete(future) == 42
        assert seen == [1, 2]
    finally:
        loop.close()


@drives_loops
def a_runner_keeps_its_context(factory: LoopFactory) -> None:
    """Runner: "a context manager that simplifies multiple async function calls in the same context" """
    variable: ContextVar[int] = ContextVar("variable", default=0)

    async def add(number: int) -> int:
        variable.set(variable.get() + number)
        await asyncio.sleep(0)
        return variable.get()

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(add(1)) == 1
        assert runner.run(add(2)) == 3


@drives_loops
def a_runner_finalizes_generators(factory: LoopFactory) -> None:
    """Runner.close(): "Finalize asynchronous generators, shutdown default executor, close the event loop and release
    embedded contextvars.Context."
    """
    seen, kept = [], []

    async def rows() -> AsyncGenerator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    async def main() -> None:
        kept.append(rows())
        assert await anext(kept[0]) == 1

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
        assert seen == []
    assert seen == ["closed"]
