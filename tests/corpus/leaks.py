"""Things left behind: what a test does not look at, because its last assert is already true.

Each passes an ordinary test run. What is left is a task, a generator, an exception that nobody saw, a socket.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import weakref
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import SimpleNamespace

from corpus import defect, healthy


async def steps(number: int) -> None:
    """Work that takes so many turns of the loop."""
    for _ in range(number):
        await asyncio.sleep(0)


async def rows(database: SimpleNamespace) -> AsyncGenerator[int]:
    """A cursor's rows; the cursor is closed when the generator is."""
    database.cursors += 1
    try:
        for row in range(10):
            await asyncio.sleep(0)
            yield row
    finally:
        database.cursors -= 1


@defect("async generator not closed", found_by="leaks")
async def generator_not_closed() -> None:
    """`break` out of `async for` leaves the generator suspended, its `finally` not run, until somebody collects it."""
    database = SimpleNamespace(cursors=0)
    results = rows(database)
    async for row in results:
        if row == 2:
            break
    asyncio.get_running_loop().results = results  # something keeps it: a traceback, a cache, a cycle


@healthy("async generator in aclosing", like=generator_not_closed)
async def generator_closed() -> None:
    """`aclosing` closes it wherever the loop is left."""
    database = SimpleNamespace(cursors=0)
    async with aclosing(rows(database)) as results:
        async for row in results:
            if row == 2:
                break
    assert database.cursors == 0


@defect("coroutine never awaited", found_by="leaks")
async def coroutine_never_awaited() -> None:
    """`flush()` without `await`: it makes a coroutine and throws it away."""

    async def flush() -> None:
        await steps(1)

    flush()
    await steps(1)


@healthy("coroutine awaited", like=coroutine_never_awaited)
async def coroutine_awaited() -> None:
    """`await flush()`."""

    async def flush() -> None:
        await steps(1)

    await flush()


@defect("task collected while it waits", found_by="leaks")
async def task_collected_while_pending() -> None:
    """Held by a weak reference only; what it waits for is referred to by nobody else either: it is gone, silently."""
    background: weakref.WeakSet[asyncio.Task[None]] = weakref.WeakSet()

    async def wait_for_news() -> None:
        await asyncio.get_running_loop().create_future()

    background.add(asyncio.create_task(wait_for_news()))
    await steps(2)
    gc.collect()


@healthy("task held until it has ended", like=task_collected_while_pending)
async def task_held() -> None:
    """A strong reference, dropped by the done callback; cancelled at the end."""
    background: set[asyncio.Task[None]] = set()

    async def wait_for_news() -> None:
        await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(wait_for_news())
    background.add(task)
    task.add_done_callback(background.discard)
    try:
        await steps(2)
    finally:
        task.cancel()
        await asyncio.wait([task])


@defect("exception lost in create_task", found_by="leaks")
async def exception_lost_in_a_task() -> None:
    """Nobody awaits the task, so nobody learns that it failed."""

    async def report() -> None:
        raise ConnectionError("the metrics server is gone")

    tasks = [asyncio.create_task(report())]
    await steps(3)
    assert tasks[0].done()


@healthy("the exception is looked at", like=exception_lost_in_a_task)
async def exception_of_a_task_seen() -> None:
    """A done callback asks each task for its exception."""
    failures: list[BaseException] = []

    async def report() -> None:
        raise ConnectionError("the metrics server is gone")

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            failures.append(error)

    task = asyncio.create_task(report())
    task.add_done_callback(ended)
    await asyncio.wait([task])
    await steps(1)
    assert failures or task.cancelled()


@defect("exception lost in a callback", found_by="leaks")
async def exception_lost_in_a_callback() -> None:
    """What a `call_soon` callback raises goes to the loop's exception handler: a line in a log."""

    def on_message(message: dict[str, str]) -> None:
        message["missing"]

    asyncio.get_running_loop().call_soon(on_message, {})
    await steps(2)


@defect("exception of a future that nobody asks", found_by="leaks")
async def exception_of_a_future_lost() -> None:
    """The reader fails the pending request, whose caller has given up and never looks."""
    pending = asyncio.get_running_loop().create_future()

    async def caller() -> None:
        try:
            async with asyncio.timeout(1):
                await asyncio.shield(pending)
        except TimeoutError:
            pass

    await caller()
    pending.set_exception(ConnectionResetError("peer went away"))
    await steps(1)


@defect("task left running", found_by="leaks")
async def task_left_running() -> None:
    """Fire and forget: the test ends, the heartbeat does not."""

    async def heartbeat() -> None:
        while True:
            await asyncio.sleep(1)

    asyncio.get_running_loop().heartbeat = asyncio.create_task(heartbeat())
    await steps(2)


@healthy("task ended by who started it", like=task_left_running)
async def task_ended() -> None:
    """Cancelled, and waited for."""

    async def heartbeat() -> None:
        while True:
            await asyncio.sleep(1)

    task = asyncio.create_task(heartbeat())
    try:
        await steps(2)
    finally:
        task.cancel()
        await asyncio.wait([task])


@defect("socket left open", found_by="leaks")
async def socket_left_open() -> None:
    """The connection is opened, used, and never closed."""
    left, right = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=left)
    _, other = await asyncio.open_connection(sock=right)
    other.write(b"hello\n")
    assert await reader.readline() == b"hello\n"
    other.close()
    await other.wait_closed()
    asyncio.get_running_loop().kept = writer


@healthy("both ends closed", like=socket_left_open)
async def socket_closed() -> None:
    """`close` in a `finally`, and `wait_closed`."""
    left, right = socket.socketpair()
    with left, right:
        reader, writer = await asyncio.open_connection(sock=left)
        try:
            _, other = await asyncio.open_connection(sock=right)
            try:
                other.write(b"hello\n")
                assert await reader.readline() == b"hello\n"
            finally:
                other.close()
        finally:
            writer.close()
        await other.wait_closed()
        await writer.wait_closed()


@defect("server left listening", found_by="leaks")
async def server_left_listening() -> None:
    """The test's server is started and never closed; the next test finds the port taken."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    assert server.is_serving()
    asyncio.get_running_loop().kept = server


@defect("thread left running", found_by="leaks")
async def thread_left_running() -> None:
    """A thread waits for an event that nobody sets."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, args=(30,), daemon=True)
    thread.start()
    await steps(1)


@healthy("thread joined", like=thread_left_running)
async def thread_joined() -> None:
    """It is told to stop, and waited for."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, args=(30,), daemon=True)
    thread.start()
    try:
        await steps(1)
    finally:
        stop.set()
        thread.join()
