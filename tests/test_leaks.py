"""Each kind of leak is found, with its line; each check switches off; what is used correctly is never reported."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import functools
import gc
import inspect
import io
import logging
import logging.handlers
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import loops, requires
from support.loops import PLAIN, Cell

import loopwright
from loopwright.testing import ALL_LEAKS, Failure, Leak, LeakError, explore, leak_checks, replay
from loopwright.testing._swallow import CAN_TELL_LINES

pytestmark = pytest.mark.filterwarnings("ignore")

Body = Callable[[], Coroutine[Any, Any, object]]

KEPT: list[Any] = []
"""What outlives the run that made it."""
STOP = threading.Event()
"""Ends the threads that were left behind."""


@pytest.fixture(autouse=True)
def emptied() -> Iterator[None]:
    STOP.clear()
    yield
    STOP.set()
    while KEPT:
        kept = KEPT.pop()
        if hasattr(kept, "close"):
            with contextlib.suppress(RuntimeError):  # Its loop is closed.
                kept.close()
        if isinstance(kept, int):
            os.close(kept)


def left_by(body: Body, *, inside: bool = False, cell: Cell = PLAIN, **options: Any) -> list[Leak]:
    """What ``body()`` leaves behind, looked at from around the loop or from inside of it."""
    options.setdefault("grace", 0.05)

    async def checked() -> None:
        async with leak_checks(fail=False, **options) as leaks:
            await body()
        found.extend(leaks)

    found: list[Leak] = []
    if inside:
        loops.run(checked, cell)
    else:
        with leak_checks(fail=False, **options) as found:
            loops.run(body, cell)
    return found


def marked(leak: Leak, name: str) -> bool:
    """Whether a line that carries this mark is the leak's."""
    return any(place is not None and f"# {name}" in place.source for place in (leak.where, leak.created))


# One thing of each kind


async def waits() -> None:
    await asyncio.sleep(3600)  # where


async def fails() -> None:
    raise ValueError("boom")  # where


async def rows() -> AsyncIterator[int]:
    try:
        yield 1  # where
        yield 2
    finally:
        await asyncio.sleep(0)


async def swallows() -> None:
    with contextlib.suppress(asyncio.CancelledError):  # where
        await asyncio.sleep(3600)
    await asyncio.sleep(0)


async def leaves_a_task() -> None:
    KEPT.append(asyncio.create_task(waits(), name="poller"))  # made
    await asyncio.sleep(0)


async def leaves_a_task_that_never_ran() -> None:
    KEPT.append(asyncio.create_task(waits()))  # made


async def leaves_a_generator_to_the_collector() -> None:
    async for _ in rows():  # made
        break


async def leaves_a_generator_suspended() -> None:
    KEPT.append(rows())
    await anext(KEPT[-1])  # made


async def leaves_a_coroutine() -> None:
    waits()  # type: ignore[unused-coroutine]  # made


async def leaves_an_operation() -> None:
    loopwright.Event().wait()  # type: ignore[unused-awaitable,unused-ignore]  # where


async def leaves_an_exception() -> None:
    task = asyncio.create_task(fails())  # made
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task


async def leaves_an_exception_in_a_cycle() -> None:
    cycle: list[Any] = [asyncio.create_task(fails())]  # made
    cycle.append(cycle)
    await asyncio.sleep(0)


async def leaves_a_failed_future() -> None:
    asyncio.get_running_loop().create_future().set_exception(OSError("gone"))  # made


async def leaves_a_failing_callback() -> None:
    def callback() -> None:
        raise ValueError  # where

    asyncio.get_running_loop().call_soon(callback)
    await asyncio.sleep(0)


async def leaves_a_thread() -> None:
    threading.Thread(target=STOP.wait, name="sleeper").start()  # made


async def leaves_a_socket() -> None:
    KEPT.append(socket.socket())  # made


async def leaves_a_socket_to_the_collector() -> None:
    socket.socket()  # made


async def leaves_a_server() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)  # made
    KEPT.append(server)


async def leaves_a_connection() -> None:
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])  # made
        KEPT.append(writer)


