"""Pool: each promise that the design and the reference make is a test named after it.

Promises 1 to 5 by number; then the others by what they say. Where time matters it is virtual. The gate matrix and the
random cancels, which hold all of this against every cancel, are in ``test_pool_gates.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import itertools
import logging
import math
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from support.cancels import EVERY_STEP
from support.loops import Cell, run
from support.pool_gates import AppError, Connection, GateError, Server, served_in_order
from support.pools import LoopwrightPool

from loopwright import LoopMismatch, Pool, PoolClosed, PoolFull, PoolTimeout, testing
from loopwright.testing import Play, cancel_sweep


async def turns(n: int = 4) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def pool_of(server: Server, **options: Any) -> Pool[Connection]:
    """A pool of one, with what a careful user gives it; ``options`` say otherwise."""
    options = {"close": server.close, "abort": server.abort, "is_clean": server.is_clean, "max_size": 1, **options}
    return Pool(server.connect, **options)


def balanced(pool: Pool[Any], server: Server) -> None:
    """The ledger's equation, as the pool and as the server see it."""
    stats = pool.stats()
    assert stats.opened - stats.closed - stats.abandoned == stats.idle
    assert len(server.open) == stats.idle
    assert not server.findings
    assert (stats.in_use, stats.waiting, stats.opening, stats.closing) == (0, 0, 0, 0)


async def hold(pool: Pool[Connection], seconds: float = 0.0) -> Connection:
    async with pool.acquire() as connection:
        await asyncio.sleep(seconds)
    return connection


async def take_and_give(pool: Pool[Connection], served: list[Any], name: Any) -> None:
    connection = await pool.acquire()
    served.append(name)
    pool.release(connection)


# ----------------------------------------------------------------------- promise 1: a cancel loses nothing, nor is lost


def test_promise_1_cancelled_in_the_tick_of_the_wake_up_passes_the_connection_on(cell: Cell) -> None:
    async def main() -> None:
        server = Server({})
        async with pool_of(server) as pool:
            connection = await pool.acquire()
            victim, heir = asyncio.create_task(hold(pool)), asyncio.create_task(hold(pool))
            await turns()
            assert pool.stats().waiting == 2
            pool.release(connection)  # granted to the victim ...
            assert pool.stats().idle == 0
            victim.cancel()  # ... which is cancelled before it runs
            with pytest.raises(asyncio.CancelledError):
                await victim
            assert await heir is connection
            balanced(pool, server)

    run(main, cell)


def test_promise_1_cancelled_before_the_release_in_the_same_tick(cell: Cell) -> None:
    async def main() -> None:
        server = Server({})
        async with pool_of(server) as pool:
            connection = await pool.acquire()
            victim, heir = asyncio.create_task(hold(pool)), asyncio.create_task(hold(pool))
            await turns()
            victim.cancel()
            pool.release(connection)
            assert await heir is connection
            assert victim.cancelled()
            balanced(pool, server)

    run(main, cell)


def test_promise_1_the_last_waiter_cancelled_after_its_wake_up_leaves_the_connection_idle(cell: Cell) -> None:
    async def main() -> None:
        server = Server({})
        async with pool_of(server) as pool:
            connection = await pool.acquire()
            victim = asyncio.create_task(hold(pool))
            await turns()
            pool.release(connection)
            victim.cancel()
            await asyncio.wait([victim])
            assert victim.cancelled()
            balanced(pool, server)
            assert pool.try_acquire() is connection
            pool.release(connection)

    run(main, cell)


def test_promise_1_a_wake_up_and_a_cancel_of_everybody_in_one_tick(cell: Cell) -> None:
    async def main() -> None:
        server = Server({})
        async with pool_of(server, max_size=3) as pool:
            held = [await pool.acquire() for _ in range(3)]
            tasks = [asyncio.create_task(hold(pool)) for _ in range(5)]
            await turns()
            for connection in held:
                pool.release(connection)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert all(task.cancelled() for task in tasks)
            assert pool.stats().idle == 3
            balanced(pool, server)

    run(main, cell)


def test_promise_1_the_cancelled_error_is_the_one_that_arrived(cell: Cell) -> None:
    async def main() -> None:
        server = Server({})
        async with pool_of(server) as pool:
            connection = await pool.acquire()
            for release_first in (False, True):
                task = asyncio.create_task(hold(pool))
                await turns()
                if release_first:
                    pool.release(connection)
                task.cancel("why")
                with pytest.raises(asyncio.CancelledError) as caught:
                    await task
                assert caught.value.args == ("why",)

    run(main, cell)


# ---------------------------------------------------------------------------------- promise 2: first come, first served


def test_promise_2_waiters_are_served_in_the_order_in_which_they_came(cell: Cell) -> None:
    async def main() -> None:
        async with pool_of(Server({}), max_size=2) as pool:
            held = [await pool.acquire() for _ in range(2)]
            served: list[int] = []
            tasks = [asyncio.create_task(take_and_give(pool, served, number)) for number in range(20)]
            await turns()
            tasks[3].cancel()
            tasks[11].cancel()
            for connection in held:
                pool.release(connection)
            await asyncio.wait(tasks)
            assert served == [number for number in range(20) if number not in (3, 11)]

    run(main, cell)


