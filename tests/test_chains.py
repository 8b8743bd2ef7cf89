"""Who waits for what, and who holds it: await chains, waits, holders, and the text of a deadlock.

What the reports say is read by a person at a bad hour; so what is not certain is never said as if it were.
"""

from __future__ import annotations

import asyncio
import collections.abc
import contextlib
import contextvars
import gc
import random
import re
import signal
import threading
import time
import types
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any

import anyio
import pytest
from support.loops import Cell, run

import loopwright
from loopwright import testing
from loopwright.testing import Deadlock, _holders
from loopwright.testing._chains import Link, Waiting, chain, waits_for, where
from loopwright.testing._deadlock import explain

Main = Callable[[], Coroutine[Any, Any, Any]]


async def turns(n: int = 12) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def asleep(*mains: Main) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Tasks t0, t1, ... that have run until they all wait; cancelled and awaited at the end."""
    tasks = []
    for index, main in enumerate(mains):
        tasks.append(asyncio.get_running_loop().create_task(main(), name=f"t{index}"))
        await turns()
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def short(links: list[Link]) -> list[str]:
    """The functions of a chain, without the `<locals>`."""
    return [link.function.rpartition("<locals>.")[2] for link in links]


def names(task: asyncio.Task[Any]) -> list[str]:
    return short(chain(task))


# ------------------------------------------------------------------------------------------------------------ chains


async def db() -> None:
    await asyncio.sleep(5)


async def rows() -> AsyncIterator[int]:
    await db()
    yield 1


async def handler() -> None:
    async for _ in rows():
        pass


class Custom:
    def __await__(self) -> Generator[Any, Any, None]:
        return (yield from db().__await__())


async def custom() -> None:
    await Custom()


class Driver:
    """An awaitable that is its own iterator and drives a coroutine by hand."""

    def __init__(self) -> None:
        self.decoy = [rows(), db]
        self.coroutine = db()

    def __await__(self) -> Driver:
        return self

    def __iter__(self) -> Driver:
        return self

    def __next__(self) -> Any:
        return self.coroutine.send(None)

    def send(self, value: Any) -> Any:
        return self.coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        return self.coroutine.throw(*error)

    def close(self) -> None:
        self.coroutine.close()


async def driven() -> None:
    await Driver()


class Counted(collections.abc.Coroutine[Any, Any, Any]):
    """A coroutine that holds the real one and counts its steps."""

    __slots__ = ("inner", "steps")

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self.inner, self.steps = inner, 0

    def send(self, value: Any) -> Any:
        self.steps += 1
        return self.inner.send(value)

    def throw(self, *error: Any) -> Any:
        return self.inner.throw(*error)

    def close(self) -> None:
        self.inner.close()

    def __await__(self) -> Counted:
        return self

    def __iter__(self) -> Counted:
        return self

    def __next__(self) -> Any:
        return self.send(None)


def counted() -> Coroutine[Any, Any, Any]:
    return Counted(handler())


async def counted_inside() -> None:
    await Counted(db())


async def next_or_none() -> None:
    await anext(rows(), None)


async def sent() -> None:
    await rows().asend(None)  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[None]:
    await db()
    yield


@contextlib.asynccontextmanager
async def closed() -> AsyncIterator[None]:
    try:
        yield
    finally:
        await db()


async def entering() -> None:
    async with opened():
        pass


async def leaving() -> None:
    async with closed():
        pass


@types.coroutine
def old_style() -> Generator[Any, Any, None]:
    yield from db().__await__()


async def awaits_old_style() -> None:
    await old_style()


class Both:
    async def __aenter__(self) -> None:
        await db()

    async def __aexit__(self, *error: object) -> None:
        pass


async def enters_class() -> None:
    async with Both():
        pass


@pytest.mark.parametrize(
    ("main", "expected"),
    [
        (handler, "handler rows db sleep"),
        (custom, "custom Custom.__await__ db sleep"),
        (driven, "driven Driver db sleep"),
        (counted, "Counted handler rows db sleep"),
        (counted_inside, "counted_inside Counted db sleep"),
        (next_or_none, "next_or_none rows db sleep"),
        (sent, "sent rows db sleep"),
        (entering, "entering _AsyncGeneratorContextManager.__aenter__ opened db sleep"),
        (leaving, "leaving _AsyncGeneratorContextManager.__aexit__ closed db sleep"),
        (awaits_old_style, "awaits_old_style old_style db sleep"),
        (enters_class, "enters_class Both.__aenter__ db sleep"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_chain_goes_through_everything_that_can_be_awaited(cell: Cell, main: Main, expected: str) -> None:
    async def scenario() -> None:
        async with asleep(main) as (task,):
            assert names(task) == expected.split()
            assert where(task).what == "sleeps 5 s"
            assert where(task).source == "await asyncio.sleep(5)"

    run(scenario, cell)


def test_a_link_has_its_file_line_source_and_kind() -> None:
    async def scenario() -> None:
        async with asleep(handler) as (task,):
            outer, generator, *_ = chain(task)
            assert (outer.kind, generator.kind) == ("coroutine", "async generator")
            assert outer.file == __file__
            assert outer.line == handler.__code__.co_firstlineno + 1
            assert outer.source == "async for _ in rows():"
            assert str(outer).endswith("in handler  async for _ in rows():")

    run(scenario)


def test_a_deep_chain_is_followed_to_its_end() -> None:
    async def deep(n: int) -> None:
        await (deep(n - 1) if n else db())

    async def scenario() -> None:
        async with asleep(lambda: deep(200)) as (task,):
            assert len(chain(task)) == 203

    run(scenario)


def test_of_several_coroutines_in_an_object_the_one_that_leads_to_the_future_is_followed() -> None:
    async def other(future: asyncio.Future[None]) -> None:
        await future

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        decoy = other(loop.create_future())
        decoy.send(None)
        driver = Driver()
        driver.decoy = [decoy, db]

        async def drive() -> None:
            await driver

        async with asleep(drive) as (task,):
            assert names(task) == ["drive", "Driver", "db", "sleep"]
        decoy.close()

    run(scenario)


def test_objects_that_know_each_other_are_not_confused() -> None:
    class Peer(Driver):
        def __init__(self, peers: list[Peer]) -> None:
            self.coroutine = first() if not peers else second()
            self.peers = peers
            peers.append(self)

    async def first() -> None:
        await asyncio.get_running_loop().create_future()

    async def second() -> None:
        await asyncio.get_running_loop().create_future()

    async def scenario() -> None:
        peers: list[Peer] = []

        async def drive() -> None:
            await Peer(peers)

        async with asleep(drive, drive) as (one, other):
            assert names(one) == ["drive", "Peer", "first"]
            assert names(other) == ["drive", "Peer", "second"]

    run(scenario)


def test_an_object_that_drives_an_operation_of_ours_by_hand_is_seen_through() -> None:
    async def scenario() -> None:
        driver = Driver()
        driver.coroutine.close()
        driver.coroutine = loopwright.Event().wait()  # type: ignore[assignment]

        async def drive() -> None:
            await driver

        async with asleep(drive) as (task,):
            assert names(task) == ["drive", "Driver"]
            assert where(task).what == "waits in Event.wait()"

    run(scenario)


def test_what_leads_nowhere_is_not_guessed() -> None:
    class Sleeper:
        """Waits for a future of its own; its decoy waits for another."""

        def __init__(self, decoy: Any) -> None:
            self.decoy = decoy
            self.future = asyncio.get_running_loop().create_future()

        def __await__(self) -> Any:
            return iter(self.future)

    async def scenario() -> None:
        decoy = awaiting(lambda: asyncio.get_running_loop().create_future())()
        decoy.send(None)

        async def waits() -> None:
            await Sleeper(decoy)

        async with asleep(waits) as (task,):
            assert names(task) == ["waits"]
        decoy.close()

    run(scenario)


def test_the_chain_of_the_running_task_ends_with_the_function_that_it_is_in() -> None:
    found: list[str] = []

    def helper() -> None:
        task = asyncio.current_task()
        assert task is not None
        links = chain(task)
        found.extend(short(links))
        found.append(where(task).what)
        assert waits_for(task) is None

    async def generator() -> AsyncIterator[int]:
        helper()
        yield 1

    async def outer() -> None:
        async for _ in generator():
            pass

    run(outer)
    assert found == ["enter", "outer", "generator", "helper", "runs"]


def test_the_chain_of_a_task_that_runs_in_another_thread_can_be_read() -> None:
    started, over = threading.Event(), threading.Event()
    tasks: list[asyncio.Task[Any]] = []

    async def blocks() -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        started.set()
        over.wait(60)

    thread = threading.Thread(target=asyncio.run, args=[blocks()])
    thread.start()
    started.wait(60)
    found = names(tasks[0])
    over.set()
    thread.join()
    assert found[:2] == ["blocks", "Event.wait"]


def test_a_task_tells_that_it_has_not_started_is_about_to_run_or_has_ended() -> None:
    async def scenario() -> None:
        task = asyncio.create_task(db())
        assert where(task).what == "has not started"
        await turns()
        task.cancel()
        assert where(task).what == "is about to run"
        assert waits_for(task) is None
        await asyncio.wait([task])
        yielding = asyncio.create_task(turns(100))
        await asyncio.sleep(0)
        assert where(yielding).what == "yields"
        yielding.cancel()
        assert (where(task).what, chain(task)) == ("has ended", [])

    run(scenario)


def test_looking_runs_no_code_of_the_program() -> None:
    class Touchy(Driver):
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"{name} was looked up")

        def __repr__(self) -> str:
            raise AssertionError("repr() was called")

        __eq__ = __hash__ = None  # type: ignore[assignment]

    async def drive() -> None:
        touchy = Touchy()
        await touchy

    async def scenario() -> None:
        async with asleep(drive) as (task,):
            assert names(task) == ["drive", "Touchy", "db", "sleep"]
            assert "'t0'" in explain([task])

    run(scenario)


def test_looking_keeps_nothing_alive() -> None:
    class Thing:
        pass

    async def holds(kept: list[weakref.ref[Thing]]) -> None:
        thing = Thing()
        kept.append(weakref.ref(thing))
        await asyncio.sleep(0)
        del thing
        await asyncio.sleep(3)

    async def scenario() -> None:
        kept: list[weakref.ref[Thing]] = []
        task = asyncio.create_task(holds(kept))
        await asyncio.sleep(0)
        chain(task), waits_for(task), where(task), explain([task])
        await turns()
        gc.collect()
        assert kept[0]() is None
        task.cancel()

    run(scenario)


# ------------------------------------------------------------------------------------------------------------- waits


def call(subject: Any, method: str, *args: Any) -> Main:
    async def calling() -> Any:
        return await getattr(subject, method)(*args)

    return calling


def hold(subject: Any) -> Main:
    async def holding() -> None:
        async with subject:
            await asyncio.sleep(5)

    return holding


def awaiting(make: Callable[[], Awaitable[Any]]) -> Main:
    async def awaits() -> Any:
        return await make()

    return awaits


async def wait_of(*mains: Main) -> Waiting:
    """What the last of these tasks waits for."""
    async with asleep(*mains) as tasks:
        waiting = waits_for(tasks[-1])
        assert waiting is not None
        return waiting


LOCKS: dict[str, Callable[[], Any]] = {
    "asyncio.Lock": asyncio.Lock,
    "asyncio.Semaphore": asyncio.Semaphore,
    "asyncio.BoundedSemaphore": asyncio.BoundedSemaphore,
    "asyncio.Condition": asyncio.Condition,
    "loopwright.Lock": loopwright.Lock,
    "loopwright.Semaphore": loopwright.Semaphore,
    "loopwright.BoundedSemaphore": lambda: loopwright.BoundedSemaphore(1),
    "anyio.Lock": anyio.Lock,
    "anyio.Semaphore": lambda: anyio.Semaphore(1),
    "anyio.CapacityLimiter": lambda: anyio.CapacityLimiter(1),
    "anyio.Condition": anyio.Condition,
}
each_lock = pytest.mark.parametrize("make", LOCKS.values(), ids=LOCKS.keys())


@each_lock
@pytest.mark.parametrize("by_method", [False, True])
def test_who_is_in_the_block_of_a_lock_holds_it_for_certain(
    cell: Cell, make: Callable[[], Any], by_method: bool
) -> None:
    async def scenario() -> None:
        lock = make()
        waiting = await wait_of(hold(lock), call(lock, "acquire") if by_method else hold(lock))
        assert waiting.needs == "permit"
        assert waiting.operation.endswith(".acquire")
        assert [(holder.task.get_name(), holder.certain) for holder in waiting.holders] == [("t0", True)]

    run(scenario, cell)


@each_lock
def test_the_holder_of_a_lock_is_seen_behind_a_context_manager_of_the_programs_own(make: Callable[[], Any]) -> None:
    async def scenario() -> None:
        lock = make()

        @contextlib.asynccontextmanager
        async def locked() -> AsyncIterator[None]:
            async with lock:
                yield

        async def by_generator() -> None:
            async with locked():
                await asyncio.sleep(5)

        async def by_stack() -> None:
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(locked())
                await asyncio.sleep(5)

        for holder in (by_generator, by_stack):
            waiting = await wait_of(holder, hold(lock))
            assert [(holder.task.get_name(), holder.certain) for holder in waiting.holders] == [("t0", True)]

    run(scenario)


@each_lock
def test_the_holder_of_a_lock_is_seen_behind_a_generator_that_it_iterates(make: Callable[[], Any]) -> None:
    async def scenario() -> None:
        lock = make()

        async def transactions() -> AsyncIterator[int]:
            async with lock:
                yield 1

        async def iterates() -> None:
            async for _ in transactions():
                await asyncio.sleep(5)

        async with asleep(iterates, hold(lock)) as (_, waiter):
            waiting = waits_for(waiter)
            assert waiting is not None
            assert [(holder.task.get_name(), holder.certain) for holder in waiting.holders] == [("t0", True)]

    run(scenario)


def test_a_holder_that_cannot_be_certain_is_told_as_perhaps() -> None:
    lock = asyncio.Lock()

    async def by_hand() -> None:
        await lock.acquire()
        await asyncio.sleep(5)

    async def innocent() -> None:
        assert lock.locked() is not None
        await asyncio.sleep(5)

    async def stranger() -> None:
        await asyncio.sleep(5)

    async def scenario() -> None:
        waiting = await wait_of(by_hand, innocent, stranger, hold(lock))
        assert [(holder.task.get_name(), holder.certain) for holder in waiting.holders] == [("t0", False)]

    run(scenario)


def test_a_local_variable_that_is_an_exit_method_proves_nothing() -> None:
    lock = asyncio.Lock()

    async def has_bound() -> None:
        leave = lock.__aexit__
        await asyncio.sleep(5)
        del leave

    async def has_pair() -> None:
        leave = type(lock).__aexit__
        what = lock
        await asyncio.sleep(5)
        del leave, what

    async def scenario() -> None:
        await lock.acquire()
        waiting = await wait_of(has_bound, has_pair, hold(lock))
        assert waiting.holders
        assert not any(holder.certain for holder in waiting.holders)

    run(scenario)


def test_who_only_waits_for_a_lock_does_not_hold_it() -> None:
    async def scenario() -> None:
        lock = asyncio.Lock()
        await lock.acquire()
        waiting = await wait_of(hold(lock), hold(lock))
        assert [holder.task.get_name() for holder in waiting.holders if holder.certain] == []

    run(scenario)


def test_who_waits_to_be_notified_does_not_hold_the_conditions_lock() -> None:
    async def scenario() -> None:
        condition = asyncio.Condition()

        async def waits() -> None:
            async with condition:
                await condition.wait()

        waiting = await wait_of(waits, hold(condition), hold(condition))
        assert [(holder.task.get_name(), holder.certain) for holder in waiting.holders] == [("t1", True)]

    run(scenario)


def test_who_is_notified_waits_for_the_conditions_lock() -> None:
    async def scenario() -> None:
        condition = asyncio.Condition()

        async def waits() -> None:
            async with condition:
                await condition.wait()

        async def notifies() -> None:
            async with condition:
                condition.notify()
                await asyncio.sleep(5)

        async with asleep(waits, notifies) as (waiter, _):
            waiting = waits_for(waiter)
            assert waiting is not None
            assert (waiting.needs, waiting.text) == ("permit", "waits in Condition.wait() for its lock")
            assert [holder.task.get_name() for holder in waiting.holders] == ["t1"]

    run(scenario)


def test_several_permits_taken_at_once_are_held_too() -> None:
    async def scenario() -> None:
        semaphore = loopwright.Semaphore(2)

        def takes() -> Coroutine[Any, Any, None]:
            return hold(semaphore.permit(2))()

        waiting = await wait_of(takes, takes)
        assert waiting.object is semaphore
        assert [(holder.task.get_name(), holder.certain) for holder in waiting.holders] == [("t0", True)]

    run(scenario)


def _full(make: Callable[[int], Any]) -> Any:
    queue = make(1)
    queue.put_nowait("item")
    return queue


async def _condition_waiter(condition: Any) -> None:
    async with condition:
        await condition.wait()


async def _group(make: Callable[[], Any]) -> None:
    async with make() as group:
        group.create_task(db(), name="child")


async def _spawner() -> None:
    async with loopwright.TaskGroup(limit=1) as group:
        await group.spawn(db)
        await group.spawn(db)


async def _anyio_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(db, name="child")


async def _each_completed() -> None:
    for first in asyncio.as_completed([db(), db()]):
        await first


async def _mapped(_item: int) -> None:
    await asyncio.sleep(5)


async def _iterated() -> None:
    async with loopwright.amap(_mapped, range(3), limit=2) as results:
        async for _ in results:
            pass


async def _closes() -> None:
    background = loopwright.Background()
    background.spawn(db)
    await background.aclose()


async def _in_scope() -> None:
    with anyio.move_on_after(5):
        await anyio.sleep(3)


async def _limited(queue: asyncio.Queue[Any]) -> None:
    async with asyncio.timeout(5):
        await queue.get()


async def _ours_limited(queue: asyncio.Queue[Any]) -> None:
    async with loopwright.timeout(5):
        await queue.get()


WAITS: list[tuple[str, str, Callable[[], Main]]] = [
    ("Event.wait", "waits in Event.wait()", lambda: call(asyncio.Event(), "wait")),
    ("Event.wait", "waits in Event.wait()", lambda: call(loopwright.Event(), "wait")),
    ("Event.wait", "waits in Event.wait()", lambda: call(anyio.Event(), "wait")),
    ("Queue.get", "waits in Queue.get()", lambda: call(asyncio.Queue(), "get")),
    ("PriorityQueue.get", "waits in PriorityQueue.get()", lambda: call(asyncio.PriorityQueue(), "get")),
    ("Queue.get", "waits in Queue.get()", lambda: call(loopwright.Queue(), "get")),
    ("LifoQueue.get", "waits in LifoQueue.get()", lambda: call(loopwright.LifoQueue(), "get")),
    ("Queue.put", "waits in Queue.put()", lambda: call(_full(asyncio.Queue), "put", 1)),
    ("Queue.put", "waits in Queue.put()", lambda: call(_full(loopwright.Queue), "put", loopwright.Queue())),
    ("Queue.join", "waits in Queue.join()", lambda: call(_full(asyncio.Queue), "join")),
    ("Queue.join", "waits in Queue.join()", lambda: call(_full(loopwright.Queue), "join")),
    ("Queue.get", "waits in Queue.get()", lambda: lambda: _limited(asyncio.Queue())),
    ("Queue.get", "waits in Queue.get()", lambda: lambda: _ours_limited(asyncio.Queue())),
    ("Condition.wait", "waits in Condition.wait()", lambda: lambda: _condition_waiter(asyncio.Condition())),
    ("Condition.wait", "waits in Condition.wait()", lambda: lambda: _condition_waiter(anyio.Condition())),
    ("Barrier.wait", "waits in Barrier.wait()", lambda: call(asyncio.Barrier(2), "wait")),
    ("Barrier.wait", "waits in Barrier.wait()", lambda: hold(asyncio.Barrier(2))),
    (
        "TaskGroup.__aexit__",
        "waits in TaskGroup.__aexit__() for task 'child'",
        lambda: lambda: _group(asyncio.TaskGroup),
    ),
    (
        "TaskGroup.__aexit__",
        "waits in TaskGroup.__aexit__() for task 'child'",
        lambda: lambda: _group(loopwright.TaskGroup),
    ),
    ("TaskGroup.__aexit__", "waits in TaskGroup.__aexit__() for task 'child'", lambda: _anyio_group),
    ("TaskGroup.spawn", r"waits in TaskGroup.spawn() for task 'Task-\d+'", lambda: _spawner),
    ("gather", "waits in gather() for 2 tasks", lambda: awaiting(lambda: asyncio.gather(db(), db()))),
    ("wait", "waits in wait() for 2 tasks", lambda: awaiting(lambda: asyncio.wait({task(), task()}))),
    ("shield", r"waits in shield() for task 'Task-\d+'", lambda: awaiting(lambda: asyncio.shield(db()))),
    ("await", "waits for task 'other'", lambda: awaiting(lambda: task("other"))),
    ("future", "waits for a future", lambda: awaiting(lambda: asyncio.get_running_loop().create_future())),
    ("as_completed", "waits in as_completed().*", lambda: _each_completed),
    ("sleep", "sleeps 2.5 s", lambda: awaiting(lambda: asyncio.sleep(2.5))),
    ("sleep", "sleeps 3 s", lambda: _in_scope),
    ("to_thread", "waits for to_thread(sleep)", lambda: awaiting(lambda: asyncio.to_thread(time.sleep, 0.05))),
    ("run_in_executor", "waits for a call in an executor", lambda: awaiting(in_executor)),
    ("StreamReader.read", "waits in StreamReader.read()", lambda: call(asyncio.StreamReader(), "read")),
    ("StreamReader.readline", "waits in StreamReader.readline()", lambda: call(asyncio.StreamReader(), "readline")),
    ("race", "waits in race() for 2 tasks", lambda: lambda: loopwright.race(db(), db())),
    (
        "finish",
        "waits in finish() for task 'finish(db)'",
        lambda: awaiting(lambda: loopwright.finish(db(), timeout=0.05)),
    ),
    ("gather", "waits in gather() for 2 tasks", lambda: awaiting(lambda: loopwright.gather(db(), db()))),
    ("amap", "waits in amap(_mapped) for 2 tasks", lambda: _iterated),
    ("amap", "waits in amap(_mapped) for 2 tasks", lambda: awaiting(lambda: loopwright.amap(_mapped, [1, 2], limit=2))),
    ("Background.aclose", r"waits in Background.aclose() for task 'Task-\d+'", lambda: _closes),
    ("CancelToken.wait", "waits in CancelToken.wait()", lambda: call(loopwright.CancelToken(), "wait")),
    ("CancelToken.sleep", "waits in CancelToken.sleep()", lambda: call(loopwright.CancelToken(), "sleep", 5)),
    (
        "MemoryObjectReceiveStream.receive",
        "waits in MemoryObjectReceiveStream.receive()",
        lambda: call(anyio.create_memory_object_stream[int]()[1], "receive"),
    ),
    (
        "MemoryObjectSendStream.send",
        "waits in MemoryObjectSendStream.send()",
        lambda: call(anyio.create_memory_object_stream[int]()[0], "send", 1),
    ),
]


def task(name: str | None = None) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(db(), name=name)


def in_executor() -> Awaitable[None]:
    return asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.05)


def _pattern(text: str) -> str:
    return re.escape(text).replace(r"\\d\+", r"\d+").replace(r"\.\*", ".*")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # streams that nobody closes
@pytest.mark.parametrize(
    ("operation", "text", "make"), WAITS, ids=[f"{index}-{row[0]}" for index, row in enumerate(WAITS)]
)
def test_every_wait_is_told_by_the_call_that_the_program_made(
    operation: str, text: str, make: Callable[[], Main]
) -> None:
    async def scenario() -> None:
        waiting = await wait_of(make())
        assert waiting.operation == operation
        assert re.fullmatch(_pattern(text), waiting.text), waiting.text
        assert waiting.repr
        for left in asyncio.all_tasks() - {asyncio.current_task()}:
            left.cancel()
        await turns()

    run(scenario)


@pytest.mark.parametrize("how", [asyncio.gather, lambda *tasks: asyncio.wait(tasks), loopwright.gather])
def test_the_tasks_that_a_wait_is_for_are_told(how: Callable[..., Awaitable[Any]]) -> None:
    async def scenario() -> None:
        async with asleep(awaiting(lambda: how(task(), task()))) as (waiter,):
            waiting = waits_for(waiter)
            assert waiting is not None
            assert len(waiting.tasks) == 2

    run(scenario)


def test_a_queue_of_the_programs_own_class_is_called_by_its_name() -> None:
    class Jobs(asyncio.Queue[int]):
        pass

    async def scenario() -> None:
        waiting = await wait_of(call(Jobs(), "get"))
        assert (waiting.operation, waiting.state) == ("Jobs.get", "empty")

    run(scenario)


def test_a_repr_that_raises_is_told_instead_of_raised() -> None:
    class Broken(asyncio.Event):
        def __repr__(self) -> str:
            raise ZeroDivisionError

    async def scenario() -> None:
        waiting = await wait_of(call(Broken(), "wait"))
        assert waiting.repr == "<Broken, whose repr() raises ZeroDivisionError>"

    run(scenario)


# -------------------------------------------------------------------------------------------------------- deadlocks


async def report(*mains: Main, known: tuple[str, ...] = ()) -> str:
    """What is said of a program that hangs; its tasks are called t0, t1, ..."""
    me = asyncio.current_task()
    async with asleep(*mains) as tasks:
        live = sorted((one for one in asyncio.all_tasks() if one is not me), key=lambda one: one.get_name())
        text = explain(live, main=tasks[0])
        for left in live:
            left.cancel()
        await turns()
        return text


def first_line(text: str) -> str:
    return text.partition("\n\n")[0]


@pytest.mark.parametrize("make", [asyncio.Lock, loopwright.Lock, anyio.Lock])
def test_two_tasks_that_wait_for_each_others_locks_are_told_in_the_first_line(make: Callable[[], Any]) -> None:
    async def both(first: Any, second: Any) -> None:
        async with first:
            await turns(3)
            async with second:
                pass

    async def scenario() -> None:
        async def main() -> None:
            lock1, lock2 = make(), make()
            async with asyncio.TaskGroup() as group:
                group.create_task(both(lock1, lock2), name="a")
                group.create_task(both(lock2, lock1), name="b")

        text = await report(main)
        assert first_line(text) == (
            "2 tasks wait for each other: 'a' holds lock1 and waits for lock2, held by 'b'; "
            "'b' holds lock2 and waits for lock1, held by 'a'"
        )
        assert "waits in TaskGroup.__aexit__() for 2 tasks: 'a' and 'b'" in text
        assert "held by 'a'" in text and "held by 'b'" in text
        assert "async with second:" in text

    run(scenario)


def test_a_circle_through_the_end_of_a_task_is_told() -> None:
    async def scenario() -> None:
        lock = asyncio.Lock()

        async def child() -> None:
            async with lock:
                pass

        async def parent() -> None:
            async with lock, asyncio.TaskGroup() as group:
                group.create_task(child(), name="child")

        text = await report(parent)
        assert first_line(text) == (
            "2 tasks wait for each other: 't0' holds lock and waits in TaskGroup.__aexit__() for task 'child'; "
            "'child' waits for lock, held by 't0'"
        )

    run(scenario)


def test_a_task_that_waits_for_its_own_lock_is_told() -> None:
    async def scenario() -> None:
        lock = asyncio.Lock()

        async def twice() -> None:
            async with lock, lock:
                pass

        assert first_line(await report(twice)) == (
            "'t0' waits for itself: 't0' holds lock and waits for lock, held by itself"
        )

    run(scenario)


def test_five_philosophers_are_one_circle() -> None:
    async def scenario() -> None:
        forks = [asyncio.Lock() for _ in range(5)]
        seated = asyncio.Barrier(5)

        def philosopher(seat: int) -> Main:
            async def eats() -> None:
                async with forks[seat]:
                    await seated.wait()
                    async with forks[(seat + 1) % 5]:
                        pass

            return eats

        text = first_line(await report(*[philosopher(seat) for seat in range(5)]))
        assert text.startswith("5 tasks wait for each other in a circle: 't0' holds forks[0] and waits for forks[1], ")
        assert text.endswith("held by 't4'; and so on, 1 more")

    run(scenario)


def test_locks_that_are_taken_by_hand_make_a_circle_that_is_not_certain() -> None:
    async def both(first: asyncio.Lock, second: asyncio.Lock) -> None:
        await first.acquire()
        await turns(3)
        await second.acquire()

    async def scenario() -> None:
        async def main() -> None:
            lock1, lock2 = asyncio.Lock(), asyncio.Lock()
            await asyncio.gather(task_of(both(lock1, lock2), "a"), task_of(both(lock2, lock1), "b"))

        assert first_line(await report(main)) == (
            "2 tasks seem to wait for each other: 'a' perhaps holds lock1 and waits for lock2, perhaps held by 'b'; "
            "'b' perhaps holds lock2 and waits for lock1, perhaps held by 'a'"
        )

    run(scenario)


def task_of(coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coroutine, name=name)


def test_an_item_that_nobody_is_left_to_put_is_told_with_who_could_have() -> None:
    async def main() -> None:
        queue: asyncio.Queue[int | None] = asyncio.Queue()

        async def producer() -> None:
            await queue.put(None)

        async def worker() -> None:
            await queue.get()

        async with asyncio.TaskGroup() as group:
            group.create_task(producer(), name="producer")
            for index in range(3):
                group.create_task(worker(), name=f"worker-{index}")

    async def scenario() -> None:
        text = await report(main)
        assert first_line(text) == (
            "'worker-1' and 'worker-2' wait in Queue.get() of queue (empty), and nobody is left to put into it: of the "
            "others only 't0' can get at it, and 't0' waits in TaskGroup.__aexit__() for 2 tasks: "
            "'worker-1' and 'worker-2'"
        )
        assert "and 1 more like it: 'worker-2'" in text

    run(scenario)


def test_an_event_that_no_other_task_refers_to_is_told() -> None:
    class Service:
        def __init__(self) -> None:
            self.stopped = asyncio.Event()

        async def run(self) -> None:
            await self.stopped.wait()

    async def scenario() -> None:
        text = await report(Service().run, db)
        assert first_line(text).startswith(
            "'t0' waits in Event.wait() of Service.stopped (not set), and nobody is left to set it: "
            "no other live task refers to it"
        )

    run(scenario)


def test_a_permit_that_was_never_given_back_is_told() -> None:
    async def scenario() -> None:
        semaphore = asyncio.Semaphore(1)

        async def leaks() -> None:
            await semaphore.acquire()

        async def needs() -> None:
            async with semaphore:
                pass

        await leaks()
        text = await report(needs)
        assert first_line(text) == (
            "'t0' waits in Semaphore.acquire() of semaphore: no other live task refers to it; "
            "who took it has ended, or is among those that wait"
        )

    run(scenario)


class _Registry:
    def __init__(self) -> None:
        self.events: dict[str, asyncio.Event] = {}


_registry = _Registry()


def _sets(name: str) -> None:
    _registry.events[name].set()


def test_who_can_get_at_an_object_only_through_functions_and_globals_is_found() -> None:
    async def could() -> None:
        await asyncio.sleep(5)
        _sets("ready")

    async def scenario() -> None:
        _registry.events["ready"] = asyncio.Event()
        text = await report(call(_registry.events["ready"], "wait"), could, db)
        assert "of the others only 't1' can get at it, and 't1' sleeps 5 s" in first_line(text)

    run(scenario)


def test_who_can_get_at_a_future_is_found() -> None:
    async def scenario() -> None:
        box = [asyncio.get_running_loop().create_future()]

        async def waits() -> None:
            await box[0]

        async def could() -> None:
            await asyncio.sleep(5)
            box[0].set_result(None)

        text = first_line(await report(waits, could, db))
        assert "nobody is left to complete it: of the others only 't1' can get at it" in text

    run(scenario)


def test_who_can_get_at_an_object_through_a_context_variable_is_found() -> None:
    async def scenario() -> None:
        _stopped.set(asyncio.Event())

        async def could() -> None:
            await asyncio.sleep(5)
            _stopped.get().set()

        text = first_line(await report(call(_stopped.get(), "wait"), could))
        assert "of the others only 't1' can get at it" in text

    run(scenario)


_stopped: contextvars.ContextVar[asyncio.Event] = contextvars.ContextVar("_stopped")


def test_a_signal_handler_that_could_wake_somebody_is_told() -> None:
    async def main() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, stop.set)
        await stop.wait()

    assert deadlock_of(main).startswith(
        "'Task-1' waits in Event.wait() of stop (not set), and nothing but a signal (SIGUSR1) is left to set it: "
        "no other live task refers to it\n"
    )


def test_nothing_is_claimed_about_who_can_get_at_an_object_when_there_is_too_much_to_look_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_holders, "MOST_REFERENCES", 1000)

    async def scenario() -> None:
        event = asyncio.Event()

        async def has_much() -> None:
            much = [[[]] for _ in range(1000)]
            await asyncio.sleep(5)
            del much

        text = first_line(await report(call(event, "wait"), has_much))
        assert text.startswith("'t0' waits in Event.wait() of subject (not set), and nobody is left to set it\n")

    run(scenario)


def test_two_objects_of_one_name_are_told_apart() -> None:
    class Pool:
        def __init__(self) -> None:
            self.lock = asyncio.Lock()

        async def both(self, other: Pool) -> None:
            async with self.lock:
                await turns(3)
                async with other.lock:
                    pass

    async def scenario() -> None:
        async def main() -> None:
            await asyncio.gather(task_of(left.both(right), "a"), task_of(right.both(left), "b"))

        left, right = Pool(), Pool()
        text = first_line(await report(main))
        assert text == (
            "2 tasks wait for each other: 'a' holds left.lock and waits for right.lock, held by 'b'; "
            "'b' holds right.lock and waits for left.lock, held by 'a'"
        )

    run(scenario)


def test_a_thousand_tasks_in_one_place_are_told_once() -> None:
    async def scenario() -> None:
        async def main() -> None:
            queue: asyncio.Queue[None] = asyncio.Queue()
            async with asyncio.TaskGroup() as group:
                for index in range(1000):
                    group.create_task(queue.get(), name=f"worker-{index:03}")

        text = await report(main)
        assert "and 999 more like it: 'worker-001', 'worker-002', 'worker-003' and 996 more" in text
        assert len(text) < 3_000

    run(scenario)


def test_many_kinds_of_tasks_are_cut_off() -> None:
    async def scenario() -> None:
        source = "".join(f"async def f{n}(event):\n    await event.wait()\n" for n in range(100))
        namespace: dict[str, Any] = {"__name__": "generated"}
        exec(source, namespace)
        events = [asyncio.Event() for _ in range(100)]
        mains = [lambda n=n: namespace[f"f{n}"](events[n]) for n in range(100)]
        text = await report(*mains)
        assert "... and 70 more tasks in 70 other places" in text
        assert "and 96 more things are waited for in vain, see below" in text
        assert len(text) < 15_000

    run(scenario)


def test_a_long_chain_shows_its_two_ends() -> None:
    async def deep(n: int) -> None:
        await (deep(n - 1) if n else asyncio.Event().wait())

    async def scenario() -> None:
        text = await report(lambda: deep(100))
        assert "89 more" in text
        assert text.count("deep") == 12 * 2

    run(scenario)


def test_a_report_says_where_a_task_was_created_if_anybody_wrote_it_down() -> None:
    async def main() -> None:
        text = explain([task_of(db(), "made here")])
        assert re.search(r"task 'made here', created at .*test_chains\.py:\d+ in task_of", text)
        for left in asyncio.all_tasks() - {asyncio.current_task()}:
            left.cancel()

    asyncio.run(main(), debug=True)


def test_a_report_on_tasks_that_can_still_run_says_so() -> None:
    async def scenario() -> None:
        fresh = task_of(db(), "fresh")
        assert first_line(explain([fresh])) == "1 task can still run: 'fresh'"
        fresh.cancel()

    run(scenario)


def test_a_report_on_no_tasks_says_so() -> None:
    assert explain([]) == "there is no task left, and what the loop runs for has not ended"


def test_what_outside_of_the_loop_is_waited_for_is_told() -> None:
    async def scenario() -> None:
        text = await report(call(asyncio.StreamReader(), "read"))
        assert first_line(text) == "'t0' waits in StreamReader.read(), and nothing is left that could end that"

    run(scenario)


# -------------------------------------------------------------------------------------------- on the simulated loop


def deadlock_of(main: Main, **options: Any) -> str:
    with pytest.raises(Deadlock) as caught:
        testing.run(main, **options)
    return str(caught.value)


async def _producer(queue: asyncio.Queue[str | None], count: int) -> None:
    for i in range(count):
        await queue.put(f"item-{i}")
        await asyncio.sleep(0.1)
    await queue.put(None)  # one sentinel


async def _consumer(queue: asyncio.Queue[str | None]) -> None:
    while True:
        item = await queue.get()
        if item is None:
            queue.task_done()
            break
        await asyncio.sleep(0.5)
        queue.task_done()


def test_a_guides_three_consumers_of_one_sentinel_are_a_deadlock_that_names_them() -> None:
    async def main() -> None:
        queue: asyncio.Queue[str | None] = asyncio.Queue(maxsize=10)
        async with asyncio.TaskGroup() as group:
            group.create_task(_producer(queue, 20), name="producer")
            for n in (1, 2, 3):
                group.create_task(_consumer(queue), name=f"worker-{n}")
        await queue.join()

    text = deadlock_of(main)
    assert re.match(
        r"'worker-\d' and 'worker-\d' wait in Queue\.get\(\) of queue \(empty\), and nobody is left to put into it: "
        r"of the others only 'Task-1' can get at it, and 'Task-1' waits in TaskGroup\.__aexit__\(\) for 2 tasks: "
        r"'worker-\d' and 'worker-\d'\n",
        text,
    )
    assert "3 tasks alive at 3.6 s:" in text
    assert "producer" not in text
    assert re.search(r"task 'worker-\d', lane 0\.\d\n.*_consumer  item = await queue\.get\(\)\n", text)


def test_a_guides_join_without_task_done_is_a_deadlock_that_says_so() -> None:
    async def main() -> None:
        q: asyncio.Queue[int | None] = asyncio.Queue()
        await q.put(1)
        await q.put(2)
        await q.put(None)

        async def worker() -> None:
            while await q.get() is not None:
                q.task_done()

        task = asyncio.create_task(worker())
        await q.join()
        task.cancel()

    assert deadlock_of(main).startswith(
        "'Task-1' waits in Queue.join() of q (1 unfinished), and nobody is left to call task_done() on it: "
        "no other live task refers to it\n"
    )


def test_a_guides_shutdown_that_waits_for_ever_is_a_deadlock_that_names_its_event() -> None:
    class GracefulShutdown:
        def __init__(self) -> None:
            self.stop_event = asyncio.Event()
            self.tasks: set[asyncio.Task[Any]] = set()

        async def run_with_shutdown(self, main_coro: Coroutine[Any, Any, None]) -> None:
            self.tasks.add(asyncio.create_task(main_coro))
            await self.stop_event.wait()

    async def application() -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        await GracefulShutdown().run_with_shutdown(application())

    text = deadlock_of(main)
    assert text.startswith(
        "'Task-1' waits in Event.wait() of GracefulShutdown.stop_event (not set), and nobody is left to set it: "
        "no other live task refers to it\n"
    )
    assert "1 task alive at 1 s:" in text
    assert re.search(r"run_with_shutdown +await self\.stop_event\.wait\(\)\n", text)


def test_locks_in_two_orders_are_found_and_told_under_some_schedule() -> None:
    async def main() -> None:
        lock1, lock2 = asyncio.Lock(), asyncio.Lock()

        async def transfer(a: asyncio.Lock, b: asyncio.Lock) -> None:
            async with a:
                await asyncio.sleep(0)
                async with b:
                    pass

        async with asyncio.TaskGroup() as group:
            group.create_task(transfer(lock1, lock2), name="a")
            group.create_task(transfer(lock2, lock1), name="b")

    with pytest.raises(Deadlock, match="2 tasks wait for each other: 'a' holds lock1 and waits for lock2, held by 'b'"):
        testing.explore(main, seeds=100)


def test_two_runs_of_one_deadlock_say_the_same() -> None:
    async def main() -> None:
        lock = asyncio.Lock()
        async with lock, lock:
            pass

    assert deadlock_of(main) == deadlock_of(main)


def test_a_deadlock_of_our_own_objects_is_told_the_same_way() -> None:
    async def main() -> None:
        semaphore, event = loopwright.Semaphore(2), loopwright.Event()

        async def holds() -> None:
            async with semaphore.permit(2):
                await event.wait()

        async def needs() -> None:
            async with semaphore:
                event.set()

        async with loopwright.TaskGroup() as group:
            group.create_task(holds(), name="holder")
            group.create_task(needs(), name="needer")

    text = deadlock_of(main)
    assert text.startswith("'holder' waits in Event.wait() of event (not set), and nobody is left to set it: ")
    assert "'needer' waits for semaphore, held by 'holder'" in text
    assert "held by 'holder'" in text


@pytest.mark.parametrize("make", [asyncio.Lock, loopwright.Lock, lambda: asyncio.Semaphore(2)])
def test_at_every_step_of_random_programs_the_certain_holders_are_the_true_ones(  # noqa: PLR0915
    make: Callable[[], Any],
) -> None:
    checked = 0

    async def main(rng: random.Random) -> None:
        locks = [make() for _ in range(4)]
        inside: dict[int, set[asyncio.Task[Any]]] = {id(lock): set() for lock in locks}

        @contextlib.asynccontextmanager
        async def managed(lock: Any) -> AsyncIterator[None]:
            async with lock:
                yield

        async def generated(lock: Any) -> AsyncIterator[None]:
            async with lock:
                yield

        async def body(lock: Any, left: list[Any]) -> None:
            me = asyncio.current_task()
            assert me is not None
            inside[id(lock)].add(me)
            try:
                await asyncio.sleep(rng.choice([0, 0, 0.01, 1]))
                await nested(left)
                await asyncio.sleep(0)
            finally:
                inside[id(lock)].discard(me)

        async def nested(left: list[Any]) -> None:
            if not left:
                return
            lock, *left = left
            how = rng.randrange(4)
            if how == 0:
                async with managed(lock):
                    await body(lock, left)
            elif how == 1:
                async for _ in generated(lock):
                    await body(lock, left)
            elif how == 2:
                async with contextlib.AsyncExitStack() as stack:
                    await stack.enter_async_context(lock)
                    await body(lock, left)
            else:
                async with lock:
                    await body(lock, left)

        def check(_task: object, _nth: int) -> None:
            nonlocal checked
            evidence = _holders.Evidence(loop.tasks())
            for waiting in map(evidence.bare, evidence.tasks):
                if waiting is not None and waiting.needs == "permit":
                    certain = {holder.task for holder in evidence.holders(waiting) if holder.certain}
                    assert certain == inside[id(waiting.object)]
                    checked += 1

        loop = asyncio.get_running_loop()
        assert isinstance(loop, testing.SimLoop)
        loop.on_step = check
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                mine = [lock for lock in locks if rng.random() < 0.6]  # in one order: no deadlock
                group.create_task(nested(mine))
        loop.on_step = None

    for seed in range(40):
        testing.run(lambda seed=seed: main(random.Random(seed)), seed=seed)
    assert checked > 300
