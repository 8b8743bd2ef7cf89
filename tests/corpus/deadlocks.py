"""Programs that stand still: everybody waits for somebody who waits.

Most hang in every order, and a test of them hangs until somebody kills the run; the kit says at once who waits for
what. Two hang only in some orders.
"""

from __future__ import annotations

import asyncio

import loopwright
from corpus import defect, healthy


async def steps(number: int) -> None:
    """Work that takes so many turns of the loop."""
    for _ in range(number):
        await asyncio.sleep(0)


@defect("locks taken in two orders", found_by="order", within=200)
async def locks_in_two_orders() -> None:
    """One transfer takes a then b, the other b then a; in asyncio's own order the first is over when the
    second starts.
    """
    a, b = asyncio.Lock(), asyncio.Lock()

    async def transfer(first: asyncio.Lock, second: asyncio.Lock, delay: int) -> None:
        await steps(delay)
        async with first:
            await steps(1)
            async with second:
                await steps(1)

    await asyncio.gather(transfer(a, b, 0), transfer(b, a, 6))


@healthy("locks taken in one order", like=locks_in_two_orders)
async def locks_in_one_order() -> None:
    """Whoever has the first waits for the second, never the other way round."""
    a, b = asyncio.Lock(), asyncio.Lock()

    async def transfer(delay: int) -> None:
        await steps(delay)
        async with a:
            await steps(1)
            async with b:
                await steps(1)

    await asyncio.gather(transfer(0), transfer(6))


@defect("a lock taken again by its owner", found_by="deadlock")
async def lock_taken_twice() -> None:
    """`save` holds the lock and calls `flush`, which takes it too; asyncio's lock is not reentrant."""
    lock = asyncio.Lock()

    async def flush() -> None:
        async with lock:
            await steps(1)

    async def save() -> None:
        async with lock:
            await flush()

    await save()


@healthy("the inner function expects the lock to be held", like=lock_taken_twice)
async def lock_taken_once() -> None:
    """Only the outer function takes it."""
    lock = asyncio.Lock()

    async def flush_locked() -> None:
        assert lock.locked()
        await steps(1)

    async def save() -> None:
        async with lock:
            await flush_locked()

    await asyncio.gather(save(), save())


@defect("queue.join() with an item that is never done", found_by="deadlock")
async def join_without_task_done() -> None:
    """The consumer returns early for an empty item, past `task_done`."""
    queue: asyncio.Queue[str] = asyncio.Queue()
    for item in ("a", "", "b"):
        queue.put_nowait(item)

    async def consumer() -> None:
        while True:
            item = await queue.get()
            if not item:
                continue
            await steps(1)
            queue.task_done()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(consumer())
        await queue.join()
        task.cancel()


@healthy("task_done in a finally after the get", like=join_without_task_done)
async def join_with_task_done() -> None:
    """Each item that was got is done, whatever became of it."""
    queue: asyncio.Queue[str] = asyncio.Queue()
    for item in ("a", "", "b"):
        queue.put_nowait(item)

    async def consumer() -> None:
        while True:
            item = await queue.get()
            try:
                if not item:
                    continue
                await steps(1)
            finally:
                queue.task_done()

    task = asyncio.create_task(consumer())
    try:
        joined = asyncio.create_task(queue.join())
        await asyncio.wait([task, joined], return_when=asyncio.FIRST_COMPLETED)
    finally:
        joined.cancel()
        task.cancel()
        await asyncio.gather(task, joined, return_exceptions=True)


@defect("one sentinel for three consumers", found_by="deadlock")
async def one_sentinel_for_three() -> None:
    """The first consumer takes it; the other two wait for ever."""
    queue: asyncio.Queue[int | None] = asyncio.Queue()

    async def consumer() -> None:
        while await queue.get() is not None:
            await steps(1)

    async def producer() -> None:
        for item in range(5):
            await queue.put(item)
        await queue.put(None)

    await asyncio.gather(producer(), consumer(), consumer(), consumer())


@healthy("a sentinel for each consumer", like=one_sentinel_for_three)
async def sentinel_for_each() -> None:
    """As many sentinels as consumers."""
    queue: asyncio.Queue[int | None] = asyncio.Queue()

    async def consumer() -> None:
        while await queue.get() is not None:
            await steps(1)

    async def producer() -> None:
        for item in range(5):
            await queue.put(item)
        for _ in range(3):
            await queue.put(None)

    await asyncio.gather(producer(), consumer(), consumer(), consumer())


@defect("two tasks that await each other", found_by="deadlock")
async def tasks_await_each_other() -> None:
    """Each stage waits for the other's result before it gives its own."""
    tasks: dict[str, asyncio.Task[None]] = {}

    async def stage(other: str) -> None:
        await steps(1)
        await asyncio.wait([tasks[other]])

    tasks["a"] = asyncio.create_task(stage("b"))
    tasks["b"] = asyncio.create_task(stage("a"))
    await asyncio.wait(tasks.values())


