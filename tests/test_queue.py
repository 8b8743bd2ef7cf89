"""Queue, PriorityQueue, LifoQueue: promise 6 of DESIGN section 5, and asyncio's contract.

Items got + items left = items put, in order, whatever is cancelled when and how; nobody sleeps beside an item or a free
place; shutdown wakes all; join is exact.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import heapq
import math
import pickle
import random
import sys
import weakref
from collections.abc import Awaitable, Callable
from types import GenericAlias
from typing import Any

import anyio
import pytest
from support.cancels import EVERY_STEP, cancels, in_cell
from support.loops import PLAIN, Cell, run

import loopwright
from loopwright import LifoQueue, LoopMismatch, PriorityQueue, Queue, QueueShutDown, QueueStats
from loopwright.testing import Play, cancel_sweep, random_cancels

CLASSES = [Queue, PriorityQueue, LifoQueue]
each_class = pytest.mark.parametrize("make", CLASSES)


def left(queue: Queue[Any]) -> list[Any]:
    """Drains a queue."""
    items = []
    while not queue.empty():
        items.append(queue.get_nowait())
    return items


async def turns(n: int = 3) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


# ---------------------------------------------------------------------------------------------------- cancels, swept


def native(_play: Play, work: Callable[[], Awaitable[None]]) -> tuple[Any, dict[str, Any]]:
    return work(), {}


def by_timeout(play: Play, work: Callable[[], Awaitable[None]]) -> tuple[Any, dict[str, Any]]:
    """The cancel comes from ``asyncio.timeout``."""
    entered: list[asyncio.Timeout] = []

    async def limited() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None) as timeout:
                entered.append(timeout)
                await work()

    def cancel() -> bool:
        if not entered or entered[0].when() is not None:
            return False
        entered[0].reschedule(play.loop.time())
        return True

    return limited(), {"cancel": cancel}


def by_scope(_play: Play, work: Callable[[], Awaitable[None]]) -> tuple[Any, dict[str, Any]]:
    """The cancel comes from an anyio scope, which repeats it at every await."""
    entered: list[anyio.CancelScope] = []

    async def scoped() -> None:
        with anyio.CancelScope() as scope:
            entered.append(scope)
            await work()

    def cancel() -> bool:
        if not entered or entered[0].cancel_called:
            return False
        entered[0].cancel()
        return True

    return scoped(), {"cancel": cancel}


HOWS = {"native": native, "timeout": by_timeout, "scope": by_scope}


def traffic(  # noqa: PLR0915 (one scene, all its actors)
    make: type[Queue[Any]], how: str = "native"
) -> Callable[[Play], Awaitable[None]]:
    """Producers and consumers of every kind at one small queue; whoever is cancelled, the items are accounted for."""
    wrap = HOWS[how]

    async def queue_keeps_its_items(play: Play) -> None:  # noqa: PLR0915
        rng = play.rng
        queue = make(rng.choice((0, 1, 1, 2, 3)))
        put: list[tuple[int, int]] = []
        got: list[tuple[int, int]] = []

        async def producer(name: int) -> None:
            for n in range(rng.randint(1, 4)):
                await play.pause(2)
                item = (name, n)
                full = queue.full()
                try:
                    if rng.random() < 0.2:
                        queue.put_nowait(item)
                        assert not full
                    else:
                        await queue.put(item)
                except asyncio.QueueFull:
                    assert full
                except QueueShutDown:
                    return
                else:
                    put.append(item)

        async def consumer() -> None:
            try:
                while True:
                    await play.pause(2)
                    if rng.random() < 0.2:
                        with contextlib.suppress(asyncio.QueueEmpty):
                            empty = queue.empty()
                            item = queue.get_nowait()
                            assert not empty
                            got.append(item)
                            queue.task_done()
                    else:
                        got.append(await queue.get())
                        queue.task_done()
            except QueueShutDown:
                pass

        async def iterator() -> None:
            async for item in queue:
                got.append(item)
                queue.task_done()
                await play.pause(1)

        async def joiner() -> None:
            await queue.join()

        def spawn(work: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
            coroutine, options = wrap(play, work)
            return play.spawn(coroutine, name=name, **options)

        consumers = [spawn(rng.choice((consumer, iterator)), f"consumer-{n}") for n in range(rng.randint(1, 3))]
        producers = [spawn(lambda n=n: producer(n), f"producer-{n}") for n in range(rng.randint(1, 4))]
        joiners = [spawn(joiner, f"joiner-{n}") for n in range(rng.randint(0, 2))]
        drained: list[tuple[int, int]] = []
        while not all(task.done() for task in producers):
            await asyncio.sleep(0)
            if rng.random() < 0.005:
                break
            while all(task.done() for task in consumers) and not queue.empty():
                got.append(queue.get_nowait())  # they were cancelled: take their part
                queue.task_done()
        if rng.random() < 0.3:
            stored = queue.stats()
            queue.shutdown(immediate=True)
            assert queue.empty() and queue.stats().size == 0
            drained = put[len(got) :] if make is Queue else sorted(set(put) - set(got))
            assert len(drained) <= stored.size
        else:
            queue.shutdown()
        while not all(task.done() for task in [*consumers, *producers, *joiners]):
            await asyncio.sleep(0)
            if all(task.done() for task in consumers):
                for item in left(queue):
                    got.append(item)
                    queue.task_done()
        await play.finished()
        rest = left(queue)
        if make is Queue:
            assert got + drained + rest == put
        else:
            assert sorted(got + drained + rest) == sorted(put)
        stats = queue.stats()
        assert (stats.getters, stats.putters, stats.joiners, stats.size) == (0, 0, 0, 0)
        assert (stats.put, stats.unfinished) == (len(put), len(rest))

    queue_keeps_its_items.__qualname__ = f"{make.__name__} under cancels, {how}"
    return queue_keeps_its_items


SHARES = {("native", Queue): 0.5, ("native", PriorityQueue): 0.1, ("native", LifoQueue): 0.1}


@each_class
@pytest.mark.parametrize("how", HOWS)
def test_promise_6_items_got_and_left_are_items_put_under_random_cancels(make: type[Queue[Any]], how: str) -> None:
    random_cancels(traffic(make, how), cancels(share=SHARES.get((how, make), 0.05)), seed=6, level="task")


def test_promise_6_in_every_cell(cell: Cell) -> None:
    if cell != PLAIN:
        random_cancels(traffic(Queue), cancels(cell=cell), seed=7, level="task", **in_cell(cell))


async def getters_and_an_item(play: Play) -> None:
    """Getters a, b, c wait; two items come; in order, whoever is cancelled."""
    queue: Queue[int] = Queue()
    got: list[int] = []

    async def getter() -> None:
        got.append(await queue.get())

    async def putter() -> None:
        await turns(2)
        queue.put_nowait(1)
        queue.put_nowait(2)
        await queue.put(3)

    for name in "abc":
        play.spawn(getter(), name=name)
    putting = play.spawn(putter(), name="putter")
    await asyncio.wait([putting])
    for item in range(queue.stats().put + 1, 4):  # what it was kept from
        queue.put_nowait(item)
    await play.finished()
    assert got + left(queue) == [1, 2, 3]


async def one_item_and_two_getters(play: Play) -> None:
    """Nothing comes after the one item: whoever is cancelled, a getter that lives has it."""
    queue: Queue[int] = Queue()
    got: list[int] = []

    async def getter() -> None:
        got.append(await queue.get())

    async def putter() -> None:
        await turns(2)
        queue.put_nowait(1)

    for name in "ab":
        play.spawn(getter(), name=name)
    putting = play.spawn(putter(), name="putter", catches=True)
    await asyncio.wait([putting])
    await turns(8)
    rest = left(queue)
    assert got + rest == [1]
    assert not rest or all(play.tasks[name].done() for name in "ab"), "a getter sleeps beside an item"
    for name in "ab":
        play.tasks[name].cancel()
    await play.finished()


async def putters_and_a_place(play: Play) -> None:
    """Putters a, b, c wait at a full queue; two places come free."""
    queue: Queue[str] = Queue(1)
    queue.put_nowait("first")
    put = ["first"]
    got: list[str] = []

    async def putter(name: str) -> None:
        await queue.put(name)
        put.append(name)

    async def getter() -> None:
        await turns(2)
        got.append(queue.get_nowait())
        await turns(1)
        got.append(await queue.get())

    for name in "abc":
        play.spawn(putter(name), name=name)
    play.spawn(getter(), name="getter")
    while not all(task.done() for task in play.tasks.values()):
        await asyncio.sleep(0)
        if play.tasks["getter"].done():
            got.extend(left(queue))
    got.extend(left(queue))
    assert got == put
    assert put == sorted(put, key="first abc".find)


async def producer_and_consumer(play: Play) -> None:
    queue: Queue[int] = Queue(1)
    put: list[int] = []
    got: list[int] = []

    async def producer() -> None:
        for item in range(4):
            await queue.put(item)
            put.append(item)

    async def consumer() -> None:
        async for item in queue:
            got.append(item)
            queue.task_done()

    producing = play.spawn(producer(), name="producer")
    consuming = play.spawn(consumer(), name="consumer")
    while not producing.done():
        await asyncio.sleep(0)
        if consuming.done():
            got.extend(left(queue))
    queue.shutdown()
    await play.finished()
    assert got + left(queue) == put


async def join_is_exact(play: Play) -> None:
    queue: Queue[int] = Queue()
    log: list[str] = []
    for item in range(2):
        queue.put_nowait(item)

    async def joiner(name: str) -> None:
        await queue.join()
        log.append(name)

    async def worker() -> None:
        for _ in range(2):
            await queue.get()
            await asyncio.sleep(0)
            log.append("done")
            queue.task_done()
            if log.count("done") == 2:
                queue.put_nowait(99)  # after the moment: nobody's who joined before

    for name in "ab":
        play.spawn(joiner(name), name=name)
    play.spawn(worker(), name="worker")
    while not all(task.done() for task in play.tasks.values()):
        await asyncio.sleep(0)
        if play.tasks["worker"].done():
            with contextlib.suppress(ValueError):
                while queue.stats().unfinished > (log.count("done") == 2):
                    log.append("done")
                    queue.task_done()
    for name in {"a", "b"} & set(log):
        assert log.index(name) >= 2 and log[:2] == ["done", "done"]


async def shutdown_wakes_all(play: Play) -> None:
    full: Queue[int] = Queue(1)
    full.put_nowait(0)
    empty: Queue[int] = Queue()
    closed: list[str] = []

    async def expect(name: str, operation: Callable[[], Awaitable[Any]]) -> None:
        try:
            await operation()
        except QueueShutDown:
            closed.append(name)

    async def closer() -> None:
        await turns(2)
        empty.shutdown()
        full.shutdown(immediate=True)

    for name in "ab":
        play.spawn(expect(f"get-{name}", empty.get), name=f"get-{name}")
        play.spawn(expect(f"put-{name}", lambda: full.put(1)), name=f"put-{name}")
    play.spawn(expect("join", full.join), name="join")
    play.spawn(closer(), name="closer")
    while not all(task.done() for task in play.tasks.values()):
        await asyncio.sleep(0)
        if play.tasks["closer"].done():
            empty.shutdown()
            full.shutdown(immediate=True)
    stats = full.stats()
    assert (stats.size, stats.unfinished, stats.putters) == (0, 0, 0)
    assert empty.stats().getters == 0


SWEPT = [
    (one_item_and_two_getters, ("a", "b")),
    (getters_and_an_item, ("a", "b", "c", "putter")),
    (putters_and_a_place, ("a", "b", "c", "getter")),
    (producer_and_consumer, ("producer", "consumer")),
    (join_is_exact, ("a", "worker")),
    (shutdown_wakes_all, ("get-a", "put-a", "join", "closer")),
]


@pytest.mark.parametrize(
    ("scenario", "victim"),
    [pytest.param(scenario, victim, id=f"{scenario.__name__}-{victim}") for scenario, all_ in SWEPT for victim in all_],
)
def test_promise_6_cancelled_at_every_step(scenario: Any, victim: str, cell: Cell) -> None:
    cancel_sweep(scenario, victims=victim, **EVERY_STEP, **in_cell(cell))


@pytest.mark.parametrize("how", HOWS)
@each_class
def test_promise_6_traffic_cancelled_at_every_step(make: type[Queue[Any]], how: str) -> None:
    for seed in range(3):
        cancel_sweep(traffic(make, how), victims="consumer-0", seed=seed, **EVERY_STEP)
        if how == "native":  # a producer may be through before it has entered its timeout or scope
            cancel_sweep(traffic(make, how), victims="producer-0", seed=seed, **EVERY_STEP)


# ------------------------------------------------------------------------------------------------------- one by one


def test_a_cancelled_put_has_not_enqueued(cell: Cell) -> None:
    async def main() -> None:
        queue: Queue[str] = Queue(1)
        queue.put_nowait("first")
        putter = asyncio.create_task(queue.put("cancelled"))
        later = asyncio.create_task(queue.put("later"))
        await turns()
        assert queue.get_nowait() == "first"  # reserves the place for `putter` ...
        assert queue.full() and queue.qsize() == 1 and queue.empty()
        putter.cancel()  # ... which is cancelled in the same turn
        with pytest.raises(asyncio.CancelledError):
            await putter
        await later
        assert left(queue) == ["later"]

    run(main, cell)


def test_a_cancelled_get_has_not_removed_and_the_order_survives(cell: Cell) -> None:
    async def main() -> None:
        queue: Queue[int] = Queue()
        a, b, c = (asyncio.create_task(queue.get()) for _ in range(3))
        await turns()
        queue.put_nowait(1)
        queue.put_nowait(2)
        assert queue.qsize() == 2 and queue.empty()  # both are spoken for
        a.cancel()
        with pytest.raises(asyncio.CancelledError):
            await a
        assert (await b, await c) == (1, 2)

    run(main, cell)


def test_a_timeout_in_the_turn_of_the_item_loses_nothing() -> None:
    async def main() -> None:
        queue: Queue[int] = Queue()

        async def get() -> int:
            async with asyncio.timeout(None) as timeout:
                scopes.append(timeout)
                return await queue.get()

        scopes: list[asyncio.Timeout] = []
        getter = asyncio.create_task(get())
        await turns()
        queue.put_nowait(1)
        scopes[0].reschedule(-1)
        with contextlib.suppress(TimeoutError):
            assert await getter == 1
            return
        assert queue.get_nowait() == 1

    run(main)


def test_wait_for_and_gather_take_the_operations(cell: Cell) -> None:
    async def main() -> None:
        queue: Queue[int] = Queue(1)
        assert await asyncio.gather(queue.put(1), queue.get(), queue.put(2), queue.get()) == [None, 1, None, 2]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.get(), 0.01)
        assert queue.stats().getters == 0
        await asyncio.wait_for(queue.put(3), 1)
        assert await asyncio.wait_for(queue.get(), 1) == 3

    run(main, cell)


def test_newcomers_never_overtake() -> None:
    async def main() -> None:
        queue: Queue[int] = Queue(1)
        getter = asyncio.create_task(queue.get())
        await turns()
        queue.put_nowait(1)
        with pytest.raises(asyncio.QueueEmpty):
            queue.get_nowait()
        assert await getter == 1

        queue.put_nowait(2)
        putter = asyncio.create_task(queue.put(3))
        await turns()
        assert queue.get_nowait() == 2
        with pytest.raises(asyncio.QueueFull):
            queue.put_nowait(4)
        await putter
        assert queue.get_nowait() == 3

    run(main)


def test_waiters_are_served_in_order() -> None:
    async def main() -> None:
        queue: Queue[int] = Queue(2)
        order: list[int] = []

        async def put(item: int) -> None:
            await queue.put(item)
            order.append(item)

        tasks = [asyncio.create_task(put(item)) for item in range(50)]
        await turns()
        assert [await queue.get() for _ in range(50)] == list(range(50))
        await asyncio.gather(*tasks)
        assert order == list(range(50))

    run(main)


def test_hand_overs_do_not_keep_the_loop_from_its_other_work(cell: Cell) -> None:
    async def main() -> None:
        there: Queue[int] = Queue(1)
        back: Queue[int] = Queue(1)
        passed = 0

        async def pass_on(source: Queue[int], target: Queue[int]) -> None:
            nonlocal passed
            async for item in source:
                passed += 1
                await target.put(item)

        players = [asyncio.create_task(pass_on(there, back)), asyncio.create_task(pass_on(back, there))]
        await there.put(1)
        for _ in range(20):
            before = passed
            await asyncio.sleep(0)
            assert passed - before < 100
        await asyncio.sleep(0.001)
        for player in players:
            player.cancel()
        await asyncio.gather(*players, return_exceptions=True)

    run(main, cell)


def test_empty_is_true_exactly_when_get_nowait_would_raise() -> None:
    async def main() -> None:
        queue: Queue[int] = Queue(3)
        rng = random.Random(1)
        tasks: list[asyncio.Task[Any]] = []
        for _ in range(3000):
            match rng.randrange(6):
                case 0:
                    tasks.append(asyncio.create_task(queue.get()))
                case 1:
                    tasks.append(asyncio.create_task(queue.put(1)))
                case 2:
                    empty = queue.empty()
                    try:
                        queue.get_nowait()
                    except asyncio.QueueEmpty:
                        assert empty
                    else:
                        assert not empty
                case 3:
                    full = queue.full()
                    try:
                        queue.put_nowait(1)
                    except asyncio.QueueFull:
                        assert full
                    else:
                        assert not full
                case 4:
                    await asyncio.sleep(0)
                case _ if tasks:
                    tasks.pop(rng.randrange(len(tasks))).cancel()
            assert 0 <= queue.qsize() <= 3
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(main)


def test_nothing_happens_before_the_operation_is_awaited() -> None:
    async def main() -> None:
        queue: Queue[int] = Queue()
        put = queue.put(1)
        assert queue.empty()
        await put
        assert queue.qsize() == 1
        with pytest.raises(RuntimeError, match="already"):
            await put
        with pytest.warns(RuntimeWarning, match=r"'Queue\.put' was never awaited"):
            queue.put(2)  # noqa: RUF100
            gc.collect()
        with pytest.warns(RuntimeWarning, match=r"'PriorityQueue\.get' was never awaited"):
            PriorityQueue().get()
            gc.collect()
        get = queue.get()
        get.close()
        assert queue.qsize() == 1

    run(main)


@pytest.mark.parametrize("when", ["before it is woken", "after it was woken", "in a cycle"])
def test_a_dropped_wait_hands_on(when: str) -> None:
    class Holder:
        pass

    async def main() -> None:
        queue: Queue[int] = Queue()
        dropped = queue.get()
        dropped.send(None)
        if when == "in a cycle":
            holder = Holder()
            holder.operation, holder.itself = dropped, holder  # type: ignore[attr-defined]
            del holder
        kept = asyncio.create_task(queue.get())
        await turns()
        if when == "before it is woken":
            del dropped
        queue.put_nowait(1)  # reserved for `dropped`
        if when != "before it is woken":
            del dropped
        gc.collect()
        assert await asyncio.wait_for(kept, 5) == 1

    run(main)


# ------------------------------------------------------------------------------------------------- join, shutdown


@each_class
def test_join_is_exact(make: type[Queue[Any]], cell: Cell) -> None:
    async def main() -> None:
        queue = make()
        await queue.join()
        for item in range(3):
            queue.put_nowait(item)
        joining = asyncio.create_task(queue.join())
        for _ in range(3):
            await turns()
            assert not joining.done()
            await queue.get()
            queue.task_done()
        queue.put_nowait(9)  # too late to count
        await joining
        with pytest.raises(ValueError, match="task_done"):
            for _ in range(2):
                queue.task_done()

    run(main, cell)


@each_class
def test_shutdown_refuses_puts_and_drains(make: type[Queue[Any]], cell: Cell) -> None:
    async def main() -> None:
        queue = make(2)
        queue.put_nowait(1)
        queue.put_nowait(2)
        putters = [asyncio.create_task(queue.put(item)) for item in (3, 4)]
        await turns()
        queue.get_nowait()  # the first putter is woken, and refused all the same: it has not put
        queue.shutdown()
        for putter in putters:
            with pytest.raises(QueueShutDown):
                await putter
        with pytest.raises(QueueShutDown):
            await queue.put(5)
        with pytest.raises(QueueShutDown):
            queue.put_nowait(5)
        await queue.get()
        with pytest.raises(QueueShutDown):
            await queue.get()
        with pytest.raises(QueueShutDown):
            queue.get_nowait()
        queue.task_done()
        queue.task_done()
        await queue.join()

    run(main, cell)


def test_shutdown_wakes_getters_unless_an_item_may_still_come(cell: Cell) -> None:
    async def main() -> None:
        queue: Queue[int] = Queue()
        first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
        await turns()
        queue.put_nowait(1)
        queue.shutdown()
        first.cancel()
        assert await second == 1

        queue = Queue()
        first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
        await turns()
        queue.put_nowait(1)
        queue.shutdown()
        assert await first == 1
        with pytest.raises(QueueShutDown):
            await second

    run(main, cell)


@each_class
def test_shutdown_immediate_drops_the_items(make: type[Queue[Any]], cell: Cell) -> None:
    async def main() -> None:
        queue = make(2)
        getter = asyncio.create_task(queue.get())
        await turns()
        for item in (1, 2):
            queue.put_nowait(item)
        joining = asyncio.create_task(queue.join())
        await asyncio.sleep(0) if cell.eager else None
        queue.shutdown(immediate=True)
        assert queue.qsize() == 0 and queue.empty()
        if getter.done():  # an eager or quick getter had it
            queue.task_done()
        else:
            with pytest.raises(QueueShutDown):
                await getter
        await joining
        queue.shutdown(immediate=True)

    run(main, cell)


def test_async_for_ends_when_shut_down_and_drained(cell: Cell) -> None:
    async def main() -> None:
        queue: Queue[int] = Queue(2)

        async def produce() -> None:
            for item in range(10):
                await queue.put(item)
            queue.shutdown()

        producing = asyncio.create_task(produce())
        assert [item async for item in queue] == list(range(10))
        assert [item async for item in queue] == []
        await producing

    run(main, cell)


def test_errors_are_asyncios_and_pickle() -> None:
    queue: Queue[int] = Queue()
    queue.shutdown()
    with pytest.raises(QueueShutDown, match="Queue was shut down") as caught:
        queue.get_nowait()
    assert isinstance(caught.value, loopwright.LoopwrightError)
    if sys.version_info >= (3, 13):
        assert isinstance(caught.value, asyncio.QueueShutDown)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


# -------------------------------------------------------------------------------------- arguments, repr, stats, memory


@each_class
def test_maxsize_is_checked(make: type[Queue[Any]]) -> None:
    for wrong in (True, "3", None, [], 3j):
        if wrong is None:
            continue
        with pytest.raises(TypeError, match="maxsize"):
            make(wrong)
    with pytest.raises(ValueError, match="nan"):
        make(math.nan)
    for unlimited in (0, -1, -0.5, math.inf, 2**100):
        queue = make(unlimited)
        assert queue.maxsize == unlimited and not queue.full() and queue.stats().maxsize is None
    queue = make(1.5)
    for item in range(2):
        queue.put_nowait(item)
    assert queue.full() and queue.maxsize == 1.5
    assert make(maxsize=7).maxsize == 7


@each_class
def test_repr_and_stats(make: type[Queue[Any]]) -> None:
    async def main() -> None:
        queue = make(2)
        assert repr(queue) == f"<{make.__name__} at {id(queue):#x} maxsize=2>"
        queue.put_nowait(1)
        queue.put_nowait(2)
        putter = asyncio.create_task(queue.put(3))
        await turns()
        items = "[1, 2]"
        assert str(queue) == f"<{make.__name__} maxsize=2 _queue={items} _putters[1] tasks=2>"
        stats = queue.stats()
        assert stats == QueueStats(
            maxsize=2,
            size=2,
            available=2,
            unfinished=2,
            getters=0,
            putters=1,
            joiners=0,
            put=2,
            got=0,
            shut_down=False,
        )
        with pytest.raises(dataclasses.FrozenInstanceError):
            stats.size = 3  # type: ignore[misc]
        queue.shutdown(immediate=True)
        assert repr(queue).endswith(" shutdown>")
        with pytest.raises(QueueShutDown):
            await putter
        big = make()
        for item in range(1000):
            big.put_nowait(item)
        assert "990 more" in repr(big) and len(repr(big)) < 200

    run(main)


@each_class
def test_generic_and_weakly_referenced(make: type[Queue[Any]]) -> None:
    assert isinstance(make[int], GenericAlias)
    assert make[int].__args__ == (int,)
    queue = make()
    reference = weakref.ref(queue)
    assert reference() is queue
    del queue
    gc.collect()
    assert reference() is None


def test_cycles_are_collected() -> None:
    class Item:
        pass

    async def main() -> list[weakref.ref[Any]]:
        references: list[weakref.ref[Any]] = []
        for make in CLASSES:
            queue = make()
            item = Item()
            item.queue = queue  # type: ignore[attr-defined]
            queue.put_nowait((1, item))
            references += [weakref.ref(queue), weakref.ref(item)]
            waiting: Queue[Any] = make()
            operation = waiting.get()
            operation.send(None)
            item.operation = operation  # type: ignore[attr-defined]
            references.append(weakref.ref(waiting))
        return references

    references = run(main)
    gc.collect()
    assert [reference() for reference in references] == [None] * len(references)


def test_an_item_is_let_go_when_it_is_got() -> None:
    class Item:
        pass

    async def main() -> None:
        queue: Queue[Item] = Queue(1)
        item = Item()
        reference = weakref.ref(item)
        await queue.put(item)
        putting = asyncio.create_task(queue.put(item))
        await turns()
        putting.cancel()
        await asyncio.gather(putting, return_exceptions=True)
        del item, putting
        await queue.get()
        gc.collect()
        assert reference() is None

    run(main)


# ------------------------------------------------------------------------------------------------------------ loops


def test_a_queue_outlives_its_loop() -> None:
    queue: Queue[int] = Queue(1)

    async def main() -> None:
        getter = asyncio.create_task(queue.get())
        await turns()
        await queue.put(1)
        assert await getter == 1
        waiting = asyncio.create_task(queue.get())  # cancelled by the end of the loop
        await turns()
        assert not waiting.done()

    for _ in range(3):
        run(main)
    assert queue.stats().getters == 0


def test_waiters_of_two_loops_are_refused() -> None:
    queue: Queue[int] = Queue()
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(queue.get())
    loop.run_until_complete(turns())

    async def main() -> None:
        with pytest.raises(LoopMismatch, match="Queue is bound to a different event loop"):
            await queue.get()

    run(main)
    queue.put_nowait(1)
    assert loop.run_until_complete(waiting) == 1
    loop.close()
    run(lambda: asyncio.wait_for(_put_and_get(queue), 5))


async def _put_and_get(queue: Queue[int]) -> None:
    getter = asyncio.create_task(queue.get())
    await turns()
    queue.put_nowait(2)
    assert await getter == 2


# ------------------------------------------------------------------------------------------------ priority, lifo


def test_priority_order_with_reservations() -> None:
    async def main() -> None:
        queue: PriorityQueue[int] = PriorityQueue()
        getters = [asyncio.create_task(queue.get()) for _ in range(2)]
        await turns()
        queue.put_nowait(5)
        queue.put_nowait(1)  # the first to run gets the smallest there is
        assert [await getter for getter in getters] == [1, 5]
        for item in random.Random(2).sample(range(100), 100):
            await queue.put(item)
        assert left(queue) == list(range(100))

    run(main)


def test_lifo_order() -> None:
    queue: LifoQueue[int] = LifoQueue()
    for item in (1, 3, 2):
        queue.put_nowait(item)
    assert left(queue) == [2, 3, 1]


class Fragile:
    """An item whose comparison can be made to raise."""

    fails = False

    def __init__(self, key: int) -> None:
        self.key = key

    def __lt__(self, other: Fragile) -> bool:
        if Fragile.fails and random.random() < 0.5:
            raise ZeroDivisionError
        return self.key < other.key


def test_an_item_that_does_not_compare_is_not_put_and_none_is_lost() -> None:
    """asyncio's queue keeps the item that raised, and loses the one that ``get`` was about to return."""
    random.seed(3)
    queue: PriorityQueue[Fragile] = PriorityQueue()
    model: list[int] = []
    for _ in range(5000):
        Fragile.fails = random.random() < 0.5
        if random.random() < 0.55 or not model:
            item = Fragile(random.randrange(50))
            with contextlib.suppress(ZeroDivisionError):
                queue.put_nowait(item)
                heapq.heappush(model, item.key)
        else:
            with contextlib.suppress(ZeroDivisionError):
                assert queue.get_nowait().key == heapq.heappop(model)
        assert queue.qsize() == len(model) == queue.stats().unfinished - queue.stats().got * 0 - queue.stats().got
    Fragile.fails = False
    assert [item.key for item in left(queue)] == sorted(model)


