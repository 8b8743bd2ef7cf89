"""Locks, events, conditions, barriers, semaphores, queues: what is documented of their order, and no more.

Nothing is documented of the order in which a Queue's or a Semaphore's waiters get their turn, so nothing here asks.
"""

from __future__ import annotations

import asyncio


async def a_lock_is_fair() -> None:
    """Docs: "Acquiring a lock is fair: the coroutine that proceeds will be the first coroutine that started waiting on
    the lock."
    """
    lock, started, proceeded = asyncio.Lock(), [], []

    async def work(name: str) -> None:
        started.append(name)  # no await between this and the start of the wait
        async with lock:
            proceeded.append(name)

    async with lock:
        tasks = [asyncio.create_task(work(name)) for name in "abc"]
        while len(started) < 3:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert proceeded == started


async def a_lock_lets_one_proceed() -> None:
    """Docs: "When more than one coroutine is blocked in acquire(), waiting for the lock to be unlocked, only one
    coroutine eventually proceeds."
    """
    lock, inside = asyncio.Lock(), []

    async def work(name: str) -> None:
        async with lock:
            inside.append(name)
            await asyncio.sleep(0)
            assert inside == [name]
            inside.clear()

    await asyncio.gather(*[work(name) for name in "abcd"])


async def set_awakens_every_waiter() -> None:
    """Event.set(): "All tasks waiting for event to be set will be immediately awakened." """
    event, awake = asyncio.Event(), []

    async def work(name: str) -> None:
        assert await event.wait() is True
        awake.append(name)

    tasks = [asyncio.create_task(work(name)) for name in "abc"]
    await asyncio.sleep(1)
    event.set()
    event.clear()
    await asyncio.gather(*tasks)
    assert sorted(awake) == ["a", "b", "c"]


async def a_set_event_does_not_block() -> None:
    """Event.wait(): "If the event is set, return True immediately." """
    event, order = asyncio.Event(), []
    event.set()

    async def work(name: str) -> None:
        order.append(name)
        await event.wait()
        order.append(name)

    await asyncio.gather(work("a"), work("b"))
    assert order in (["a", "a", "b", "b"], ["b", "b", "a", "a"])


async def notify_wakes_so_many() -> None:
    """Condition.notify(n): "Wake up n tasks (1 by default) waiting on this condition." """
    condition, awake = asyncio.Condition(), []

    async def work(name: str) -> None:
        async with condition:
            await condition.wait()
            awake.append(name)

    tasks = [asyncio.create_task(work(name)) for name in "abcd"]
    await asyncio.sleep(1)
    async with condition:
        condition.notify(2)
    await asyncio.sleep(1)
    assert len(awake) == 2
    async with condition:
        condition.notify_all()
    await asyncio.gather(*tasks)
    assert len(awake) == 4


async def a_condition_holds_its_lock_when_it_wakes() -> None:
    """Condition.wait(): "Once awakened, the Condition re-acquires its lock and this method returns True." """
    condition, inside = asyncio.Condition(), []

    async def work(name: str) -> None:
        async with condition:
            assert await condition.wait() is True
            inside.append(name)
            await asyncio.sleep(0)
            assert inside == [name]
            inside.clear()

    tasks = [asyncio.create_task(work(name)) for name in "abc"]
    await asyncio.sleep(1)
    async with condition:
        condition.notify_all()
    await asyncio.gather(*tasks)


async def wait_for_returns_a_true_predicate() -> None:
    """Condition.wait_for(): "The method will repeatedly wait() until the predicate evaluates to true." """
    condition, count = asyncio.Condition(), 0

    async def count_up() -> None:
        nonlocal count
        for _ in range(3):
            async with condition:
                count += 1
                condition.notify_all()
            await asyncio.sleep(0)

    async def wait_for(number: int) -> None:
        async with condition:
            await condition.wait_for(lambda: count >= number)
            assert count >= number

    await asyncio.gather(wait_for(2), wait_for(3), count_up())


async def a_barrier_gives_each_its_own_index() -> None:
    """Barrier.wait(): "The return value is an integer in the range of 0 to parties-1, different for each task." """
    barrier = asyncio.Barrier(3)

    async def work() -> list[int]:
        return [await barrier.wait() for _ in range(2)]

    rounds = await asyncio.gather(work(), work(), work())
    assert sorted(index for index, _ in rounds) == [0, 1, 2]
    assert sorted(index for _, index in rounds) == [0, 1, 2]


async def a_barrier_passes_when_all_have_come() -> None:
    """Barrier.wait(): "When all the tasks party to the barrier have called this function, they are all unblocked
    simultaneously."
    """
    barrier, arrived = asyncio.Barrier(3), []

    async def work(name: str, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        arrived.append(name)
        await barrier.wait()
        assert len(arrived) == 3

    await asyncio.gather(work("a", 0), work("b", 2), work("c", 4))


async def a_semaphore_is_never_below_zero() -> None:
    """Docs: "The counter can never go below zero; when acquire() finds that it is zero, it blocks, waiting until some
    task calls release()."
    """
    semaphore, inside = asyncio.Semaphore(2), 0

    async def work() -> None:
        nonlocal inside
        async with semaphore:
            inside += 1
            assert inside <= 2
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*[work() for _ in range(5)])


