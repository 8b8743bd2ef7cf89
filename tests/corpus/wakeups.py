"""Wake-ups that get lost: an event cleared too late, a notification for the wrong waiter, a signal nobody looks at.

Like the races, each passes first in, first out. What goes wrong in another order is mostly that nobody ever wakes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import SimpleNamespace

from corpus import defect, healthy


async def steps(number: int) -> None:
    """Work that takes so many turns of the loop."""
    for _ in range(number):
        await asyncio.sleep(0)


@defect("event cleared after the wait: the signal in between is lost", found_by="order", within=200)
async def event_cleared_too_late() -> None:
    """The consumer empties the list, awaits, and clears the event: an item that came in the await is not seen."""
    items: list[int] = []
    arrived = asyncio.Event()
    got: list[int] = []

    async def consumer() -> None:
        while len(got) < 2:
            await arrived.wait()
            got.extend(items)
            items.clear()
            await steps(1)  # storing them
            arrived.clear()

    async def producer() -> None:
        for item in (1, 2):
            items.append(item)
            arrived.set()
            await steps(5)

    await asyncio.gather(consumer(), producer())


@healthy("cleared before the items are taken", like=event_cleared_too_late)
async def event_cleared_in_time() -> None:
    """Clear, then take: an item that comes later sets the event again."""
    items: list[int] = []
    arrived = asyncio.Event()
    got: list[int] = []

    async def consumer() -> None:
        while len(got) < 2:
            await arrived.wait()
            arrived.clear()
            got.extend(items)
            items.clear()
            await steps(1)

    async def producer() -> None:
        for item in (1, 2):
            items.append(item)
            arrived.set()
            await steps(5)

    await asyncio.gather(consumer(), producer())


@defect("lost wake-up: looked, then went to sleep", found_by="order", within=200)
async def slept_after_the_signal() -> None:
    """The sleeper finds nothing, awaits once more and only then leaves its future where the waker looks."""
    state = SimpleNamespace(ready=False, waiter=None)

    async def sleeper() -> None:
        if not state.ready:
            await steps(1)
            state.waiter = asyncio.get_running_loop().create_future()
            await state.waiter

    async def waker() -> None:
        await steps(4)
        state.ready = True
        if state.waiter is not None:
            state.waiter.set_result(None)

    await asyncio.gather(sleeper(), waker())


@healthy("looks and leaves its future in one step", like=slept_after_the_signal)
async def asleep_before_the_signal() -> None:
    """Nothing can happen between the look and the sleep."""
    state = SimpleNamespace(ready=False, waiter=None)

    async def sleeper() -> None:
        await steps(1)
        if not state.ready:
            state.waiter = asyncio.get_running_loop().create_future()
            await state.waiter

    async def waker() -> None:
        await steps(4)
        state.ready = True
        if state.waiter is not None and not state.waiter.done():
            state.waiter.set_result(None)

    await asyncio.gather(sleeper(), waker())


@defect("condition without while", found_by="order", within=200)
async def condition_asked_once() -> None:
    """`if not items: await wait()`: between the notification and the wake-up another consumer takes the item."""
    items: deque[int] = deque()
    filled = asyncio.Condition()
    got: list[int] = []

    async def consumer(delay: int) -> None:
        await steps(delay)
        async with filled:
            if not items:
                await filled.wait()
            got.append(items.popleft())

    async def producer() -> None:
        await steps(3)
        for item in (1, 2):
            async with filled:
                items.append(item)
                filled.notify()
            await steps(6)

    await asyncio.gather(consumer(0), consumer(8), producer())
    assert sorted(got) == [1, 2]


@healthy("condition with wait_for", like=condition_asked_once)
async def condition_asked_again() -> None:
    """`wait_for` looks again after each wake-up, and `notify_all` wakes everybody who may look."""
    items: deque[int] = deque()
    filled = asyncio.Condition()
    got: list[int] = []

    async def consumer(delay: int) -> None:
        await steps(delay)
        async with filled:
            await filled.wait_for(lambda: items)
            got.append(items.popleft())

    async def producer() -> None:
        await steps(3)
        for item in (1, 2):
            async with filled:
                items.append(item)
                filled.notify_all()
            await steps(6)

    await asyncio.gather(consumer(0), consumer(8), producer())
    assert sorted(got) == [1, 2]


@defect("notify wakes the wrong kind of waiter", found_by="order", within=200)
async def notified_the_wrong_waiter() -> None:
    """Getters and putters of a buffer of one share a condition, and `notify()` wakes whoever came first."""
    buffer: list[int] = []
    changed = asyncio.Condition()

    async def put(item: int, delay: int) -> None:
        await steps(delay)
        async with changed:
            await changed.wait_for(lambda: not buffer)
            buffer.append(item)
            changed.notify()

    async def get(delay: int) -> None:
        await steps(delay)
        async with changed:
            await changed.wait_for(lambda: buffer)
            buffer.pop()
            changed.notify()

    await asyncio.gather(get(0), get(1), put(1, 6), put(2, 12))


@healthy("notify_all where kinds of waiters differ", like=notified_the_wrong_waiter)
async def notified_all_waiters() -> None:
    """Everybody looks for himself."""
    buffer: list[int] = []
    changed = asyncio.Condition()

    async def put(item: int, delay: int) -> None:
        await steps(delay)
        async with changed:
            await changed.wait_for(lambda: not buffer)
            buffer.append(item)
            changed.notify_all()

    async def get(delay: int) -> None:
        await steps(delay)
        async with changed:
            await changed.wait_for(lambda: buffer)
            buffer.pop()
            changed.notify_all()

    await asyncio.gather(get(0), get(1), put(1, 6), put(2, 12))


@defect("barrier miscounted", found_by="order", within=200)
async def barrier_used_again_too_early() -> None:
    """The home-made barrier resets itself when the last comes; a fast one enters round two before a slow one left."""
    gate = SimpleNamespace(arrived=0, open=asyncio.Event())

    async def arrive() -> None:
        gate.arrived += 1
        if gate.arrived == 2:
            gate.open.set()
        await gate.open.wait()
        gate.arrived -= 1
        await steps(1)
        if gate.arrived == 0:
            gate.open.clear()

    passed = []

    async def worker(name: str, delay: int) -> None:
        for turn in range(2):
            await steps(delay)
            passed.append((turn, name, "in"))
            await arrive()
            passed.append((turn, name, "out"))
            await steps(3)

    await asyncio.gather(worker("a", 0), worker("b", 1))
    for name, other in (("a", "b"), ("b", "a")):
        assert passed.index((1, name, "out")) > passed.index((1, other, "in"))


@healthy("asyncio.Barrier", like=barrier_used_again_too_early)
async def barrier_of_asyncio() -> None:
    """It lets nobody into the next round before the last one has been filled and drained."""
    gate = asyncio.Barrier(2)
    passed = []

    async def worker(name: str, delay: int) -> None:
        for turn in range(2):
            await steps(delay)
            passed.append((turn, name, "in"))
            await gate.wait()
            passed.append((turn, name, "out"))
            await steps(3)

    await asyncio.gather(worker("a", 0), worker("b", 1))
    for name, other in (("a", "b"), ("b", "a")):
        assert passed.index((1, name, "out")) > passed.index((1, other, "in"))


@defect("signal of shutdown lost", found_by="order", within=200)
async def shutdown_not_seen_in_get() -> None:
    """`while not stop.is_set(): await queue.get()`: stop set after the look leaves the worker in `get` for ever."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    stop = asyncio.Event()
    done = []

    async def worker() -> None:
        while not stop.is_set():
            done.append(await queue.get())
            await steps(2)

    async def service() -> None:
        queue.put_nowait(1)
        await steps(2)
        stop.set()

    await asyncio.gather(worker(), service())


