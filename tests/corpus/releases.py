"""Things that a cancel leaves taken, or gives back twice: permits, locks, connections, items, descriptors.

Between taking a thing and entering the `try` that gives it back there must be no await.
"""

from __future__ import annotations

import asyncio
import os
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import loopwright
from corpus import defect, healthy

if TYPE_CHECKING:
    from loopwright.testing import Play


async def steps(number: int) -> None:
    """Work that takes so many turns of the loop."""
    for _ in range(number):
        await asyncio.sleep(0)


@defect("permit leaked", found_by="sweep")
async def permit_leaked(play: Play) -> None:
    """An await between `acquire` and `try`."""
    permits = asyncio.Semaphore(2)

    async def worker() -> None:
        await permits.acquire()
        await steps(1)  # "connected" is logged first
        try:
            await steps(1)
        finally:
            permits.release()

    for name in "ab":
        play.spawn(worker(), name=name)
    await play.finished()
    await permits.acquire()
    await permits.acquire()


@healthy("async with", like=permit_leaked)
async def permit_kept_by_async_with(play: Play) -> None:
    """Nothing comes between taking and the block that gives back."""
    permits = asyncio.Semaphore(2)

    async def worker() -> None:
        async with permits:
            await steps(2)

    for name in "ab":
        play.spawn(worker(), name=name)
    await play.finished()
    await permits.acquire()
    await permits.acquire()


@defect("lock leaked", found_by="sweep")
async def lock_leaked(play: Play) -> None:
    """Released at the end of the happy path only: the next one waits for ever."""
    lock = asyncio.Lock()

    async def worker() -> None:
        await lock.acquire()
        await steps(2)
        lock.release()

    for name in "ab":
        play.spawn(worker(), name=name)
    await play.finished()


@defect("connection leaked", found_by="sweep")
async def connection_leaked(play: Play) -> None:
    """The pool checks the connection with a ping before it hands it out, and forgets it when cancelled there."""
    pool: asyncio.Queue[str] = asyncio.Queue()
    pool.put_nowait("connection")

    async def acquire() -> str:
        connection = await pool.get()
        await steps(1)  # the ping
        return connection

    async def client() -> None:
        connection = await acquire()
        try:
            await steps(1)
        finally:
            pool.put_nowait(connection)

    for name in "ab":
        play.spawn(client(), name=name)
    await play.finished()


@healthy("given back when the check is cancelled", like=connection_leaked)
async def connection_given_back(play: Play) -> None:
    """The ping stands in a `try` of its own."""
    pool: asyncio.Queue[str] = asyncio.Queue()
    pool.put_nowait("connection")

    async def acquire() -> str:
        connection = await pool.get()
        try:
            await steps(1)
        except BaseException:
            pool.put_nowait(connection)
            raise
        return connection

    async def client() -> None:
        connection = await acquire()
        try:
            await steps(1)
        finally:
            pool.put_nowait(connection)

    for name in "ab":
        play.spawn(client(), name=name)
    await play.finished()
    assert pool.qsize() == 1


@defect("item lost", found_by="sweep")
async def item_lost(play: Play) -> None:
    """Taken from the queue, and gone when the cancel comes before it is stored."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    for item in range(3):
        queue.put_nowait(item)
    stored = []

    async def consumer() -> None:
        while not queue.empty():
            item = await queue.get()
            await steps(1)
            stored.append(item)

    play.spawn(consumer(), name="consumer")
    await play.finished()
    assert len(stored) + queue.qsize() == 3


@healthy("put back when it could not be stored", like=item_lost)
async def item_put_back(play: Play) -> None:
    """Whoever takes an item answers for it."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    for item in range(3):
        queue.put_nowait(item)
    stored = []

    async def consumer() -> None:
        while not queue.empty():
            item = await queue.get()
            try:
                await steps(1)
            except BaseException:
                queue.put_nowait(item)
                raise
            stored.append(item)

    play.spawn(consumer(), name="consumer")
    await play.finished()
    assert len(stored) + queue.qsize() == 3