def test_a_waiting_put_that_does_not_compare_gives_its_place_to_the_next() -> None:
    async def main() -> None:
        queue: PriorityQueue[Any] = PriorityQueue(2)
        queue.put_nowait(1)
        queue.put_nowait(2)
        bad = asyncio.create_task(queue.put("three"))
        good = asyncio.create_task(queue.put(3))
        await turns()
        assert await queue.get() == 1
        with pytest.raises(TypeError):
            await bad
        await good
        assert left(queue) == [2, 3]

    run(main)


# ------------------------------------------------------------------------------------------------------ subclasses


class SetQueue(Queue[Any]):
    """Merges equal items, as crawlers do."""

    def _init(self, maxsize: int) -> None:
        self._queue: dict[Any, None] = {}

    def _put(self, item: Any) -> None:
        self._queue[item] = None

    def _get(self) -> Any:
        item = next(iter(self._queue))
        del self._queue[item]
        return item


class TaggingQueue(Queue[Any]):
    """Overrides one of the three."""

    def _put(self, item: Any) -> None:
        super()._put(("tagged", item))


class ReversedPriorityQueue(PriorityQueue[Any]):
    def _put(self, item: int) -> None:
        super()._put(-item)

    def _get(self) -> int:
        return -super()._get()


class OwnAttributes(Queue[Any]):
    """Overrides none of them."""

    def __init__(self, name: str, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self.name = name


def test_subclasses_decide_how_items_are_kept(cell: Cell) -> None:
    async def main() -> None:
        tagging = TaggingQueue(1)
        await tagging.put(1)
        assert tagging.full()
        assert await tagging.get() == ("tagged", 1)
        reverse = ReversedPriorityQueue()
        for item in (1, 3, 2):
            await reverse.put(item)
        assert [item for item in left(reverse)] == [3, 2, 1]
        named = OwnAttributes("name", 3)
        await named.put(1)
        assert (named.name, named.maxsize, named.qsize()) == ("name", 3, 1)

    run(main, cell)


def test_a_subclass_that_merges_items(cell: Cell) -> None:
    async def main() -> None:
        queue = SetQueue()
        getters = [asyncio.create_task(queue.get()) for _ in range(2)]
        await turns()
        for item in ("a", "a"):
            queue.put_nowait(item)
        assert queue.qsize() == 1
        assert await getters[0] == "a"
        await turns()
        assert not getters[1].done()
        queue.put_nowait("b")
        assert await getters[1] == "b"
        queue.put_nowait("c")
        queue.put_nowait("c")
        assert queue.qsize() == 1
        queue.shutdown(immediate=True)
        assert queue.qsize() == 0 and not queue._queue

    run(main, cell)


def test_a_subclass_that_raises_and_comes_back() -> None:
    class Odd(Queue[int]):
        def _put(self, item: int) -> None:
            assert 0 <= self.qsize() <= 2
            if item < 0:
                raise ValueError(item)
            super()._put(item)

        def _get(self) -> int:
            item = super()._get()
            if item == 7:
                self.put_nowait(8)
            return item

    async def main() -> None:
        queue = Odd(2)
        with pytest.raises(ValueError, match="-1"):
            await queue.put(-1)
        assert queue.qsize() == 0 and queue.stats().unfinished == 0
        await queue.put(7)
        assert await queue.get() == 7
        assert await queue.get() == 8
        queue.put_nowait(1)
        queue.put_nowait(2)
        bad, good = asyncio.create_task(queue.put(-1)), asyncio.create_task(queue.put(3))
        await turns()
        assert await queue.get() == 1
        with pytest.raises(ValueError, match="-1"):
            await bad
        await good
        assert left(queue) == [2, 3]

    run(main)


def test_subclasses_keep_their_items_under_cancels() -> None:
    random_cancels(traffic(ReversedTuples), cancels(share=0.02), seed=8, level="task")


class ReversedTuples(LifoQueue[Any]):
    def _put(self, item: Any) -> None:
        super()._put(item)