async def a_queue_is_first_in_first_out() -> None:
    """Docs: "A first in, first out (FIFO) queue." With one getter that is what it sees."""
    queue: asyncio.Queue[int] = asyncio.Queue(maxsize=2)

    async def put() -> None:
        for item in range(6):
            await queue.put(item)

    async def get() -> list[int]:
        return [await queue.get() for _ in range(6)]

    _, got = await asyncio.gather(put(), get())
    assert got == list(range(6))


async def a_priority_queue_gives_the_lowest_first() -> None:
    """Docs: "Retrieves entries in priority order (lowest first)": of those that are there when it is asked."""
    loop, seen = asyncio.get_running_loop(), []
    queue: asyncio.PriorityQueue[int] = asyncio.PriorityQueue()
    done = loop.create_future()
    for item in (3, 2):
        loop.call_soon(queue.put_nowait, item)
    loop.call_soon(lambda: seen.append(queue.get_nowait()))
    loop.call_soon(queue.put_nowait, 1)
    loop.call_soon(lambda: seen.append(queue.get_nowait()))
    loop.call_soon(done.set_result, None)
    await done
    assert seen == [2, 1]


async def a_lifo_queue_gives_the_latest_first() -> None:
    """Docs: "Retrieves most recently added entries first (last in, first out)." """
    loop, seen = asyncio.get_running_loop(), []
    queue: asyncio.LifoQueue[int] = asyncio.LifoQueue()
    done = loop.create_future()
    for item in (1, 2):
        loop.call_soon(queue.put_nowait, item)
    loop.call_soon(lambda: seen.append(queue.get_nowait()))
    loop.call_soon(queue.put_nowait, 3)
    for _ in range(2):
        loop.call_soon(lambda: seen.append(queue.get_nowait()))
    loop.call_soon(done.set_result, None)
    await done
    assert seen == [2, 3, 1]


async def join_waits_for_every_item() -> None:
    """Queue.join(): "Block until all items in the queue have been received and processed." """
    queue: asyncio.Queue[int] = asyncio.Queue()
    processed = []

    async def work() -> None:
        while True:
            item = await queue.get()
            await asyncio.sleep(0)
            processed.append(item)
            queue.task_done()

    tasks = [asyncio.create_task(work()) for _ in range(2)]
    for item in range(4):
        queue.put_nowait(item)
    await queue.join()
    assert sorted(processed) == [0, 1, 2, 3]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def callbacks_put_in_order() -> None:
    """Docs: "Callbacks are called in the order in which they are registered", and a Queue is "first in, first out"."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    for item in range(4):
        asyncio.get_running_loop().call_soon(queue.put_nowait, item)
    assert [await queue.get() for _ in range(4)] == [0, 1, 2, 3]


async def set_and_cleared_by_callbacks() -> None:
    """Docs: "Callbacks are called in the order in which they are registered": set, then cleared; every waiter is
    awakened.
    """
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    tasks = [asyncio.create_task(event.wait()) for _ in range(3)]
    await asyncio.sleep(1)
    loop.call_soon(event.set)
    loop.call_soon(event.clear)
    await asyncio.gather(*tasks)
    done = loop.create_future()
    loop.call_soon(done.set_result, None)
    await done
    assert not event.is_set()


async def a_bounded_semaphore_released_by_callbacks() -> None:
    """BoundedSemaphore: "Raises a ValueError in release() if it increases the internal counter above the initial
    value", and callbacks run "in the order in which they are registered".
    """
    loop, permits, seen = asyncio.get_running_loop(), asyncio.BoundedSemaphore(1), []
    await permits.acquire()

    def release(name: str) -> None:
        try:
            permits.release()
        except ValueError:
            seen.append(name)

    done = loop.create_future()
    for name in ("right", "once too often"):
        loop.call_soon(release, name)
    loop.call_soon(done.set_result, None)
    await done
    assert seen == ["once too often"]


async def a_queue_filled_and_emptied_by_callbacks() -> None:
    """put_nowait(): "If no free slot is immediately available, raise QueueFull", get_nowait(): "Return an item if one
    is immediately available, else raise QueueEmpty"; callbacks run "in the order in which they are registered".
    """
    loop, seen = asyncio.get_running_loop(), []
    queue: asyncio.Queue[int] = asyncio.Queue(maxsize=1)
    done = loop.create_future()

    def get() -> None:
        try:
            seen.append(queue.get_nowait())
        except asyncio.QueueEmpty:
            seen.append("empty")

    def put(item: int) -> None:
        try:
            queue.put_nowait(item)
        except asyncio.QueueFull:
            seen.append("full")

    for call in (get, lambda: put(1), lambda: put(2), get, get):
        loop.call_soon(call)
    loop.call_soon(done.set_result, None)
    await done
    assert seen == ["empty", "full", 1, "empty"]


async def task_done_after_the_put() -> None:
    """task_done(): "Raises ValueError if called more times than there were items placed in the queue", and callbacks
    run "in the order in which they are registered".
    """
    loop, seen = asyncio.get_running_loop(), []
    queue: asyncio.Queue[int] = asyncio.Queue()

    def finish() -> None:
        try:
            queue.task_done()
            seen.append("done")
        except ValueError:
            seen.append("too often")

    loop.call_soon(queue.put_nowait, 1)
    loop.call_soon(finish)
    loop.call_soon(finish)
    loop.call_soon(queue.put_nowait, 2)
    loop.call_soon(finish)
    done = loop.create_future()
    loop.call_soon(done.set_result, None)
    await done
    await queue.join()
    assert seen == ["done", "too often", "done"]