def test_promise_2_who_gives_back_and_asks_again_is_last(cell: Cell) -> None:
    """What asyncio-connection-pool gets wrong: see test_pool_gates.py."""

    async def main() -> None:
        async with pool_of(Server({})) as pool:
            assert await served_in_order(LoopwrightPool(pool), "abc") == list("abca")

    run(main, cell)


def test_promise_2_nobody_barges_past_a_woken_waiter(cell: Cell) -> None:
    async def main() -> None:
        async with pool_of(Server({})) as pool:
            connection = await pool.acquire()
            waiter = asyncio.create_task(hold(pool))
            await turns()
            pool.release(connection)
            assert pool.try_acquire() is None, "it is promised to the waiter"
            assert await waiter is connection
            assert pool.try_acquire() is connection
            pool.release(connection)

    run(main, cell)


async def a_line_of_users(play: Play) -> None:
    """Whatever is cancelled, those who are served are served in the order of the line."""
    server = Server({})
    pool = pool_of(server, max_size=2)
    served: list[int] = []

    async def user(number: int) -> None:
        async with pool.acquire():
            served.append(number)
            await asyncio.sleep(0)

    for number in range(6):
        play.spawn(user(number), name=f"user-{number}")
    await play.finished()
    assert served == sorted(served)
    await turns()
    balanced(pool, server)
    await pool.aclose()


def test_promise_2_the_order_survives_a_cancel_at_every_step() -> None:
    for victim in ("user-0", "user-2", "user-5"):
        assert cancel_sweep(a_line_of_users, victims=victim, **EVERY_STEP).count("cancel") >= 3


# ----------------------------------------------------------------------------------------- promise 3: limits are limits


def test_promise_3_a_burst_opens_what_was_agreed_and_no_more(cell: Cell) -> None:
    """Where the guides' pool opened fifty for fifty hosts."""

    async def main() -> None:
        server = Server({}, limit=lambda: 5)
        async with pool_of(server, max_size=2, burst=3) as pool:
            await asyncio.gather(*(hold(pool) for _ in range(50)))
            assert server.peak == 5
            await turns()
            assert pool.stats().idle <= 2, "surplus connections are closed when they come back"
            assert not server.findings

    run(main, cell)


def test_promise_3_room_is_freed_by_the_close_not_by_the_return() -> None:
    async def main() -> None:
        server = Server({"close": "slow"}, limit=lambda: 1)
        async with pool_of(server) as pool:
            connection = await pool.acquire()
            heir = asyncio.create_task(hold(pool))
            await turns()
            pool.discard(connection)
            await asyncio.sleep(0.5)
            assert (server.opened, pool.stats().closing) == (1, 1), "a connect began before the close had ended"
            assert await heir is not connection
            assert not server.findings

    testing.run(main)


# ----------------------------------------------------- promise 4: freed capacity wakes the next waiter in the same turn


def test_promise_4_a_release_hands_over_without_a_turn_of_the_loop(cell: Cell) -> None:
    async def main() -> None:
        async with pool_of(Server({})) as pool:
            connection = await pool.acquire()
            waiter = asyncio.create_task(hold(pool))
            await turns()
            pool.release(connection)
            stats = pool.stats()
            assert (stats.idle, stats.in_use, stats.waiting) == (0, 1, 0), "it is the waiter's already"
            assert await waiter is connection

    run(main, cell)


def test_promise_4_a_cancelled_waiter_passes_its_grant_on_in_the_same_turn(cell: Cell) -> None:
    async def main() -> None:
        async with pool_of(Server({})) as pool:
            connection = await pool.acquire()
            served: list[str] = []
            first, _ = (asyncio.create_task(take_and_give(pool, served, name)) for name in ("first", "second"))
            await turns()
            pool.release(connection)
            first.cancel()
            await turns()
            assert served == ["second"]

    run(main, cell)


def test_promise_4_a_discard_makes_room_for_the_next(cell: Cell) -> None:
    async def main() -> None:
        server = Server({})
        async with pool_of(server) as pool:
            connection = await pool.acquire()
            waiter = asyncio.create_task(hold(pool))
            await turns()
            pool.discard(connection)
            assert await asyncio.wait_for(waiter, 1) is not connection
            assert (server.opened, len(server.open)) == (2, 1)

    run(main, cell)


def test_promise_4_a_failed_connect_leaves_nobody_asleep() -> None:
    """asyncio-connection-pool's waiters sleep on for ever."""

    async def main() -> None:
        server = Server({"connect": "raises"}, "first")
        async with pool_of(server) as pool:
            results = await asyncio.gather(hold(pool), hold(pool), return_exceptions=True)
            assert all(isinstance(result, (GateError, Connection)) for result in results)
            assert asyncio.get_running_loop().time() < 1, "nobody had to wait for a timeout"
            assert isinstance(await hold(pool), Connection)

    testing.run(main)


def test_promise_4_a_raised_limit_serves_those_who_wait(cell: Cell) -> None:
    async def main() -> None:
        server = Server({})
        async with pool_of(server) as pool:
            connection = await pool.acquire()
            waiters = [asyncio.create_task(hold(pool)) for _ in range(2)]
            await turns()
            pool.resize(max_size=3)
            assert pool.stats().opening == 2
            others = await asyncio.wait_for(asyncio.gather(*waiters), 1)
            assert connection not in others
            pool.release(connection)
            assert server.opened == 3

    run(main, cell)