@defect("descriptor leaked", found_by="sweep")
async def descriptor_leaked(play: Play) -> None:
    """Closed at the end of the happy path only."""
    opened: list[int] = []

    async def reader() -> None:
        descriptor = os.open(os.devnull, os.O_RDONLY)
        opened.append(descriptor)
        await steps(2)
        os.close(descriptor)
        opened.remove(descriptor)

    play.spawn(reader(), name="reader")
    await play.finished()
    left = opened.copy()
    for descriptor in left:  # so that a thousand runs do not run out of them
        os.close(descriptor)
    assert not left


@healthy("closed in a finally", like=descriptor_leaked)
async def descriptor_closed(play: Play) -> None:
    """Open, then `try` at once."""
    opened: list[int] = []

    async def reader() -> None:
        descriptor = os.open(os.devnull, os.O_RDONLY)
        opened.append(descriptor)
        try:
            await steps(2)
        finally:
            os.close(descriptor)
            opened.remove(descriptor)

    play.spawn(reader(), name="reader")
    await play.finished()
    assert not opened


@defect("clean-up that a second cancel cuts short", found_by="sweep")
async def second_cancel_in_the_clean_up(play: Play) -> None:
    """One cancel is handled well; a second one, inside the `finally`, jumps over the release."""
    permits = asyncio.Semaphore(1)

    async def worker() -> None:
        await permits.acquire()
        try:
            await steps(2)
        finally:
            await steps(2)  # flushing
            permits.release()

    play.spawn(worker(), name="worker")
    await play.finished()
    assert not permits.locked()


@healthy("what must not fail comes in a finally of its own", like=second_cancel_in_the_clean_up)
async def second_cancel_survived(play: Play) -> None:
    """The flush may be cut short; the release may not."""
    permits = asyncio.Semaphore(1)

    async def worker() -> None:
        async with permits:
            try:
                await steps(2)
            finally:
                await steps(2)

    play.spawn(worker(), name="worker")
    await play.finished()
    assert not permits.locked()


@defect("permit given to a task that never starts", found_by="sweep")
async def permit_of_a_task_never_started(play: Play) -> None:
    """Taken by the parent, to be released in the child's `finally`; cancelled before its first step, it has none."""
    permits = asyncio.Semaphore(1)

    async def child() -> None:
        try:
            await steps(1)
        finally:
            permits.release()

    await permits.acquire()
    play.spawn(child(), name="child")
    await play.finished()
    assert not permits.locked()


@healthy("released by a done callback", like=permit_of_a_task_never_started)
async def permit_released_by_a_callback(play: Play) -> None:
    """A task's callback runs however it ends, started or not."""
    permits = asyncio.Semaphore(1)

    async def child() -> None:
        await steps(1)

    await permits.acquire()
    task = play.spawn(child(), name="child")
    task.add_done_callback(lambda _: permits.release())
    await play.finished()
    await steps(1)
    assert not permits.locked()


@defect("double release", found_by="sweep")
async def released_twice(play: Play) -> None:
    """In the handler of the cancel, and again in the `finally`: from now on two may enter."""
    permits = asyncio.Semaphore(1)
    inside = SimpleNamespace(now=0, most=0)

    async def worker() -> None:
        await permits.acquire()
        try:
            inside.now += 1
            inside.most = max(inside.most, inside.now)
            await steps(2)
        except asyncio.CancelledError:
            permits.release()
            raise
        finally:
            inside.now -= 1
            permits.release()

    for name in "abc":
        play.spawn(worker(), name=name)
    await play.finished()
    assert inside.most == 1


@healthy("released once", like=released_twice)
async def released_once(play: Play) -> None:
    """One acquire, one `finally`, one release."""
    permits = asyncio.Semaphore(1)
    inside = SimpleNamespace(now=0, most=0)

    async def worker() -> None:
        await permits.acquire()
        try:
            inside.now += 1
            inside.most = max(inside.most, inside.now)
            await steps(2)
        finally:
            inside.now -= 1
            permits.release()

    for name in "abc":
        play.spawn(worker(), name=name)
    await play.finished()
    assert inside.most == 1


