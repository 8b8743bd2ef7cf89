"""Queue against asyncio's, and the thread-safe queues of others. ``python benches/bench_queue.py [FILE.json]``"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from harness import Case, Row, compare, loops, save

import loopwright

try:
    import culsans
except ImportError:
    culsans = None  # type: ignore[assignment]
try:
    import anyio
except ImportError:
    anyio = None  # type: ignore[assignment]

Make = Callable[[int], Any]


def one_task(make: Make) -> Case:
    async def case(n: int) -> None:
        queue = make(0)
        for _ in range(n):
            await queue.put(1)
            await queue.get()

    return case


def no_wait(make: Make) -> Case:
    async def case(n: int) -> None:
        queue = make(0)
        for _ in range(n):
            queue.put_nowait(1)
            queue.get_nowait()

    return case


def hand_over(make: Make, size: int, pairs: int = 1) -> Case:
    """``pairs`` producers and as many consumers at one queue."""

    async def case(n: int) -> None:
        queue = make(size)

        async def producer() -> None:
            for item in range(n // pairs):
                await queue.put(item)

        async def consumer() -> None:
            for _ in range(n // pairs):
                await queue.get()

        await asyncio.gather(*(work() for _ in range(pairs) for work in (producer, consumer)))

    return case


def anyio_stream(size: int) -> Case:
    async def case(n: int) -> None:
        send, receive = anyio.create_memory_object_stream[int](size)

        async def producer() -> None:
            for item in range(n):
                await send.send(item)

        async def consumer() -> None:
            for _ in range(n):
                await receive.receive()

        with send, receive:
            await asyncio.gather(producer(), consumer())

    return case


def from_thread(get: Callable[[Any], Callable[[Any], object]], make: Make) -> Case:
    """A thread puts, a task gets."""

    async def case(n: int) -> None:
        queue = make(100)
        put = get(queue)

        def producer() -> None:
            for item in range(n):
                put(item)

        producing = asyncio.create_task(asyncio.to_thread(producer))
        receive = queue.async_get if hasattr(queue, "async_get") else queue.get
        for _ in range(n):
            await receive()
        await producing

    return case


def main() -> None:
    rows: list[Row] = []
    for name, factory in loops().items():

        def row(
            operation: str, case: Callable[..., Case], *arguments: Any, target: float | None = 3, **more: Case
        ) -> None:
            cases = {
                "asyncio": case(asyncio.Queue, *arguments),
                "loopwright": case(loopwright.Queue, *arguments),
                **more,
            }
            rows.append(
                compare(operation, cases, n=20_000, target=target, loop_factory=factory, loop_name=name)  # noqa: B023
            )

        row("Queue put+get, one task", one_task, target=4)
        row("Queue put_nowait+get_nowait", no_wait, target=None)
        streams = {"anyio memory stream": anyio_stream(100)} if anyio else {}
        row("Queue(100) producer -> consumer", hand_over, 100, **streams)
        row("Queue(1) producer -> consumer", hand_over, 1)
        row("Queue(10), 10 producers, 10 consumers", hand_over, 10, 10, target=None)
        if culsans:
            rows.append(
                compare(
                    "Queue(100), a thread puts, a task gets",
                    {
                        "culsans": from_thread(lambda queue: queue.sync_put, culsans.Queue),
                        "loopwright": from_thread(lambda queue: queue.put_threadsafe, loopwright.Queue),
                    },
                    n=5_000,
                    baseline="culsans",
                    loop_factory=factory,
                    loop_name=name,
                )
            )
    save(rows)


if __name__ == "__main__":
    main()