async def leaves_a_file() -> None:
    KEPT.append(open(__file__))  # noqa: SIM115, ASYNC230 - made


async def leaves_a_path_open() -> None:
    KEPT.append(Path(__file__).open())  # noqa: SIM115, ASYNC230 - # made


async def leaves_a_descriptor() -> None:
    KEPT.append(os.open(__file__, os.O_RDONLY))  # made


async def leaves_a_pipe() -> None:
    KEPT.extend(os.pipe())  # made


async def leaves_a_task_to_the_collector() -> None:
    async def forgotten() -> None:
        await asyncio.get_running_loop().create_future()

    asyncio.create_task(forgotten())  # noqa: RUF006 - # made
    await asyncio.sleep(0)


async def leaves_a_task_in_a_weak_set() -> None:
    async def forgotten() -> None:
        await asyncio.Event().wait()

    tasks: weakref.WeakSet[asyncio.Task[None]] = weakref.WeakSet()
    tasks.add(asyncio.create_task(forgotten()))  # made
    KEPT.append(tasks)
    await asyncio.sleep(0)


async def leaves_a_cancel_swallowed() -> None:
    task = asyncio.create_task(swallows())  # made
    await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.wait([task])


async def leaves_a_task_that_ignores_cancels() -> None:
    async def stubborn() -> None:
        await swallows()
        await asyncio.sleep(3600)

    KEPT.append(asyncio.create_task(stubborn()))  # made
    await asyncio.sleep(0)
    KEPT[-1].cancel()


MADE_AT_LEAST: list[tuple[str, Body]] = [
    ("tasks", leaves_a_task),
    ("tasks", leaves_a_task_that_never_ran),
    ("asyncgens", leaves_a_generator_to_the_collector),
    ("asyncgens", leaves_a_generator_suspended),
    ("coroutines", leaves_a_coroutine),
    ("exceptions", leaves_an_exception),
    ("exceptions", leaves_an_exception_in_a_cycle),
    ("exceptions", leaves_a_failed_future),
    ("threads", leaves_a_thread),
    ("sockets", leaves_a_socket),
    ("sockets", leaves_a_socket_to_the_collector),
    ("sockets", leaves_a_server),
    ("sockets", leaves_a_connection),
    ("sockets", leaves_a_file),
    ("sockets", leaves_a_path_open),
    ("sockets", leaves_a_descriptor),
    ("sockets", leaves_a_pipe),
    ("collected", leaves_a_task_to_the_collector),
    ("collected", leaves_a_task_in_a_weak_set),
    ("cancels", leaves_a_cancel_swallowed),
]
PLACED: list[tuple[str, Body]] = [
    ("tasks", leaves_a_task),
    ("asyncgens", leaves_a_generator_to_the_collector),
    ("asyncgens", leaves_a_generator_suspended),
    ("coroutines", leaves_an_operation),
    ("exceptions", leaves_an_exception),
    ("exceptions", leaves_a_failing_callback),
    *([("cancels", leaves_a_cancel_swallowed)] if CAN_TELL_LINES else []),
]
LEAVES = list(dict.fromkeys([*MADE_AT_LEAST, *PLACED]))


@pytest.mark.parametrize("inside", [False, True], ids=["around", "inside"])
@pytest.mark.parametrize(("kind", "body"), LEAVES)
def test_each_kind_is_found(kind: str, body: Body, inside: bool) -> None:
    leaks = left_by(body, inside=inside)
    assert leaks and {leak.kind for leak in leaks} == {kind}, leaks
    if (kind, body) in MADE_AT_LEAST:
        assert all(marked(leak, "made") or "- made" in str(leak) for leak in leaks), leaks
    if (kind, body) in PLACED:
        assert all(marked(leak, "where") for leak in leaks), leaks


@pytest.mark.parametrize(("kind", "body"), LEAVES)
def test_each_check_switches_off(kind: str, body: Body) -> None:
    assert left_by(body, off={kind}) == []
    assert left_by(body, on=ALL_LEAKS - {kind}) == []


@pytest.mark.parametrize(("kind", "body"), [leave for leave in LEAVES if leave[1] is not leaves_a_failing_callback])
def test_each_check_works_alone(kind: str, body: Body) -> None:
    assert {leak.kind for leak in left_by(body, on={kind})} == {kind}


