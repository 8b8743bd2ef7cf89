"""Libraries that ask whether a function is a coroutine function get the right answer about our methods.

One that gets the wrong one runs the method in a thread and drops the operation unawaited: nothing happens.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from typing import Any
from unittest.mock import AsyncMock, create_autospec

import pytest
from support import requires
from support.loops import Cell, run

from loopwright import BoundedSemaphore, CancelToken, Event, Lock, PriorityQueue, Queue, Semaphore, TaskGroup

AWAITED = [
    (Semaphore, "acquire"),
    (BoundedSemaphore, "acquire"),
    (Lock, "acquire"),
    (Event, "wait"),
    (Queue, "get"),
    (Queue, "put"),
    (Queue, "join"),
    (PriorityQueue, "get"),
    (CancelToken, "sleep"),
    (CancelToken, "wait"),
    (TaskGroup, "spawn"),
]
PLAIN_METHODS = [(Semaphore, "release"), (Queue, "put_nowait"), (Queue, "shutdown"), (Event, "set")]


# inspect can be told from 3.12 on; libraries ask asyncio before.
iscoroutinefunction = inspect.iscoroutinefunction if sys.version_info >= (3, 12) else asyncio.iscoroutinefunction


@pytest.mark.parametrize(("kind", "name"), AWAITED)
def test_awaited_methods_are_coroutine_functions(kind: type, name: str) -> None:
    thing = kind(1) if kind is BoundedSemaphore else kind()
    assert iscoroutinefunction(getattr(thing, name))
    assert iscoroutinefunction(getattr(kind, name))


@pytest.mark.parametrize(("kind", "name"), PLAIN_METHODS)
def test_plain_methods_are_not(kind: type, name: str) -> None:
    assert not iscoroutinefunction(getattr(kind(), name))


def test_async_mock_with_a_spec() -> None:
    async def main() -> None:
        for mock in (AsyncMock(spec=Queue), create_autospec(Queue, instance=True)):
            mock.get.return_value = 3
            assert await mock.get() == 3
            await mock.put(4)
            mock.put.assert_awaited_once_with(4)
            mock.put_nowait(5)
            assert not inspect.isawaitable(mock.qsize())
        mock = AsyncMock(spec=Semaphore)
        await mock.acquire()
        mock.acquire.assert_awaited_once_with()

    run(main)


def test_starlette_background_task(cell: Cell) -> None:
    background = requires.module("starlette.background")

    async def main() -> None:
        queue: Queue[int] = Queue()
        event = Event()
        event.set()
        tasks = background.BackgroundTasks()
        tasks.add_task(queue.put, 1)
        tasks.add_task(event.wait)
        await tasks()
        await background.BackgroundTask(queue.put, item=2)()
        assert [queue.get_nowait(), queue.get_nowait()] == [1, 2]

    run(main, cell)


def test_fastapi_depends(cell: Cell) -> None:
    fastapi, httpx = requires.module("fastapi"), requires.module("httpx")
    queue: Queue[str] = Queue()
    semaphore = Semaphore(1)
    app = fastapi.FastAPI()

    async def handler(item: Any = fastapi.Depends(queue.get)) -> str:  # noqa: B008 (as FastAPI has it)
        async with semaphore:
            return f"got {item}"

    handler.__annotations__.clear()
    app.add_api_route("/", handler)

    async def main() -> None:
        queue.put_nowait("an item")
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            response = await client.get("/")
        assert response.json() == "got an item"
        assert queue.empty() and semaphore.value == 1

    run(main, cell)