def test_promise_4_the_room_of_a_hook_that_was_given_up_is_free_at_once() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = Server({"close": "hangs"}, "first")
        async with pool_of(server, hook_timeout=2.0) as pool:
            pool.discard(await pool.acquire())
            await hold(pool)
            assert loop.time() == pytest.approx(2.0)

    testing.run(main)


# ------------------------------------------------------------------- promise 5: nothing leaks, nothing dirty goes round


@pytest.mark.parametrize("resets", [True, False], ids=["reset", "no reset"])
def test_promise_5_what_an_interruption_crosses_is_reset_or_dropped(cell: Cell, resets: bool) -> None:
    async def main() -> None:
        server = Server({})
        async with pool_of(server, is_clean=None, reset=server.reset if resets else None) as pool:
            taken: list[Connection] = []

            async def victim() -> None:
                async with pool.acquire() as connection:
                    taken.append(connection)
                    await connection.request(1000)

            task = asyncio.create_task(victim())
            await turns(10)
            task.cancel()
            await asyncio.wait([task])
            async with pool.acquire() as connection:
                assert not connection.midway
                assert (connection is taken[0]) == resets
            assert len(server.open) == 1

    run(main, cell)


def test_promise_5_a_timeout_that_crosses_counts_as_an_interruption() -> None:
    async def main() -> None:
        server = Server({})
        async with pool_of(server, is_clean=None) as pool:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1), pool.acquire() as first:
                    await first.request(5)
            with pytest.raises(TimeoutError):
                async with pool.acquire() as second:
                    async with asyncio.timeout(1):
                        await second.request(5)
            assert await hold(pool) not in (first, second)
            assert not first.is_open and not second.is_open

    testing.run(main)


def test_promise_5_an_interruption_swallowed_inside_is_found_by_is_clean() -> None:
    async def main() -> None:
        server = Server({})
        async with pool_of(server) as pool:
            async with pool.acquire() as first:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(first.request(1), 0.01)
            assert await hold(pool) is not first
            assert not first.is_open
            taken = await pool.acquire()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(taken.request(1), 0.01)
            pool.release(taken)  # by hand too
            assert await hold(pool) is not taken

    testing.run(main)


@pytest.mark.parametrize("asked", [True, False], ids=["is_clean", "no is_clean"])
def test_promise_5_an_error_of_the_application_costs_no_clean_connection(cell: Cell, asked: bool) -> None:
    async def main() -> None:
        server = Server({})
        async with pool_of(server, is_clean=server.is_clean if asked else None) as pool:
            for _ in range(3):
                with pytest.raises(AppError):
                    async with pool.acquire() as connection:
                        await connection.request(0)
                        raise AppError
            assert await hold(pool) is connection
            assert server.opened == 1

    run(main, cell)


def test_promise_5_an_error_raised_inside_a_driver_call_costs_its_connection(cell: Cell) -> None:
    """Without is_clean nobody can say what state it left behind."""

    async def main() -> None:
        server = Server({})
        async with pool_of(server, is_clean=None) as pool:
            with pytest.raises(GateError):
                async with pool.acquire() as connection:
                    server.open.discard(connection)  # the other end goes away
                    await connection.request(0)
            assert await hold(pool) is not connection

    run(main, cell)


@pytest.mark.parametrize("stubborn", [False, True], ids=["hangs", "hangs on"])
@pytest.mark.parametrize("hook", ["connect", "check", "reset", "close"])
def test_promise_5_a_hook_that_hangs_is_abandoned_after_its_time(hook: str, stubborn: bool) -> None:
    """Aborted, counted, reported; its room is free; what a connect brings too late is closed."""
    events: list[Any] = []

    async def main() -> None:
        server = Server({hook: "stubborn" if stubborn else "hangs"}, "first", limit=lambda: 1)
        options: dict[str, Any] = {"check": server.check, "reset": server.reset, "check_after": 0.0}
        async with pool_of(
            server, hook_timeout=2.0, connect_timeout=2.0, on_event=events.append, name="pg", **options
        ) as pool:
            with contextlib.suppress(TimeoutError):
                async with pool.acquire() as connection:
                    pass
            if hook == "close":
                pool.discard(await pool.acquire())
            await asyncio.sleep(0.5)
            began = asyncio.get_running_loop().time()
            later = await hold(pool)
            assert asyncio.get_running_loop().time() - began <= 2.5
            assert hook == "connect" or later is not connection
            assert "abandoned" in [event.kind for event in events]
            stats = pool.stats()
            assert stats.abandoned == (0 if hook == "connect" else 1), "one that never was open is not counted as such"
            await asyncio.sleep(10)
            server.heal()
            await turns(8)
            balanced(pool, server)

    testing.run(main)