@pytest.mark.parametrize(("kind", "body"), LEAVES)
def test_nothing_is_blamed_on_the_next_test(kind: str, body: Body) -> None:
    left_by(body, on=())
    assert left_by(uses_tasks) == []


@pytest.mark.skipif(not CAN_TELL_LINES, reason="sys.monitoring came with CPython 3.12")
def test_a_task_that_goes_on_after_its_cancel_swallowed_it() -> None:
    (leak,) = left_by(leaves_a_task_that_ignores_cancels)
    assert leak.kind == "cancels" and marked(leak, "where") and marked(leak, "made")
    assert "goes on" in leak.what


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("kind", "body"), [leave for leave in LEAVES if leave[1] not in {leaves_a_server, leaves_a_connection}]
)
def test_each_kind_is_found_on_uvloop_too(kind: str, body: Body, loop: str) -> None:
    if loop == "uvloop":
        requires.module("uvloop")
    leaks = left_by(body, cell=Cell(loop))
    assert {leak.kind for leak in leaks} == {kind}, leaks


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with CPython 3.12")
def test_eager_tasks_are_watched_too() -> None:
    for kind, body in LEAVES:
        if body is leaves_an_exception:
            continue  # An eager task fails before it is given to anybody; the error is the same.
        leaks = left_by(body, cell=Cell(eager=True))
        assert {leak.kind for leak in leaks} == {kind}, (body, leaks)


def test_the_message_has_the_lines_and_says_what_to_do() -> None:
    async def main() -> None:
        await leaves_a_task()
        waits()  # type: ignore[unused-coroutine]

    with pytest.raises(LeakError) as caught, leak_checks():
        loops.run(main)
    text = str(caught.value)
    assert isinstance(caught.value, AssertionError) and isinstance(caught.value, loopwright.LoopwrightError)
    assert [leak.kind for leak in caught.value.leaks] == ["coroutines", "tasks"]
    assert text.startswith("2 things were left behind:\n\ncoroutines: coroutine 'waits' was never awaited\n")
    assert "tasks: task 'poller' (waits) has not ended\n" in text
    assert "await asyncio.sleep(3600)  # where" in text and 'name="poller"))  # made' in text
    assert "waits > sleep; it sleeps" in text
    assert "asyncio.TaskGroup" in text and "off={'coroutines', 'tasks'}" in text


def test_a_hundred_leaks_of_a_kind_are_counted_not_listed() -> None:
    async def main() -> None:
        for _ in range(100):
            waits()  # type: ignore[unused-coroutine]

    leaks = left_by(main)
    assert len(leaks) == 21 and leaks[-1].what == "80 more of this kind"


def test_the_error_of_the_test_comes_first() -> None:
    async def main() -> None:
        await leaves_a_task()
        raise KeyError

    with pytest.raises(KeyError), leak_checks():
        loops.run(main)


def test_an_unknown_check_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="no leak check 'task'; there are asyncgens, cancels"):
        leak_checks(off={"task"})
    with pytest.raises(ValueError, match=r"set of names: \{'tasks'\}, not 'tasks'"):
        leak_checks(on="tasks")


def _wrapped() -> list[Any]:
    base: Any = asyncio.BaseEventLoop
    module: Any = warnings
    return [
        *[vars(base)[name] for name in ("create_task", "create_future", "run_forever", "close", "shutdown_asyncgens")],
        *[vars(base)[name] for name in ("call_exception_handler", "_asyncgen_firstiter_hook")],
        *[builtins.open, io.open, os.open, os.pipe, os.dup, socket.socket.__init__, threading.Thread.start],
        *[module._warn_unawaited_coroutine, module._showwarnmsg, module.filters, sys.get_asyncgen_hooks()],
        *[asyncio.runners._cancel_all_tasks, sys.get_coroutine_origin_tracking_depth()],  # type: ignore[attr-defined]
    ]


