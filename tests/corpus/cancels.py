"""Cancels that do not arrive, or arrive at the wrong task.

A scenario spawns the tasks that may be cancelled; the sweep cancels each of them at each of its await points, and knows
by itself that a task that was cancelled has to end cancelled. Without a cancel every one of these passes.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from corpus import defect, healthy

if TYPE_CHECKING:
    from loopwright.testing import Play


async def steps(number: int) -> None:
    """Work that takes so many turns of the loop."""
    for _ in range(number):
        await asyncio.sleep(0)


@defect("cancel swallowed by a bare except", found_by="sweep")
async def swallowed_by_bare_except(play: Play) -> None:
    """`except:` around a request that may fail; the cancel is taken for a failure."""
    log = []

    async def poll() -> None:
        for _ in range(3):
            try:
                await steps(1)
            except:
                log.append("request failed")

    play.spawn(poll(), name="poll")
    await play.finished()


@healthy("except Exception", like=swallowed_by_bare_except)
async def failures_are_exceptions(play: Play) -> None:
    """`CancelledError` is not an `Exception`."""
    log = []

    async def poll() -> None:
        for _ in range(3):
            try:
                await steps(1)
            except Exception:
                log.append("request failed")

    play.spawn(poll(), name="poll")
    await play.finished()


@defect("cancel swallowed by except BaseException", found_by="sweep")
async def swallowed_by_base_exception(play: Play) -> None:
    """The supervisor wants to survive everything, and survives its own cancel."""
    crashes = []

    async def supervisor() -> None:
        for _ in range(3):
            try:
                await steps(2)
            except BaseException as error:
                crashes.append(error)

    play.spawn(supervisor(), name="supervisor")
    await play.finished()


@healthy("except BaseException that raises again", like=swallowed_by_base_exception)
async def base_exception_raised_again(play: Play) -> None:
    """It looks, and passes on what it saw."""
    crashes = []

    async def supervisor() -> None:
        for _ in range(3):
            try:
                await steps(2)
            except BaseException as error:
                crashes.append(error)
                raise

    play.spawn(supervisor(), name="supervisor")
    await play.finished()


@defect("suppress(CancelledError) while awaiting a child", found_by="sweep")
async def suppressed_while_awaiting_the_child(play: Play) -> None:
    """Meant for the child's cancel, it eats the parent's own when that arrives at the same await."""

    async def parent() -> None:
        child = asyncio.create_task(steps(50))
        try:
            await steps(2)
        finally:
            child.cancel()
            with suppress(asyncio.CancelledError):
                await child
        await steps(2)

    play.spawn(parent(), name="parent")
    await play.finished()


@healthy("wait for the child without taking its exception", like=suppressed_while_awaiting_the_child)
async def waited_for_the_child(play: Play) -> None:
    """`asyncio.wait` raises nothing of the child's; a cancel it raises is the parent's own."""

    async def parent() -> None:
        child = asyncio.create_task(steps(50))
        try:
            await steps(2)
        finally:
            child.cancel()
            await asyncio.wait([child])
        await steps(2)

    play.spawn(parent(), name="parent")
    await play.finished()


@defect("return in a finally", found_by="sweep")
async def returned_in_finally(play: Play) -> None:
    """`return` in a `finally` drops the exception that is on its way, the cancel included."""

    async def read() -> str:
        text = ""
        try:
            await steps(2)
            text = "all of it"
        finally:
            return text

    play.spawn(read(), name="read")
    await play.finished()


@defect("a cancel retried", found_by="sweep")
async def cancel_retried(play: Play) -> None:
    """The retry loop retries on everything but success."""

    async def call() -> None:
        for attempt in range(3):
            try:
                await steps(2)
            except BaseException:
                if attempt == 2:
                    raise
            else:
                return

    play.spawn(call(), name="call")
    await play.finished()


@healthy("only failures are retried", like=cancel_retried)
async def failures_retried(play: Play) -> None:
    """It retries on `OSError`."""

    async def call() -> None:
        for attempt in range(3):
            try:
                await steps(2)
            except OSError:
                if attempt == 2:
                    raise
            else:
                return

    play.spawn(call(), name="call")
    await play.finished()


@defect("a timeout that eats cancels", found_by="sweep")
async def timeout_eats_cancels(play: Play) -> None:
    """A home-made timeout cancels its task, and takes every cancel that it sees for its own."""

    async def with_timeout(work, seconds: float) -> None:
        task = asyncio.current_task()
        timer = asyncio.get_running_loop().call_later(seconds, task.cancel)
        try:
            await work
        except asyncio.CancelledError:
            raise TimeoutError from None
        finally:
            timer.cancel()

    async def caller() -> None:
        try:
            await with_timeout(steps(3), 10)
        except TimeoutError:
            await steps(1)  # goes on as if it had been slow

    play.spawn(caller(), name="caller")
    await play.finished()


@healthy("asyncio.timeout", like=timeout_eats_cancels)
async def timeout_passes_cancels(play: Play) -> None:
    """It counts the cancels of its task, and takes only its own."""

    async def caller() -> None:
        try:
            async with asyncio.timeout(10):
                await steps(3)
        except TimeoutError:
            await steps(1)

    play.spawn(caller(), name="caller")
    await play.finished()


@defect("the wait_for pattern of old: a result that is ready beats the cancel", found_by="sweep")
async def ready_result_beats_the_cancel(play: Play) -> None:
    """When the inner task is done by the time the cancel arrives, its result is returned and the cancel forgotten."""

    async def fetch() -> int:
        await steps(2)
        return 42

    async def wait_for(work) -> int:
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            if task.done():
                return task.result()
            task.cancel()
            raise
        return task.result()

    async def caller() -> None:
        await wait_for(fetch())
        await steps(2)

    play.spawn(caller(), name="caller")
    await play.finished()


@defect("a CancelledError replaced in a finally", found_by="sweep")
async def cancel_replaced_in_finally(play: Play) -> None:
    """Closing raises because the handshake never ended, and the caller sees that instead of the cancel."""

    async def session() -> None:
        greeted = False
        try:
            await steps(2)
            greeted = True
        finally:
            if not greeted:
                raise ConnectionError("closed before the greeting")

    play.spawn(session(), name="session")
    await play.finished()


@healthy("errors of closing are kept for those who close in peace", like=cancel_replaced_in_finally)
async def cancel_kept_in_finally(play: Play) -> None:
    """What went wrong while cleaning up is noted, and the cancel goes on."""
    log = []

    async def session() -> None:
        greeted = False
        try:
            await steps(2)
            greeted = True
        finally:
            if not greeted:
                log.append("closed before the greeting")

    play.spawn(session(), name="session")
    await play.finished()


@defect("a shared task awaited bare", found_by="sweep")
async def shared_task_awaited_bare(play: Play) -> None:
    """Two callers await one task; the cancel of one cancels the task, and so the other, who was not cancelled."""
    shared: list[asyncio.Task[None]] = []
    ended = []

    async def caller(name: str) -> None:
        if not shared:
            shared.append(asyncio.create_task(steps(3)))
        try:
            await shared[0]
            ended.append(name)
        except asyncio.CancelledError:
            assert asyncio.current_task().cancelling(), f"{name} was never cancelled, and got a CancelledError"
            raise

    play.spawn(caller("a"), name="a")
    play.spawn(caller("b"), name="b")
    await play.finished()


@healthy("a shared task awaited behind a shield", like=shared_task_awaited_bare)
async def shared_task_shielded(play: Play) -> None:
    """The cancel of a caller stops at the shield; whoever made the task sees to its end."""
    shared: list[asyncio.Task[None]] = []

    async def caller(name: str) -> None:
        if not shared:
            shared.append(asyncio.create_task(steps(3)))
        try:
            await asyncio.shield(shared[0])
        except asyncio.CancelledError:
            assert asyncio.current_task().cancelling(), f"{name} was never cancelled, and got a CancelledError"
            raise

    play.spawn(caller("a"), name="a")
    play.spawn(caller("b"), name="b")
    await play.finished()
    await asyncio.gather(*shared)


@defect("shield orphan: work goes on after its owner has closed", found_by="sweep")
async def orphan_behind_a_shield(play: Play) -> None:
    """The cancel leaves the shielded write running, and the `finally` closes the file under it."""
    trouble = []

    async def owner() -> None:
        file = {"open": True}

        async def write() -> None:
            await steps(3)
            if not file["open"]:
                trouble.append("written to a closed file")

        try:
            await asyncio.shield(write())
        finally:
            file["open"] = False

    play.spawn(owner(), name="owner")
    await play.finished()
    await steps(5)
    assert not trouble


@defect("the creator's cancel leaves its followers waiting", found_by="sweep")
async def followers_of_a_cancelled_creator(play: Play) -> None:
    """Whoever comes first connects, the others wait for its future; cancelled, it never sets it."""
    first: list[asyncio.Future[str]] = []

    async def connection() -> str:
        if first:
            return await asyncio.shield(first[0])
        first.append(asyncio.get_running_loop().create_future())
        await steps(2)
        first[0].set_result("connected")
        return "connected"

    async def client() -> None:
        await connection()

    for name in "abc":
        play.spawn(client(), name=name)
    await play.finished()


@healthy("the creator's cancel passes the job on", like=followers_of_a_cancelled_creator)
async def followers_take_over(play: Play) -> None:
    """A creator that fails withdraws its future; a follower tries in its place."""
    first: list[asyncio.Future[str]] = []

    async def connection() -> str:
        while first:
            try:
                return await asyncio.shield(first[0])
            except asyncio.CancelledError:
                if asyncio.current_task().cancelling():
                    raise
        future = asyncio.get_running_loop().create_future()
        first.append(future)
        try:
            await steps(2)
        except BaseException:
            first.remove(future)
            future.cancel()
            raise
        future.set_result("connected")
        return "connected"

    async def client() -> None:
        await connection()

    for name in "abc":
        play.spawn(client(), name=name)
    await play.finished()


@defect("children left behind: asyncio.wait does not cancel", found_by="sweep")
async def children_left_by_wait(play: Play) -> None:
    """The parent is cancelled inside `asyncio.wait`, which leaves its tasks running."""
    children: list[asyncio.Task[None]] = []

    async def parent() -> None:
        children.extend(asyncio.create_task(steps(9)) for _ in range(2))
        await asyncio.wait(children)

    play.spawn(parent(), name="parent")
    await play.finished()
    assert all(child.done() for child in children), "children outlive their cancelled parent"


@healthy("children in a group", like=children_left_by_wait)
async def children_of_a_group(play: Play) -> None:
    """The group cancels them and waits until they have ended."""
    children: list[asyncio.Task[None]] = []

    async def parent() -> None:
        async with asyncio.TaskGroup() as group:
            children.extend(group.create_task(steps(9)) for _ in range(2))

    play.spawn(parent(), name="parent")
    await play.finished()
    assert all(child.done() for child in children), "children outlive their cancelled parent"


@defect("an anyio scope left with the cancel swallowed", found_by="sweep")
async def anyio_cancel_taken_for_a_timeout(play: Play) -> None:
    """Catches the cancel class around a scope with a deadline, and takes a native cancel for the deadline."""

    async def caller() -> None:
        try:
            with anyio.fail_after(10):
                await anyio.sleep(0)
                await anyio.lowlevel.checkpoint()
        except (TimeoutError, anyio.get_cancelled_exc_class()):
            await anyio.sleep(0)

    play.spawn(caller(), name="caller")
    await play.finished()


@healthy("an anyio deadline with TimeoutError alone", like=anyio_cancel_taken_for_a_timeout)
async def anyio_deadline(play: Play) -> None:
    """`fail_after` tells its deadline by `TimeoutError`, and nothing else."""

    async def caller() -> None:
        try:
            with anyio.fail_after(10):
                await anyio.sleep(0)
                await anyio.lowlevel.checkpoint()
        except TimeoutError:
            await anyio.sleep(0)

    play.spawn(caller(), name="caller")
    await play.finished()


@defect("half a transfer", found_by="sweep")
async def transfer_cut_in_half(play: Play) -> None:
    """Debit, await, credit: a cancel at the await, and the money is nowhere."""
    accounts = {"a": 100, "b": 0}

    async def transfer() -> None:
        await steps(1)
        accounts["a"] -= 10
        await steps(1)
        accounts["b"] += 10

    play.spawn(transfer(), name="transfer")
    await play.finished()
    assert sum(accounts.values()) == 100


@healthy("the whole transfer in one step", like=transfer_cut_in_half)
async def transfer_in_one_step(play: Play) -> None:
    """All awaits come before the first change."""
    accounts = {"a": 100, "b": 0}

    async def transfer() -> None:
        await steps(2)
        accounts["a"] -= 10
        accounts["b"] += 10

    play.spawn(transfer(), name="transfer")
    await play.finished()
    assert sum(accounts.values()) == 100