def test_promise_5_cancelling_the_caller_gives_its_connect_to_the_next_waiter() -> None:
    """A connect in flight belongs to the pool."""

    async def main() -> None:
        server = Server({"connect": "slow"})
        async with pool_of(server) as pool:
            first, second = asyncio.create_task(hold(pool)), asyncio.create_task(hold(pool))
            await asyncio.sleep(0.5)
            first.cancel()
            await second
            assert asyncio.get_running_loop().time() == pytest.approx(1.0), "the connect went on"
            assert (server.calls["connect"], first.cancelled()) == (1, True)

    testing.run(main)


def test_promise_5_a_connect_that_nobody_waits_for_any_more_is_kept() -> None:
    async def main() -> None:
        server = Server({"connect": "slow"})
        async with pool_of(server) as pool:
            only = asyncio.create_task(hold(pool))
            await asyncio.sleep(0.5)
            only.cancel()
            await asyncio.sleep(1)
            assert (server.opened, pool.stats().idle) == (1, 1)
            balanced(pool, server)

    testing.run(main)


# -------------------------------------------------------------------------------------------- hooks: whose, when, where

REQUEST: contextvars.ContextVar[str] = contextvars.ContextVar("REQUEST", default="none")


def test_no_context_variable_leaks_into_connections_or_out_of_them(cell: Cell) -> None:
    """A trace that was begun in a request would go on in a connection that outlives it."""
    seen: list[tuple[str, str]] = []

    async def main() -> None:
        server = Server({})

        def spied(hook: str) -> Any:
            async def spy(*args: Any) -> Any:
                seen.append((hook, REQUEST.get()))
                REQUEST.set(f"set by {hook}")
                return await getattr(server, hook)(*args)

            return spy

        hooks = {name: spied(name) for name in ("check", "reset", "close")}
        async with Pool(spied("connect"), max_size=1, check_after=0.0, **hooks) as pool:
            REQUEST.set("request 1")
            await hold(pool)
            await asyncio.sleep(0.01)  # idle for longer than no time at all: to be checked
            REQUEST.set("request 2")
            async with pool.acquire() as connection:
                assert REQUEST.get() == "request 2"
            await turns()
            pool.discard(await pool.acquire())
            await turns()
            assert REQUEST.get() == "request 2"
            assert connection.number == 1
        assert {hook for hook, _ in seen} == {"connect", "check", "reset", "close"}
        assert not [value for _, value in seen if value.startswith("request")]

    contextvars.copy_context().run(run, main, cell)


def test_a_check_is_made_only_of_what_was_idle_for_long() -> None:
    async def main() -> None:
        server = Server({})
        async with pool_of(server, check=server.check, check_after=1.0) as pool:
            await hold(pool)
            await asyncio.sleep(0.9)
            await hold(pool)
            assert server.calls["check"] == 0
            await asyncio.sleep(1.1)
            await hold(pool)
            assert server.calls["check"] == 1

    testing.run(main)


def test_one_that_fails_its_check_is_replaced_and_its_user_notices_nothing() -> None:
    async def main() -> None:
        server = Server({"check": "raises"}, "first")
        async with pool_of(server, check=server.check, check_after=0.0) as pool:
            first = await hold(pool)
            await asyncio.sleep(1)
            assert await hold(pool) is not first
            assert not first.is_open
            assert pool.stats().check_failures == 1

    testing.run(main)


def test_the_reset_is_off_the_path_of_who_gives_back() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = Server({"reset": "slow"})
        async with pool_of(server, reset=server.reset) as pool:
            await hold(pool)
            assert loop.time() == 0, "the releaser waited for the reset"
            assert pool.stats().resetting == 1
            await hold(pool)
            assert loop.time() == pytest.approx(1.0), "and the next user for its end"

    testing.run(main)


@pytest.mark.parametrize(("order", "expected"), [("lifo", [2, 2, 2]), ("fifo", [1, 2, 1])])
def test_idle_connections_are_handed_out_warm_or_in_turn(cell: Cell, order: str, expected: list[int]) -> None:
    async def main() -> None:
        async with pool_of(Server({}), max_size=2, order=order) as pool:
            held = [await pool.acquire() for _ in range(2)]
            for connection in held:
                pool.release(connection)
            assert [(await hold(pool)).number for _ in range(3)] == expected

    run(main, cell)


def test_an_async_context_manager_is_left_by_the_task_that_entered_it(cell: Cell) -> None:
    """anyio's scopes and much else insist on that."""

    async def main() -> None:
        tasks: list[Any] = []

        @contextlib.asynccontextmanager
        async def connect() -> AsyncIterator[object]:
            tasks.append(asyncio.current_task())
            async with anyio.create_task_group():
                yield object()
            tasks.append(asyncio.current_task())

        async with Pool(connect, max_size=1) as pool:
            async with pool.acquire() as first:
                pass
            pool.discard(await pool.acquire())
            async with pool.acquire() as second:
                assert second is not first
        assert len(tasks) == 4
        assert tasks[0] is tasks[1] and tasks[2] is tasks[3] and tasks[0] is not tasks[2]

    run(main, cell)