def test_everything_is_put_back() -> None:
    before = _wrapped()
    with leak_checks():
        assert len([1 for old, new in zip(before, _wrapped(), strict=True) if old is not new]) >= 16
        with leak_checks():
            pass
    assert _wrapped() == before


def test_a_wrapper_of_the_program_around_ours_survives() -> None:
    original = builtins.open
    checks = leak_checks()
    with checks:
        ours = builtins.open
        builtins.open = functools.partial(ours)
    try:
        with open(__file__) as file:
            assert file.readline().startswith('"""')
    finally:
        builtins.open = original


def test_nested_checks_report_each() -> None:
    with leak_checks(fail=False) as outer:
        inner = left_by(leaves_a_coroutine)
    assert [leak.kind for leak in inner] == [leak.kind for leak in outer] == ["coroutines"]


def test_the_tasks_of_a_loop_that_lives_on_are_found() -> None:
    with asyncio.Runner() as runner:
        before = runner.get_loop().create_task(waits())
        runner.run(asyncio.sleep(0))
        with leak_checks(fail=False) as leaks:
            runner.run(leaves_a_task())
        assert [leak.kind for leak in leaks] == ["tasks"]
        assert not before.done()


def test_a_loop_that_is_not_closed_is_one_leak() -> None:
    with leak_checks(fail=False) as leaks:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert [leak.what for leak in leaks] == [f"event loop {type(loop).__name__} was never closed"]


def test_on_311_a_swallowed_cancel_says_why_it_has_no_line() -> None:
    (leak,) = left_by(leaves_a_cancel_swallowed)
    assert (leak.where is None) == (not CAN_TELL_LINES)
    if not CAN_TELL_LINES:
        assert "sys.monitoring came with 3.12" in leak.detail


# Under many schedules

PER_RUN = [leave for leave in LEAVES if leave[0] not in {"sockets", "threads"}]


@pytest.mark.parametrize(("kind", "body"), PER_RUN)
def test_explore_finds_each_kind_and_names_the_line(kind: str, body: Body) -> None:
    with pytest.raises(LeakError) as caught:
        explore(body, seeds=5, leaks=True)
    error = caught.value
    assert {leak.kind for leak in error.leaks} == {kind}
    if (kind, body) in MADE_AT_LEAST:
        assert all(marked(leak, "made") for leak in error.leaks), error
    if (kind, body) in PLACED:
        assert all(marked(leak, "where") for leak in error.leaks), error
    failure: Failure = error.__loopwright__  # type: ignore[attr-defined]
    with pytest.raises(LeakError) as again:
        replay(body, failure.replay, leaks=True)
    assert [leak.where for leak in again.value.leaks] == [leak.where for leak in error.leaks]


@pytest.mark.parametrize(("kind", "body"), PER_RUN)
def test_explore_switches_each_check_off(kind: str, body: Body) -> None:
    assert explore(body, seeds=3, leaks=ALL_LEAKS - {kind}).schedules == 3


def test_a_leak_of_few_schedules_is_found_with_its_schedule() -> None:
    async def main() -> None:
        done: list[int] = []

        async def worker(number: int) -> None:
            await asyncio.sleep(0)
            done.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(worker(number))
        if done == [3, 2, 1, 0]:
            await leaves_a_task()

    with pytest.raises(LeakError) as caught:
        explore(main, seeds=1000, leaks=True)
    failure: Failure = caught.value.__loopwright__  # type: ignore[attr-defined]
    assert failure.preemptions > 0
    assert marked(caught.value.leaks[0], "made")


def test_a_failure_of_the_test_comes_before_its_leaks() -> None:
    async def main() -> None:
        await leaves_a_task()
        raise KeyError

    with pytest.raises(KeyError):
        explore(main, seeds=3, leaks=True)


def test_a_task_is_collected_at_the_same_point_of_each_run() -> None:
    async def main() -> None:
        await leaves_a_task_to_the_collector()
        await asyncio.sleep(1)
        await asyncio.sleep(1)

    for _ in range(3):
        with pytest.raises(LeakError) as caught:
            explore(main, seeds=10, leaks=True)
        assert [leak.kind for leak in caught.value.leaks] == ["collected"]