@defect("a semaphore held while its holder's children need it", found_by="deadlock")
async def semaphore_held_over_children() -> None:
    """Each page holds a permit while it fetches its links, which need a permit each."""
    permits = asyncio.Semaphore(2)

    async def fetch(depth: int) -> None:
        async with permits:
            await steps(1)
            if depth:
                await asyncio.gather(fetch(depth - 1), fetch(depth - 1))

    await asyncio.gather(fetch(1), fetch(1))


@healthy("the permit is given back before the children start", like=semaphore_held_over_children)
async def semaphore_free_for_children() -> None:
    """A permit is held for one fetch and no longer."""
    permits = asyncio.Semaphore(2)

    async def fetch(depth: int) -> None:
        async with permits:
            await steps(1)
        if depth:
            await asyncio.gather(fetch(depth - 1), fetch(depth - 1))

    await asyncio.gather(fetch(1), fetch(1))


@defect("the only reader of a full queue puts into it", found_by="deadlock")
async def reader_puts_into_its_full_queue() -> None:
    """A crawler's worker puts the links that it found into the bounded queue that only it reads."""
    queue: asyncio.Queue[int] = asyncio.Queue(maxsize=2)

    async def worker() -> None:
        for _ in range(3):
            page = await queue.get()
            for link in range(3):
                await queue.put(page + link)

    queue.put_nowait(0)
    await worker()


@defect("a future that the error path forgets", found_by="deadlock")
async def future_forgotten_on_error() -> None:
    """The reader resolves the request's future when the answer is good, and logs when it is not."""
    loop = asyncio.get_running_loop()
    pending: dict[int, asyncio.Future[str]] = {1: loop.create_future(), 2: loop.create_future()}
    log = []

    async def reader() -> None:
        for number, line in ((1, "ok fine"), (2, "err no such key")):
            await steps(1)
            status, _, text = line.partition(" ")
            if status == "ok":
                pending[number].set_result(text)
            else:
                log.append(text)

    await asyncio.gather(reader(), *pending.values())


@healthy("both paths resolve it", like=future_forgotten_on_error)
async def future_resolved_on_error() -> None:
    """An error is an answer too."""
    loop = asyncio.get_running_loop()
    pending: dict[int, asyncio.Future[str]] = {1: loop.create_future(), 2: loop.create_future()}

    async def reader() -> None:
        for number, line in ((1, "ok fine"), (2, "err no such key")):
            await steps(1)
            status, _, text = line.partition(" ")
            if pending[number].done():
                continue
            if status == "ok":
                pending[number].set_result(text)
            else:
                pending[number].set_exception(LookupError(text))

    answers = await asyncio.gather(reader(), *pending.values(), return_exceptions=True)
    assert isinstance(answers[2], LookupError)


@defect("an exception lost in create_task: its consumer waits for ever", found_by="deadlock")
async def producer_failed_unseen() -> None:
    """The producer dies in a task that nobody looks at; the consumer waits for items that will not come."""
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def producer() -> None:
        for item in ("1", "2", "three"):
            await queue.put(int(item))

    task = asyncio.create_task(producer())
    total = 0
    for _ in range(3):
        total += await queue.get()
    await task


@healthy("the end is told, whatever ended the producer", like=producer_failed_unseen)
async def producer_tells_its_end() -> None:
    """A sentinel in a `finally`; and somebody awaits the producer, and sees what it raised."""
    queue: asyncio.Queue[int | None] = asyncio.Queue()

    async def producer() -> None:
        try:
            for item in ("1", "2", "three"):
                await queue.put(int(item))
        finally:
            queue.put_nowait(None)

    async def consumer() -> None:
        while await queue.get() is not None:
            pass

    failed, _ = await asyncio.gather(producer(), consumer(), return_exceptions=True)
    assert isinstance(failed, ValueError)


@defect("a task that joins the group it belongs to", found_by="deadlock")
async def drain_waits_for_itself() -> None:
    """`drain` waits until no task is in flight, and is run as one of the tasks in flight."""
    in_flight: set[asyncio.Task[None]] = set()

    def start(work: object) -> None:
        task = asyncio.ensure_future(work)
        in_flight.add(task)
        task.add_done_callback(in_flight.discard)

    async def drain() -> None:
        while in_flight:
            await asyncio.wait(in_flight)

    start(steps(2))
    start(drain())
    await drain()


@defect("a Loopwright semaphore taken twice by one task", found_by="deadlock")
async def loopwright_permits_exhausted() -> None:
    """Two tasks hold one permit of two each, and each wants a second one."""
    permits = loopwright.Semaphore(2)

    async def copy() -> None:
        async with permits:  # to read
            await steps(1)
            async with permits:  # to write
                await steps(1)

    await asyncio.gather(copy(), copy())


@healthy("both permits are taken at once", like=loopwright_permits_exhausted)
async def loopwright_permits_taken_at_once() -> None:
    """`permit(2)` waits until both are free."""
    permits = loopwright.Semaphore(2)

    async def copy() -> None:
        async with permits.permit(2):
            await steps(2)

    await asyncio.gather(copy(), copy())
    assert permits.value == 2