@healthy("the end of the work travels through the queue", like=shutdown_not_seen_in_get)
async def shutdown_through_the_queue() -> None:
    """A sentinel behind the last item: whoever waits in `get` gets it."""
    queue: asyncio.Queue[int | None] = asyncio.Queue()
    done = []

    async def worker() -> None:
        while (item := await queue.get()) is not None:
            done.append(item)
            await steps(2)

    async def service() -> None:
        queue.put_nowait(1)
        await steps(2)
        queue.put_nowait(None)

    await asyncio.gather(worker(), service())
    assert done == [1]


@defect("the number of waiters counted before they wait", found_by="order", within=200)
async def woke_those_who_were_there() -> None:
    """The waker releases as many as are waiting now; the one who is just about to wait is never released."""
    waiting: list[asyncio.Future[None]] = []

    async def wait(delay: int) -> None:
        await steps(delay)
        waiter = asyncio.get_running_loop().create_future()
        waiting.append(waiter)
        await waiter

    async def release_all() -> None:
        await steps(4)
        for waiter in waiting:
            waiter.set_result(None)

    await asyncio.gather(wait(0), wait(2), release_all())


@healthy("an event stays set", like=woke_those_who_were_there)
async def event_stays_set() -> None:
    """Whoever comes late passes."""
    opened = asyncio.Event()

    async def wait(delay: int) -> None:
        await steps(delay)
        await opened.wait()

    async def release_all() -> None:
        await steps(4)
        opened.set()

    await asyncio.gather(wait(0), wait(2), release_all())