def test_a_connection_whose_own_tasks_fail_is_replaced(cell: Cell) -> None:
    """Clients built on anyio run a task group inside of their `async with`, which ends when a reader of it fails."""

    async def main() -> None:
        server_says_no = asyncio.Event()
        numbers = itertools.count(1)

        async def reader() -> None:
            await server_says_no.wait()
            raise GateError

        @contextlib.asynccontextmanager
        async def connect() -> AsyncIterator[int]:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(reader())
                yield next(numbers)
                reading.cancel()

        async def end() -> None:
            server_says_no.set()
            await turns(12)
            server_says_no.clear()

        async with Pool(connect, max_size=1) as pool:
            async with pool.acquire() as number:
                assert number == 1
            await end()
            assert (pool.stats().idle, pool.stats().closed) == (0, 1)
            async with pool.acquire() as number:
                assert number == 2
                await end()
                assert pool.stats().in_use == 1, "it is its user's still, who will see"
            async with pool.acquire() as number:
                assert number == 3
            stats = pool.stats()
            assert (stats.opened, stats.closed) == (3, 2)

    run(main, cell)


def test_a_strategy_of_asyncio_connection_pool_is_accepted(cell: Cell) -> None:
    class Strategy:
        def __init__(self, server: Server) -> None:
            self.server = server

        async def make_connection(self) -> Connection:
            return await self.server.connect()

        def connection_is_closed(self, connection: Connection) -> bool:
            return not connection.is_open

        async def close_connection(self, connection: Connection) -> None:
            await self.server.close(connection)

    async def main() -> None:
        server = Server({})
        async with Pool(Strategy(server), max_size=1) as pool:
            async with pool.acquire() as first:
                server.open.discard(first)
            second = await hold(pool)
            assert second is not first
            server.open.discard(second)  # it dies while nobody uses it
            assert await hold(pool) is not second
        assert not server.open

    run(main, cell)


# ------------------------------------------------------------------------------------------ waits that end, and say why


def test_max_waiting_fails_fast(cell: Cell) -> None:
    async def main() -> None:
        async with pool_of(Server({}), max_waiting=1, name="pg") as pool:
            connection = await pool.acquire()
            waiter = asyncio.create_task(hold(pool))
            await turns()
            with pytest.raises(PoolFull, match="pg") as caught:
                await pool.acquire()
            assert "1" in str(caught.value) and "max_waiting" in str(caught.value)
            pool.release(connection)
            await waiter

    run(main, cell)


def test_a_timeout_says_that_all_were_in_use_by_whom_and_what_to_change() -> None:
    async def main() -> None:
        async with pool_of(Server({}), max_size=2, timeout=3.0, leak_after=60.0, name="pg") as pool:
            done = asyncio.Event()

            async def slow_report() -> None:
                async with pool.acquire():
                    await done.wait()

            holders = [asyncio.create_task(slow_report(), name=name) for name in ("report-1", "report-2")]
            await turns()
            with pytest.raises(PoolTimeout) as caught:
                await pool.acquire()
            assert asyncio.get_running_loop().time() == pytest.approx(3.0)
            error, text = caught.value, str(caught.value)
            assert isinstance(error, TimeoutError)
            assert (error.phase, error.in_use) == ("wait", 2)
            for word in ("pg", "report-1", "report-2", "test_pool_promises.py:", "max_size", "3"):
                assert word in text, f"{word} is not in: {text}"
            done.set()
            await asyncio.wait(holders)

    testing.run(main)


@pytest.mark.parametrize("phase", ["connect", "check", "reset", "wait"])
def test_a_timeout_says_in_which_phase(phase: str) -> None:
    async def main() -> None:
        server = Server({phase: "hangs"})
        async with pool_of(
            server, check=server.check, reset=server.reset, check_after=0.0, hook_timeout=60.0, connect_timeout=60.0
        ) as pool:
            if phase == "check":
                await hold(pool)
                await asyncio.sleep(1)
            elif phase == "reset":
                await hold(pool)
            elif phase == "wait":
                await pool.acquire()
            with pytest.raises(PoolTimeout, match=phase) as caught:
                await pool.acquire(timeout=2.0)
            assert caught.value.phase == phase
            server.heal()

    testing.run(main)


def test_a_timeout_of_zero_takes_what_is_there_and_waits_for_nothing(cell: Cell) -> None:
    async def main() -> None:
        async with pool_of(Server({})) as pool:
            await hold(pool)
            async with pool.acquire(timeout=0):
                with pytest.raises(PoolTimeout):
                    await pool.acquire(timeout=0)

    run(main, cell)


def test_a_leak_is_reported_once_with_task_and_line(caplog: pytest.LogCaptureFixture) -> None:
    events: list[Any] = []

    async def main() -> None:
        async with pool_of(Server({}), leak_after=10.0, on_event=events.append, name="pg") as pool:

            async def forgetful() -> Connection:
                return await pool.acquire()

            connection = await asyncio.create_task(forgetful(), name="forgetful-7")
            await asyncio.sleep(100)
            assert [event.kind for event in events].count("leak") == 1
            pool.release(connection)

    with caplog.at_level(logging.WARNING, "loopwright.pool"):
        testing.run(main)
    (record,) = [record for record in caplog.records if "forgetful-7" in record.getMessage()]
    assert "test_pool_promises.py:" in record.getMessage()
    assert "pg" in record.getMessage()


# ------------------------------------------------------------------------------------------------ a server that is down