async def cancelled_under_many_schedules() -> None:
    tasks = [asyncio.create_task(waits()) for _ in range(3)]
    await asyncio.sleep(1)
    for task in tasks:
        task.cancel()


SIMULATED: list[Body] = [cancelled_under_many_schedules]


# What is used correctly


async def uses_tasks() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
        group.create_task(asyncio.sleep(0.001))
    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    failed = asyncio.create_task(fails())
    assert isinstance((await asyncio.gather(failed, return_exceptions=True))[0], ValueError)
    await asyncio.wait([asyncio.create_task(asyncio.sleep(0))])
    for future in asyncio.as_completed([asyncio.sleep(0), asyncio.sleep(0)]):
        await future
    await asyncio.shield(asyncio.sleep(0))


async def cancels_without_waiting() -> None:
    asyncio.create_task(waits()).cancel()
    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    task.cancel()


async def uses_timeouts() -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.001):
            await waits()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(waits(), 0.001)
    await asyncio.wait_for(asyncio.sleep(0), 1)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(asyncio.create_task(asyncio.sleep(0.01))), 0.001)
    await asyncio.sleep(0.02)


async def groups_that_fail() -> None:
    for body in fails, waits:
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(
                    waits()
                )  # first: up to 3.12 a group that has failed leaves a coroutine it refuses open
                group.create_task(fails())
                await body()
    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(waits())
            group.create_task(fails())
    await asyncio.sleep(0)


async def uses_locks() -> None:
    lock, condition, semaphore, event = asyncio.Lock(), asyncio.Condition(), asyncio.Semaphore(1), asyncio.Event()
    barrier = asyncio.Barrier(2)

    async def worker() -> None:
        async with lock, semaphore:
            await asyncio.sleep(0)
        async with condition:
            await condition.wait()
        await event.wait()
        await barrier.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(worker())
        cancelled = group.create_task(worker())
        for _ in range(50):
            await asyncio.sleep(0)
        cancelled.cancel()
        async with condition:
            condition.notify_all()
        event.set()


async def uses_queues() -> None:
    items: asyncio.Queue[int] = asyncio.Queue(2)

    async def consumer() -> None:
        while True:
            await items.get()
            items.task_done()

    async with asyncio.TaskGroup() as group:
        consumers = [group.create_task(consumer()) for _ in range(3)]
        for item in range(10):
            await items.put(item)
        await items.join()
        for task in consumers:
            task.cancel()


async def uses_generators() -> None:
    async def plain() -> AsyncIterator[int]:
        for number in range(10):
            yield number

    async def refuses() -> AsyncIterator[int]:
        try:
            yield 1
        except ValueError:
            yield 2

    async for _ in plain():
        break
    async for _ in refuses():
        break
    async for _ in rows():
        pass
    async with contextlib.aclosing(rows()) as items:
        async for _ in items:
            break
    rows()  # never begun: there is nothing to clean up


async def uses_streams() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        for _ in range(3):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            writer.close()
            await writer.wait_closed()
        await asyncio.sleep(0.01)


async def uses_unix_sockets_and_datagrams() -> None:
    loop = asyncio.get_running_loop()
    one, two = socket.socketpair()
    with one, two:
        one.setblocking(False)
        two.setblocking(False)
        await loop.sock_sendall(one, b"x")
        assert await loop.sock_recv(two, 1) == b"x"
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    transport.close()
    await asyncio.sleep(0)


async def uses_subprocesses() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print(input())", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert await process.communicate(b"hello\n") == (b"hello\n", None)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(60)")
    process.kill()
    await process.wait()
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", ""], check=True)


async def uses_threads() -> None:
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(time.sleep, 0.001)
    await loop.run_in_executor(None, time.sleep, 0.001)
    with ThreadPoolExecutor(2) as executor:
        await loop.run_in_executor(executor, time.sleep, 0.001)
    future = loop.create_future()
    thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(future.set_result, None))
    thread.start()
    await future
    thread.join()
    coming = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop)
    await asyncio.wrap_future(coming)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.001):
            await asyncio.to_thread(time.sleep, 0.02)