@defect("double close", found_by="sweep")
async def closed_twice(play: Play) -> None:
    """Closed by the handler and by the `finally`; the second close hits a descriptor that may be somebody else's."""
    closes = []

    async def reader() -> None:
        try:
            await steps(2)
        except BaseException:
            closes.append("handler")
            raise
        finally:
            closes.append("finally")

    play.spawn(reader(), name="reader")
    await play.finished()
    assert len(closes) <= 1


@defect("task_done for an item that never came", found_by="sweep")
async def task_done_without_an_item(play: Play) -> None:
    """`finally: task_done()` around the `get` too: cancelled in `get`, it raises ValueError instead of the cancel."""
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def consumer() -> None:
        for _ in range(2):
            try:
                await queue.get()
                await steps(1)
            finally:
                queue.task_done()

    async def producer() -> None:
        for item in range(2):
            await steps(2)
            queue.put_nowait(item)

    play.spawn(consumer(), name="consumer")
    await producer()
    await play.finished()


@defect("a gauge that never comes down", found_by="sweep")
async def in_flight_never_decremented(play: Play) -> None:
    """`in_flight -= 1` stands behind an await without `finally`; whoever drains waits for zero."""
    server = SimpleNamespace(in_flight=0)

    async def handle() -> None:
        server.in_flight += 1
        await steps(2)
        server.in_flight -= 1

    for name in "ab":
        play.spawn(handle(), name=name)
    await play.finished()
    assert server.in_flight == 0


@defect("a thread that works on what the cancel has closed", found_by="sweep")
async def executor_outlives_the_cancel(play: Play) -> None:
    """A cancel ends the wait for the thread, not the thread; the `finally` closes the file that it writes."""
    trouble: list[str] = []
    go_on = threading.Event()

    async def export() -> None:
        file = SimpleNamespace(closed=False)

        def write() -> None:
            go_on.wait(5)
            if file.closed:
                trouble.append("written to a closed file")

        work = asyncio.get_running_loop().run_in_executor(None, write)
        work.add_done_callback(lambda _: None)
        try:
            await asyncio.sleep(0)
            go_on_later()
            await work
        finally:
            file.closed = True
            go_on.set()

    def go_on_later() -> None:
        asyncio.get_running_loop().call_later(0.02, go_on.set)

    play.spawn(export(), name="export")
    await play.finished()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert not trouble


@healthy("the file is closed when the thread is done with it", like=executor_outlives_the_cancel)
async def executor_waited_for(play: Play) -> None:
    """`finish` ends the work whatever cancels come, and passes the cancel on afterwards."""
    trouble: list[str] = []

    async def export() -> None:
        file = SimpleNamespace(closed=False)

        def write() -> None:
            if file.closed:
                trouble.append("written to a closed file")

        async def work() -> None:
            await asyncio.get_running_loop().run_in_executor(None, write)

        try:
            await loopwright.finish(work())
        finally:
            file.closed = True

    play.spawn(export(), name="export")
    await play.finished()
    assert not trouble


@defect("a Loopwright permit leaked", found_by="sweep")
async def loopwright_permit_leaked(play: Play) -> None:
    """Our semaphore cannot help it either: an await between `acquire` and `try`."""
    permits = loopwright.Semaphore(1)

    async def worker() -> None:
        await permits.acquire()
        await steps(1)
        try:
            await steps(1)
        finally:
            permits.release()

    play.spawn(worker(), name="worker")
    await play.finished()
    assert permits.value == 1


@healthy("a Loopwright permit in async with", like=loopwright_permit_leaked)
async def loopwright_permit_kept(play: Play) -> None:
    """Taken and guarded in one step."""
    permits = loopwright.Semaphore(1)

    async def worker() -> None:
        async with permits:
            await steps(2)

    play.spawn(worker(), name="worker")
    await play.finished()
    assert permits.value == 1