def test_a_server_that_is_down_tells_a_thousand_waiters_by_few_connects() -> None:
    """They get its own error, promptly, and not a timeout of the pool thirty seconds later."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = Server({"connect": "raises"})
        async with pool_of(server, max_size=10) as pool:
            results = await asyncio.gather(*(hold(pool) for _ in range(1000)), return_exceptions=True)
            assert all(isinstance(result, GateError) for result in results)
            assert loop.time() < 1
            assert server.calls["connect"] <= 12, "one round of connects and a probe"
            for _ in range(20):  # a second thousand, a little each
                await asyncio.gather(*(hold(pool) for _ in range(50)), return_exceptions=True)
            assert server.calls["connect"] <= 12 + 21
            server.heal()
            await asyncio.sleep(5)
            began = loop.time()
            await asyncio.gather(*(hold(pool) for _ in range(100)))
            assert loop.time() - began < 1, "it is back at once when the server is"

    testing.run(main)


def test_the_error_of_each_waiter_is_its_own() -> None:
    """One traceback that grows by a frame for each of a thousand waiters would be a leak of its own."""

    async def main() -> None:
        server = Server({"connect": "raises"})
        async with pool_of(server) as pool:
            errors = await asyncio.gather(*(hold(pool) for _ in range(50)), return_exceptions=True)
            for error in errors:
                assert isinstance(error, GateError)
                depth, trace = 0, error.__traceback__
                while trace is not None:
                    depth, trace = depth + 1, trace.tb_next
                assert depth < 20

    testing.run(main)


def test_min_size_is_kept_warm_and_refilled_with_back_off() -> None:
    async def main() -> None:
        server = Server({})
        async with pool_of(server, min_size=3, max_size=5) as pool:
            await asyncio.sleep(1)
            assert pool.stats().idle == 3
            server.healed, server.gates, server.when = False, {"connect": "raises"}, "always"
            pool.expire_all()
            before = server.calls["connect"]
            await asyncio.sleep(60)
            tried = server.calls["connect"] - before
            assert 60 / 5 / 2 <= tried <= 60, f"{tried} attempts in a minute"
            assert pool.stats().idle == 0
            server.heal()
            await asyncio.sleep(12)
            assert pool.stats().idle == 3

    testing.run(main)


def test_warm_opens_min_size_and_raises_what_its_connect_raises() -> None:
    async def main() -> None:
        server = Server({})
        pool = pool_of(server, min_size=2, max_size=3)
        await pool.warm()
        assert pool.stats().idle == 2
        await pool.aclose()
        pool = pool_of(Server({"connect": "raises"}), min_size=2, max_size=3)
        with pytest.raises(GateError):
            await pool.warm()
        await pool.aclose()

    testing.run(main)


# ----------------------------------------------------------------------------------------------------------------- ages


def test_jitter_spreads_lifetimes_so_that_a_fleet_does_not_reconnect_in_one_second() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server, ends = Server({}), []

        async def close(connection: Connection) -> None:
            ends.append(loop.time())
            await server.close(connection)

        async with pool_of(server, close=close, max_size=50, max_lifetime=100.0, jitter=0.2, max_idle=math.inf) as pool:
            held = [await pool.acquire() for _ in range(50)]
            for connection in held:
                pool.release(connection)
            await asyncio.sleep(100.5)
            assert len(ends) == 50
            assert min(ends) > 79 and max(ends) <= 100.1
            assert max(ends) - min(ends) > 10
            assert max(sum(second <= end < second + 1 for end in ends) for second in range(79, 101)) < 15
            assert pool.stats().opened == 50, "nothing is opened that nobody asked for"

    testing.run(main)


def test_what_is_idle_for_max_idle_goes_and_min_size_stays() -> None:
    async def main() -> None:
        server = Server({})
        async with pool_of(server, max_size=4, min_size=1, max_idle=10.0) as pool:
            held = [await pool.acquire() for _ in range(4)]
            for connection in held:
                pool.release(connection)
            await asyncio.sleep(12)
            assert pool.stats().idle == 1
            assert len(server.open) == 1

    testing.run(main)


def test_a_lifetime_that_ends_in_use_ends_at_the_return() -> None:
    async def main() -> None:
        server = Server({})
        async with pool_of(server, max_lifetime=10.0, jitter=0.0) as pool:
            async with pool.acquire() as connection:
                await asyncio.sleep(50)
                assert connection.is_open
            await asyncio.sleep(0.1)
            assert not connection.is_open

    testing.run(main)


@pytest.mark.parametrize("linger", [0.0, 5.0])
def test_a_burst_goes_when_it_comes_back_or_after_its_linger(linger: float) -> None:
    async def main() -> None:
        server = Server({}, limit=lambda: 4)
        async with pool_of(server, max_size=1, burst=3, burst_linger=linger) as pool:
            held = [await pool.acquire() for _ in range(4)]
            for connection in held:
                pool.release(connection)
            await asyncio.sleep(0.1)
            assert len(server.open) == (1 if linger == 0.0 else 4)
            await asyncio.sleep(linger + 0.1)
            assert len(server.open) == 1

    testing.run(main)


# --------------------------------------------------------------------------------------------- changed while it is used


def test_a_smaller_size_takes_nothing_from_its_users(cell: Cell) -> None:
    async def main() -> None:
        server = Server({})
        async with pool_of(server, max_size=3) as pool:
            held = [await pool.acquire() for _ in range(3)]
            waiter = asyncio.create_task(hold(pool))
            await turns()
            pool.resize(max_size=1)
            assert all(connection.is_open for connection in held)
            for connection in held[:2]:
                pool.release(connection)
                await turns()
                assert not waiter.done()
            pool.release(held[2])
            assert await waiter is held[2]
            await turns()
            assert len(server.open) == 1

    run(main, cell)


def test_expire_all_replaces_every_connection_and_breaks_no_use(cell: Cell) -> None:
    """After a failover: what leads to the old server goes, when nobody uses it."""

    async def main() -> None:
        server = Server({})
        async with pool_of(server, max_size=2) as pool:
            used, idle = await pool.acquire(), await pool.acquire()
            pool.release(idle)
            pool.expire_all()
            await turns()
            assert used.is_open and not idle.is_open
            pool.release(used)
            await turns()
            assert not used.is_open
            assert await hold(pool) not in (used, idle)

    run(main, cell)


def test_drain_serves_the_line_and_lets_nobody_in(cell: Cell) -> None:
    async def main() -> None:
        server = Server({})
        pool = pool_of(server)
        connection = await pool.acquire()
        served: list[str] = []
        line = [asyncio.create_task(take_and_give(pool, served, name)) for name in "ab"]
        await turns()
        draining = asyncio.create_task(pool.drain())
        await turns()
        with pytest.raises(PoolClosed):
            await pool.acquire()
        assert pool.try_acquire() is None
        assert not draining.done()
        pool.release(connection)
        await draining
        assert served == ["a", "b"]
        await asyncio.gather(*line)
        assert not server.open
        await pool.aclose()

    run(main, cell)


def test_aclose_waits_for_its_users_then_aborts_what_they_have() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = Server({})
        pool = pool_of(server, max_size=2)
        quick, slow = asyncio.create_task(hold(pool, 1)), asyncio.create_task(hold(pool, 100))
        await turns()
        late = asyncio.create_task(hold(pool, 100))
        later = asyncio.create_task(hold(pool))
        await turns()
        await pool.aclose(grace=3)
        assert loop.time() == pytest.approx(3)
        assert quick.done() and not slow.done() and not late.done(), "the line was served meanwhile"
        with pytest.raises(PoolClosed):
            await later
        assert not server.open
        await asyncio.gather(slow, late)
        await pool.aclose()

    testing.run(main)


def test_aclose_is_never_half_done_when_it_is_cancelled() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = Server({"close": "slow"})
        pool = pool_of(server, max_size=3)
        held = [await pool.acquire() for _ in range(3)]
        pool.release(held[0])
        pool.release(held[1])
        closing = asyncio.create_task(pool.aclose(grace=60))
        await asyncio.sleep(0.5)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert loop.time() < 0.5 + 5, "a cancel shortens the grace"
        assert not server.open, "and leaves nothing open"
        pool.release(held[2])

    testing.run(main)


def test_a_release_after_the_end_is_no_error(cell: Cell) -> None:
    async def main() -> None:
        server = Server({})
        pool = pool_of(server)
        async with pool.acquire():
            await pool.aclose(grace=0)
        assert not server.open
        with pytest.raises(PoolClosed):
            await pool.acquire()

    run(main, cell)


def test_a_connection_is_given_back_once_and_to_its_own_pool(cell: Cell) -> None:
    async def main() -> None:
        async with pool_of(Server({})) as pool:
            connection = await pool.acquire()
            pool.release(connection)
            with pytest.raises(ValueError, match="given back"):
                pool.release(connection)
            with pytest.raises(ValueError):
                pool.release(Connection(Server({}), 7))

    run(main, cell)


# -------------------------------------------------------------------------------------------- loops, threads, processes


def test_two_event_loops_one_after_the_other(cell: Cell) -> None:
    """Connections of a loop that is closed are forgotten; the pool goes on in the next one."""
    server = Server({})
    pool = pool_of(server)
    numbers: list[int] = []

    async def main() -> None:
        numbers.append((await hold(pool)).number)

    run(main, cell)
    run(main, cell)
    assert numbers == [1, 2]
    assert pool.stats().abandoned == 1

    async def end() -> None:
        await pool.aclose()

    run(end, cell)


def test_two_event_loops_one_after_the_other_closed_in_between(cell: Cell) -> None:
    server = Server({})

    async def main() -> None:
        async with pool_of(server) as pool:
            await hold(pool)
        balanced(pool, server)

    run(main, cell)
    run(main, cell)


def test_use_from_another_thread_is_a_clear_error(cell: Cell) -> None:
    async def main() -> None:
        server = Server({})
        async with pool_of(server, name="pg") as pool:
            await hold(pool)
            errors: list[BaseException] = []

            async def elsewhere() -> None:
                await pool.acquire()

            def thread() -> None:
                try:
                    asyncio.run(elsewhere())
                except BaseException as error:
                    errors.append(error)

            worker = threading.Thread(target=thread)
            worker.start()
            worker.join()
            (error,) = errors
            assert isinstance(error, LoopMismatch), error
            await hold(pool)
            assert server.opened == 1

    run(main, cell)


FORKED = """
    import asyncio, os, sys
    from loopwright import Pool

    class Connection:
        def __init__(self):
            self.pid, self.touched = os.getpid(), []
        def __getattr__(self, name):
            self.touched.append(name)
            raise AttributeError(name)
        def __del__(self):
            if os.getpid() != self.pid:
                os.write(2, b"the child finalised a connection of its parent\\n")

    async def connect():
        return Connection()

    async def close(connection):
        assert connection.pid == os.getpid(), "the child closed a connection of its parent"

    def abort(connection):
        assert connection.pid == os.getpid(), "the child aborted a connection of its parent"

    pool = Pool(connect, close=close, abort=abort, max_size=3, min_size=1)

    async def warm():
        held = [await pool.acquire() for _ in range(3)]
        for connection in held[:2]:
            pool.release(connection)
        return held

    async def use(count):
        held = [await pool.acquire() for _ in range(count)]
        for connection in held:
            assert connection.pid == os.getpid(), "the child got a connection of its parent"
            pool.release(connection)
        await pool.aclose()