async def uses_exit_stacks() -> None:
    @contextlib.asynccontextmanager
    async def manager() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)

    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(manager())
        stack.push_async_callback(asyncio.sleep, 0)
        file = stack.enter_context(open(__file__))  # noqa: ASYNC230, SIM115
        file.read(1)
    with contextlib.suppress(ValueError):
        async with manager():
            raise ValueError


async def uses_logging() -> None:
    handler = logging.StreamHandler(io.StringIO())
    logger = logging.getLogger("test_leaks")
    logger.addHandler(handler)
    logger.warning("x")
    logger.removeHandler(handler)
    records: queue.SimpleQueue[Any] = queue.SimpleQueue()
    listener = logging.handlers.QueueListener(records, handler)
    listener.start()
    logging.handlers.QueueHandler(records).emit(logging.makeLogRecord({"msg": "y"}))
    await asyncio.sleep(0)
    listener.stop()


async def uses_signals() -> None:
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, arrived.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await arrived.wait()
    loop.remove_signal_handler(signal.SIGUSR1)


async def uses_an_exception_handler() -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    await leaves_a_failing_callback()
    await leaves_an_exception()


async def uses_uncancel() -> None:
    async def turns_back() -> None:
        try:
            await waits()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()

    task = asyncio.create_task(turns_back())
    await asyncio.sleep(0.001)
    task.cancel()
    await task


async def expects_a_warning() -> None:
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        waits()  # type: ignore[unused-coroutine]
        gc.collect()
    with pytest.warns(RuntimeWarning, match="never awaited"):
        waits()  # type: ignore[unused-coroutine]
    with pytest.warns(ResourceWarning):
        socket.socket()


async def uses_loopwright() -> None:
    async with loopwright.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
        await group.spawn(asyncio.sleep, 0)
    await loopwright.amap(asyncio.sleep, [0, 0, 0], limit=2)
    with contextlib.suppress(TimeoutError):
        async with loopwright.timeout(0.001):
            await waits()
    async with loopwright.Semaphore(1):
        pass
    await loopwright.finish(asyncio.sleep(0))
    await loopwright.race(asyncio.sleep(0), waits())


async def ends_with_an_error_after_a_cancel() -> None:
    async def replaces() -> None:
        try:
            await waits()
        except asyncio.CancelledError as error:
            raise OSError from error

    task = asyncio.create_task(replaces())
    await asyncio.sleep(0.001)
    task.cancel()
    with contextlib.suppress(OSError):
        await task


CORRECT: list[Body] = [
    cancels_without_waiting,
    ends_with_an_error_after_a_cancel,
    expects_a_warning,
    groups_that_fail,
    uses_an_exception_handler,
    uses_exit_stacks,
    uses_generators,
    uses_locks,
    uses_logging,
    uses_loopwright,
    uses_queues,
    uses_signals,
    uses_streams,
    uses_subprocesses,
    uses_tasks,
    uses_threads,
    uses_timeouts,
    uses_uncancel,
    uses_unix_sockets_and_datagrams,
]


SIMULATED += [body for body in CORRECT if body is not uses_signals]


@pytest.mark.parametrize("body", SIMULATED)
def test_what_is_used_correctly_is_not_reported_under_any_schedule(body: Body) -> None:
    seeds = 1 if body in {uses_subprocesses, uses_threads} else 20  # What is real has no schedule to repeat.
    assert explore(body, seeds=seeds, leaks=True).schedules == seeds


@pytest.mark.parametrize("inside", [False, True], ids=["around", "inside"])
@pytest.mark.parametrize("body", CORRECT)
def test_what_is_used_correctly_is_not_reported(body: Body, inside: bool, cell: Cell) -> None:
    if inside and body is uses_an_exception_handler and cell.loop == "uvloop":
        pytest.skip("the same as on asyncio")
    assert left_by(body, inside=inside, cell=cell, grace=1.0) == []


def test_every_public_coroutine_function_of_asyncio_is_used_here() -> None:
    here = Path(__file__).read_text()
    used = {name for name in asyncio.tasks.__all__ if inspect.iscoroutinefunction(getattr(asyncio, name, None))}
    assert {name for name in used if f"asyncio.{name}(" not in here} == set()