"""


def forked(body: str) -> str:
    program = textwrap.dedent(FORKED) + textwrap.dedent(body)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_after_a_fork_inherited_connections_are_never_used() -> None:
    """As under gunicorn --preload: the loop that opened them has ended, workers are forked, each runs its own."""
    out = forked("""
        held = asyncio.run(warm())
        children = []
        for _ in range(2):
            if (child := os.fork()) == 0:
                asyncio.run(use(3))
                sys.stdout.write("used\\n")
                sys.stdout.flush()
                del held
                os._exit(0)
            children.append(child)
        for child in children:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        """)
    assert out == "used\nused\n"


def test_a_fork_in_the_middle_of_a_loop_leaves_the_parent_whole() -> None:
    out = forked("""
        async def parent():
            held = await warm()
            if (child := os.fork()) == 0:
                asyncio.events._set_running_loop(None)
                asyncio.set_event_loop(None)
                asyncio.run(use(3))
                sys.stdout.write("child\\n")
                sys.stdout.flush()
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            pool.release(held[2])
            assert pool.stats().idle == 3
            await use(3)
            print("parent")
        asyncio.run(parent())
        """)
    assert out == "child\nparent\n"


# ------------------------------------------------------------------------------------------------ anyio's cancel scopes


def test_anyio_fail_after_around_our_waits() -> None:
    async def main() -> None:
        server = Server({})
        async with pool_of(server) as pool:
            async with pool.acquire() as connection:
                with pytest.raises(TimeoutError):
                    with anyio.fail_after(1):
                        await pool.acquire()
                assert pool.stats().waiting == 0
            with pytest.raises(TimeoutError):
                with anyio.fail_after(1):
                    async with pool.acquire():
                        await connection.request(5)
            await turns()
            assert not connection.is_open, "a level cancel crossed its block"
            await hold(pool)
            balanced(pool, server)

    testing.run(main)


def test_a_cancelled_anyio_scope_loses_no_connection() -> None:
    """It cancels again at each await: an exit that awaits something gets no further than its first await."""

    async def main() -> None:
        server = Server({"close": "slow", "reset": "slow"})
        async with pool_of(server, max_size=2, reset=server.reset) as pool:
            for how in ("waiting", "holding", "granted"):
                with anyio.CancelScope() as scope:
                    if how == "waiting":
                        held = [await pool.acquire() for _ in range(2)]
                        asyncio.get_running_loop().call_later(1, scope.cancel)
                        try:
                            await pool.acquire()
                        finally:
                            for connection in held:
                                pool.release(connection)
                    elif how == "holding":
                        async with pool.acquire() as connection:
                            scope.cancel()
                            await connection.request(5)
                    else:
                        scope.cancel()
                        async with pool.acquire():
                            await anyio.sleep(5)
                assert scope.cancelled_caught
                await asyncio.sleep(5)
                assert (pool.stats().in_use, pool.stats().waiting) == (0, 0)
            await asyncio.gather(hold(pool), hold(pool))
            await asyncio.sleep(5)
            balanced(pool, server)

    testing.run(main)


# ------------------------------------------------------------------------------------------------ what it leaves behind


def test_twenty_thousand_waiters_are_served() -> None:
    async def main() -> None:
        async with pool_of(Server({}), max_size=10) as pool:
            held = [await pool.acquire() for _ in range(10)]
            served: list[int] = []
            tasks = [asyncio.create_task(take_and_give(pool, served, number)) for number in range(20_000)]
            await turns()
            for connection in held:
                pool.release(connection)
            await asyncio.gather(*tasks)
            assert served == list(range(20_000))

    asyncio.run(main())


def test_a_pool_that_was_closed_leaves_no_task_no_timer_and_no_cycle() -> None:
    async def main() -> None:
        server = Server({})
        async with pool_of(server, max_size=3, min_size=1, leak_after=5.0) as pool:
            await asyncio.gather(*(hold(pool) for _ in range(10)))
        assert asyncio.all_tasks() == {asyncio.current_task()}

    testing.run(main, leaks=True)
    gc.collect()
