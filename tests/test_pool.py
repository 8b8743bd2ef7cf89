"""Pool: no connection lost, none dirty, none too many, nobody asleep."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import gc
import logging
import math
import os
import pickle
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from support.loops import Cell, run

from loopwright import (
    KeyedPool,
    LoopMismatch,
    Pool,
    PoolClosed,
    PoolEvent,
    PoolFull,
    PoolTimeout,
    _loopwright,
    timeout,
)
from loopwright.testing import Deadlock, SimLoop, leak_checks


class Connection:
    """One that knows what was done to it."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.closed = self.aborted = False
        self.uses = self.resets = self.checks = 0
        self.dirty = False

    async def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def __repr__(self) -> str:
        return f"<c{self.number}>"


class Server:
    """Opens connections, and can be down, slow or gone."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.made: list[Connection] = []
        self.error: Exception | None = None
        self.attempts = 0
        self.gate: asyncio.Event | None = None

    async def connect(self) -> Connection:
        self.attempts += 1
        await asyncio.sleep(self.delay)
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.made.append(Connection(len(self.made) + 1))
        return self.made[-1]

    @property
    def open(self) -> int:
        return sum(not (c.closed or c.aborted) for c in self.made)


def simulate(main: Callable[[], Awaitable[Any]]) -> None:
    """Runs a test in virtual time."""
    with asyncio.Runner(loop_factory=SimLoop) as runner:

        async def enter() -> None:
            await main()

        runner.run(enter())


async def turns(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def check_books(pool: Pool[Any]) -> None:
    stats = pool.stats()
    assert stats.opened - stats.closed - stats.abandoned == stats.size


# ------------------------------------------------------------------------------------------------ acquire and release


def test_a_block_gets_a_connection_and_gives_it_back(cell: Cell) -> None:
    async def main() -> None:
        server = Server()
        async with Pool(server.connect, max_size=2) as pool:
            async with pool.acquire() as first:
                assert (pool.stats().in_use, pool.stats().idle) == (1, 0)
                async with pool.acquire() as second:
                    assert first is not second
            assert (pool.stats().in_use, pool.stats().idle) == (0, 2)
            async with pool.acquire() as again:
                assert again is first  # lifo: the one used last
        assert server.open == 0 and pool.stats().size == 0

    run(main, cell)


def test_what_is_awaited_is_given_back_by_hand(cell: Cell) -> None:
    async def main() -> None:
        async with Pool(Server().connect, max_size=1) as pool:
            connection = await pool.acquire()
            assert pool.try_acquire() is None
            pool.release(connection)
            assert pool.try_acquire() is connection
            pool.release(connection)
            with pytest.raises(ValueError, match="given back already"):
                pool.release(connection)
            with pytest.raises(ValueError, match="none of the pool's"):
                pool.release(Connection())

    run(main, cell)


def test_a_release_hands_over_in_the_same_turn_in_the_order_of_arrival(cell: Cell) -> None:
    async def main() -> None:
        async with Pool(Server().connect, max_size=1) as pool:
            order = []

            async def use(name: int) -> None:
                async with pool.acquire():
                    order.append(name)

            connection = await pool.acquire()
            tasks = [asyncio.create_task(use(name)) for name in range(5)]
            await turns()
            assert pool.stats().waiting == 5
            pool.release(connection)
            assert pool.stats().in_use == 1 and pool.stats().waiting == 4  # reserved at once
            assert pool.try_acquire() is None  # nobody barges
            await asyncio.gather(*tasks)
            assert order == [0, 1, 2, 3, 4]

    run(main, cell)


def test_cancelled_in_the_tick_of_the_hand_over_passes_the_connection_on(cell: Cell) -> None:
    async def main() -> None:
        async with Pool(Server().connect, max_size=1) as pool:
            connection = await pool.acquire()
            victim, heir = (asyncio.ensure_future(pool.acquire()) for _ in range(2))
            await turns()
            pool.release(connection)
            victim.cancel()
            with pytest.raises(asyncio.CancelledError):
                await victim
            assert await heir is connection
            pool.release(connection)
            check_books(pool)

    run(main, cell)


def test_a_connect_in_flight_belongs_to_the_pool_not_to_its_caller(cell: Cell) -> None:
    async def main() -> None:
        server = Server()
        server.gate = asyncio.Event()
        async with Pool(server.connect, max_size=1) as pool:
            first, second = (asyncio.ensure_future(pool.acquire()) for _ in range(2))
            await turns()
            first.cancel()
            await turns()
            server.gate.set()
            assert (await second).number == 1
            assert server.attempts == 1
            pool.release(server.made[0])

    run(main, cell)


def test_timeouts_say_in_which_phase_and_how_many_were_in_use() -> None:
    async def main() -> None:
        server = Server()
        async with Pool(server.connect, max_size=1, name="db", leak_after=60) as pool:
            async with pool.acquire():
                with pytest.raises(PoolTimeout) as caught:
                    await pool.acquire(timeout=3)
            assert (caught.value.phase, caught.value.in_use) == ("wait", 1)
            assert "Pool 'db'" in str(caught.value) and "max_size" in str(caught.value)
            assert "test_pool.py" in caught.value.holders[0]
            copy = pickle.loads(pickle.dumps(caught.value))
            assert (str(copy), copy.phase, copy.holders) == (
                str(caught.value),
                "wait",
                caught.value.holders,
            )
            server.gate = asyncio.Event()
            pool.discard(await pool.acquire())
            await turns()
            with pytest.raises(PoolTimeout) as caught:
                await pool.acquire(timeout=3)
            assert caught.value.phase == "connect"
            server.gate.set()

    simulate(main)


# ------------------------------------------------------------------------------------------------------- cleanliness


def test_a_connection_whose_user_was_cancelled_is_reset_or_dropped_never_handed_on_dirty(cell: Cell) -> None:
    async def main() -> None:
        resets: list[Connection] = []

        async def reset(connection: Connection) -> None:
            resets.append(connection)

        async def use(pool: Pool[Connection]) -> None:
            async with pool.acquire():
                await asyncio.sleep(100)

        for hook, reused in ((reset, True), (None, False)):
            async with Pool(Server().connect, max_size=1, reset=hook) as pool:
                task = asyncio.create_task(use(pool))
                await asyncio.sleep(0.01)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                async with pool.acquire() as connection:
                    assert (connection.number == 1) is reused
                check_books(pool)
        assert resets[0].number == 1

    run(main, cell)


def test_an_ordinary_application_error_costs_no_clean_connection() -> None:
    async def main() -> None:
        async with Pool(Server().connect, max_size=1) as pool:
            for error in (KeyError("x"), ValueError(), ExceptionGroup("", [KeyError()])):
                with contextlib.suppress(Exception):
                    async with pool.acquire():
                        raise error
            assert (pool.stats().opened, pool.stats().idle) == (1, 1)

    run(main)


def test_an_error_from_inside_a_driver_call_costs_the_connection() -> None:
    class Driver(Connection):
        def query(self) -> None:
            raise RuntimeError("protocol error")

    async def connect() -> Driver:
        return Driver()

    async def main() -> None:
        async with Pool(connect, max_size=1) as pool:
            for make in (Driver.query, lambda _: (_ for _ in ()).throw(TimeoutError())):
                with pytest.raises((RuntimeError, TimeoutError)):
                    async with pool.acquire() as connection:
                        make(connection)
            assert pool.stats().idle == 0 and pool.stats().opened == 2

    run(main)


def test_is_clean_finds_the_interruption_that_was_swallowed_inside_the_block() -> None:
    async def main() -> None:
        server = Server()
        async with Pool(server.connect, max_size=1, is_clean=lambda c: not c.dirty) as pool:
            async with pool.acquire() as connection:
                connection.dirty = True  # what `wait_for(c.get(), .01)` in a `try` leaves behind
            assert (await pool.acquire()).number == 2
            server.made[1].dirty = True
            pool.release(server.made[1])  # by hand, too
            assert (await pool.acquire()).number == 3
            pool.release(server.made[2])

    run(main)


def test_an_is_clean_that_raises_costs_the_connection_and_is_reported() -> None:
    async def main() -> None:
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        async with Pool(Server().connect, is_clean=lambda c: c.nothing) as pool:
            async with pool.acquire():
                pass
            await turns()
            assert pool.stats().idle == 0
        assert "is_clean" in reported[0]["message"]

    run(main)


def test_what_is_closed_is_never_handed_out(cell: Cell) -> None:
    async def main() -> None:
        server = Server()

        def is_closed(connection: Connection) -> bool:
            return connection.dirty

        async with Pool(server.connect, max_size=1, is_closed=is_closed) as pool:
            async with pool.acquire() as first:
                pass
            first.dirty = True
            async with pool.acquire() as second:
                assert second is not first
                second.dirty = True
            assert pool.try_acquire() is None
            async with pool.acquire() as third:
                assert third is not second
            check_books(pool)

    run(main, cell)


def test_a_shared_connection_that_is_closed_gets_no_new_users(cell: Cell) -> None:
    async def main() -> None:
        server = Server()
        options = {"max_size": 2, "max_per_key": 2, "sharing": True, "is_closed": lambda connection: connection.dirty}
        async with KeyedPool(lambda key: server.connect(), **options) as pool:
            async with pool.acquire("host") as first:
                async with pool.acquire("host") as same:
                    assert same is first
                first.dirty = True
                async with pool.acquire("host") as second:
                    assert second is not first
                assert not first.closed
            async with pool.acquire("host") as same:
                assert same is second

    run(main, cell)


def test_hooks_that_are_asked_at_once_are_plain_functions() -> None:
    async def asked(connection: object) -> bool:
        return True

    for name in ("is_clean", "is_closed"):
        with pytest.raises(TypeError, match=rf"Pool\({name}=...\) must be a plain function"):
            Pool(lambda: None, **{name: asked})


def test_reset_is_off_the_releasers_path_and_bounded_in_time() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def reset(connection: Connection) -> None:
            connection.resets += 1
            await gate.wait()

        server = Server()
        async with Pool(server.connect, max_size=2, reset=reset, hook_timeout=5) as pool:
            async with pool.acquire():
                pass
            await turns()
            assert pool.stats().resetting == 1
            gate.set()
            await turns()
            assert pool.stats().idle == 1
            gate.clear()
            async with pool.acquire():
                pass
            await asyncio.sleep(6)
            assert server.made[0].aborted and not server.made[0].closed
            assert pool.stats().abandoned == 1 and pool.stats().size == 0

    simulate(main)


def test_a_check_is_made_only_after_check_after_and_a_failed_one_brings_a_new_connection() -> None:
    async def main() -> None:
        async def check(connection: Connection) -> bool:
            connection.checks += 1
            return connection.checks < 2

        server = Server()
        async with Pool(server.connect, max_size=1, check=check, check_after=1.0) as pool:
            for wait, checks, number in ((0.5, 0, 1), (2.0, 1, 1), (2.0, 0, 2)):
                async with pool.acquire():
                    pass
                await asyncio.sleep(wait)
                async with pool.acquire() as connection:
                    assert (connection.checks, connection.number) == (checks, number)
            assert pool.stats().check_failures == 1 and server.open == 1

    simulate(main)


def test_hooks_may_be_plain_functions() -> None:
    async def main() -> None:
        calls: list[str] = []
        pool = Pool(
            lambda: Connection(1),
            max_size=1,
            check=lambda c: calls.append("check"),
            check_after=0,
            reset=lambda c: calls.append("reset"),
            close=lambda c: calls.append("close"),
        )
        async with pool:
            for _ in range(2):
                async with pool.acquire():
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.01)
        assert calls == ["reset", "check", "reset", "close"]

    simulate(main)


# ------------------------------------------------------------------------------------------------ sizes, ages, burst


def test_min_size_is_kept_warm_and_refilled_in_the_background() -> None:
    async def main() -> None:
        server = Server()
        async with Pool(server.connect, min_size=2, max_size=3, max_idle=10) as pool:
            await pool.warm()
            assert pool.stats().idle == 2
            await asyncio.sleep(100)
            assert pool.stats().idle == 2  # max_idle leaves them
            pool.discard(await pool.acquire())
            await asyncio.sleep(1)
            assert pool.stats().idle == 2 and server.attempts == 3
            pool.expire_all()
            await asyncio.sleep(1)
            assert pool.stats().idle == 2 and server.attempts == 5
            server.error = ConnectionRefusedError("down")
            pool.expire_all()
            await asyncio.sleep(60)
            assert 10 < server.attempts < 100  # with back-off
            server.error = None
            await asyncio.sleep(10)
            assert pool.stats().idle == 2

    simulate(main)


def test_warm_raises_the_connects_error() -> None:
    async def main() -> None:
        server = Server()
        server.error = ConnectionRefusedError("down")
        async with Pool(server.connect, min_size=2) as pool:
            with pytest.raises(ConnectionRefusedError):
                await pool.warm()

    simulate(main)


@pytest.mark.parametrize("linger", [0.0, 5.0])
def test_burst_connections_go_when_they_come_back_after_their_linger(linger: float) -> None:
    async def main() -> None:
        async with Pool(Server().connect, max_size=2, burst=2, burst_linger=linger) as pool:
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(4):
                    await stack.enter_async_context(pool.acquire())
                assert pool.stats().in_use == 4
                with pytest.raises(PoolTimeout):
                    await pool.acquire(timeout=1)
            await asyncio.sleep(1)
            assert pool.stats().idle == (4 if linger else 2)
            await asyncio.sleep(5)
            assert pool.stats().idle == 2

    simulate(main)


def test_idle_and_old_connections_are_closed_and_ages_are_spread_by_jitter() -> None:
    async def main() -> None:
        server = Server()
        async with Pool(server.connect, max_idle=10, max_lifetime=math.inf) as pool:
            async with pool.acquire():
                pass
            await asyncio.sleep(9)
            assert pool.stats().idle == 1
            await asyncio.sleep(2)
            assert pool.stats().idle == 0 and pool.stats().expired == 1
        ages: list[float] = []
        loop = asyncio.get_running_loop()

        def note(event: PoolEvent) -> None:
            if event.kind == "closed":
                ages.append(loop.time() - start)

        start = loop.time()
        async with Pool(server.connect, max_size=50, max_lifetime=100, jitter=0.2, on_event=note) as pool:
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(50):
                    await stack.enter_async_context(pool.acquire())
            await asyncio.sleep(101)
            assert len(ages) == 50 and 79 <= min(ages) < 90 < max(ages) <= 100.1
            assert len(set(ages)) > 40

    simulate(main)


def test_order_is_lifo_to_keep_few_warm_or_fifo_for_even_wear() -> None:
    async def main() -> None:
        for order, same in (("lifo", True), ("fifo", False)):
            async with Pool(Server().connect, order=order) as pool:  # type: ignore[arg-type]
                first, second = await pool.acquire(), await pool.acquire()
                pool.release(first)
                pool.release(second)
                next_one = pool.try_acquire()
                assert (next_one is second) is same
                pool.release(next_one or first)

    run(main)


def test_max_waiting_fails_fast() -> None:
    async def main() -> None:
        async with Pool(Server().connect, max_size=1, max_waiting=1) as pool:
            connection = await pool.acquire()
            waiter = asyncio.ensure_future(pool.acquire())
            await turns()
            with pytest.raises(PoolFull, match="max_waiting"):
                await pool.acquire()
            pool.release(connection)
            pool.release(await waiter)
            assert pool.stats().refused == 1

    run(main)


def test_resize_serves_who_waits_at_once_and_shrinks_as_connections_come_back() -> None:
    async def main() -> None:
        async with Pool(Server().connect, max_size=1) as pool:
            first = await pool.acquire()
            waiter = asyncio.ensure_future(pool.acquire())
            await turns()
            pool.resize(max_size=2)
            second = await waiter
            pool.resize(max_size=1)
            pool.release(first)
            await turns()
            assert pool.stats().size == 1
            pool.release(second)
            await turns()
            assert pool.stats().size == 1
            with pytest.raises(ValueError, match="min_size"):
                pool.resize(min_size=2)

    run(main)


def test_expire_all_closes_idle_ones_at_once_and_those_in_use_when_they_come_back() -> None:
    async def main() -> None:
        server = Server()
        async with Pool(server.connect) as pool:
            first, second = await pool.acquire(), await pool.acquire()
            pool.release(first)
            pool.expire_all()
            await turns()
            assert first.closed and not second.closed
            pool.release(second)
            await turns()
            assert second.closed
            assert (await pool.acquire()).number == 3
            pool.release(server.made[2])

    run(main)


# -------------------------------------------------------------------------------------------------- failing connects


def test_a_server_that_is_down_is_told_with_its_own_error_and_a_crowd_is_not_a_crowd_of_connects() -> None:
    async def main() -> None:
        server = Server(delay=0.01)
        server.error = ConnectionRefusedError("no server")
        loop = asyncio.get_running_loop()
        async with Pool(server.connect, max_size=10, timeout=30) as pool:
            start = loop.time()
            results = await asyncio.gather(*(pool.acquire() for _ in range(1000)), return_exceptions=True)
            assert all(isinstance(result, ConnectionRefusedError) for result in results)
            assert loop.time() - start < 1 and server.attempts <= 20
            assert pool.stats().connect_failures == server.attempts

    simulate(main)


def test_after_a_failed_connect_the_next_in_line_is_not_forgotten() -> None:
    async def main() -> None:
        server = Server(delay=0.01)
        async with Pool(server.connect, max_size=2) as pool:
            held = await pool.acquire()
            server.error = OSError("one time")
            waiter = asyncio.ensure_future(pool.acquire())
            await asyncio.sleep(0.02)
            assert not waiter.done()  # another connection is alive: one failure is not the end of it
            server.error = None
            connection = await waiter
            assert connection is not held
            pool.release(held)
            pool.release(connection)

    simulate(main)


def test_a_connect_that_hangs_is_abandoned_and_what_it_brings_later_is_put_away() -> None:
    async def main() -> None:
        late: list[Connection] = []

        async def connect() -> Connection:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                late.append(Connection())
                return late[0]
            raise AssertionError

        async with Pool(connect, max_size=1, connect_timeout=2) as pool:
            with pytest.raises(PoolTimeout) as caught:
                await pool.acquire(timeout=10)
            assert caught.value.phase == "connect"
            await turns()
            assert late[0].closed
            assert pool.stats().abandoned_connects >= 1 and pool.stats().size == 0

    simulate(main)


# ------------------------------------------------------------------------------------------------------ forms of hooks


def test_an_async_context_manager_is_left_in_the_task_that_entered_it() -> None:
    async def main() -> None:
        tasks: list[Any] = []

        @contextlib.asynccontextmanager
        async def connect() -> AsyncIterator[Connection]:
            tasks.append(asyncio.current_task())
            async with timeout(1000):
                yield Connection()
            tasks.append(asyncio.current_task())

        async with Pool(connect, max_size=1) as pool:
            async with pool.acquire():
                pass
            assert len(tasks) == 1
        assert tasks[0] is tasks[1]
        assert (pool.stats().opened, pool.stats().closed) == (1, 1)

    simulate(main)


def test_a_connection_strategy_is_taken_in_place_of_connect() -> None:
    class Strategy:
        async def make_connection(self) -> Connection:
            return Connection()

        def connection_is_closed(self, conn: Connection, /) -> bool:
            return conn.closed

        async def close_connection(self, conn: Connection, /) -> None:
            conn.closed = True

    async def main() -> None:
        async with Pool(Strategy(), max_size=1) as pool:
            async with pool.acquire() as first:
                first.closed = True
            async with pool.acquire() as second:
                assert second is not first
        assert second.closed

    run(main)


def test_a_connect_runs_in_the_pools_own_context() -> None:
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")
    seen: list[str] = []

    async def connect() -> Connection:
        seen.append(request.get())
        return Connection()

    async def main() -> None:
        pool = Pool(connect)
        request.set("of a request")
        async with pool, pool.acquire():
            pass

    run(main)
    assert seen == ["none"]


# -------------------------------------------------------------------------------------------------- leaks and events


def test_a_leak_is_reported_with_task_and_line(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        events: list[PoolEvent] = []
        async with Pool(Server().connect, leak_after=5, on_event=events.append, name="db") as pool:
            asyncio.current_task().set_name("forgetful")  # type: ignore[union-attr]
            with caplog.at_level(logging.WARNING, "loopwright.pool"):
                async with pool.acquire():
                    await asyncio.sleep(20)
            assert [event.kind for event in events] == ["opened", "leak"]
            assert "Pool 'db'" in caplog.text and "forgetful" in caplog.text and "test_pool.py:" in caplog.text
            assert pool.stats().leaks == 1

    simulate(main)


def test_what_on_event_raises_goes_to_the_loops_exception_handler() -> None:
    async def main() -> None:
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        pool = Pool(Server().connect, on_event=lambda event: event.nothing)  # type: ignore[attr-defined]
        async with pool, pool.acquire():
            pass
        assert len(reported) == 2 and "on_event raised" in reported[0]["message"]

    run(main)


def test_stats_are_frozen_and_tell_how_long_things_took() -> None:
    async def main() -> None:
        async with Pool(Server().connect, max_size=1) as pool:

            async def use() -> None:
                async with pool.acquire():
                    await asyncio.sleep(1)

            await asyncio.gather(use(), use())
            stats = pool.stats()
            assert stats.holds.count == 2 and 1 <= stats.holds.quantile(0.5) <= 2.2
            assert stats.waits.count == 2 and 1 <= stats.waits.quantile(1) <= 2.2
            with pytest.raises(dataclasses.FrozenInstanceError):
                stats.idle = 3  # type: ignore[misc]

    simulate(main)


# ------------------------------------------------------------------------------------------------------------ the end


def test_aclose_serves_the_line_while_connections_come_back(cell: Cell) -> None:
    async def main() -> None:
        server = Server()
        pool = Pool(server.connect, max_size=1)
        connection = await pool.acquire()
        waiter = asyncio.ensure_future(pool.acquire())
        await turns()
        closing = asyncio.create_task(pool.aclose(grace=5))
        await turns()
        with pytest.raises(PoolClosed):
            await pool.acquire()
        pool.release(connection)
        assert await waiter is connection
        pool.release(connection)
        await closing
        assert connection.closed and pool.stats().size == 0 and "closed" in repr(pool)
        await pool.aclose()

    run(main, cell)


def test_after_the_grace_the_line_is_refused_and_what_is_in_use_is_cut() -> None:
    async def main() -> None:
        pool = Pool(Server().connect, max_size=1)
        connection = await pool.acquire()
        waiter = asyncio.ensure_future(pool.acquire())
        await turns()
        await pool.aclose(grace=3)
        with pytest.raises(PoolClosed):
            await waiter
        assert connection.aborted and pool.stats().abandoned == 1
        pool.release(connection)  # its user's `finally` is no error

    simulate(main)


def test_a_close_cannot_be_half_done() -> None:
    async def main() -> None:
        closed: list[Connection] = []

        async def close(connection: Connection) -> None:
            await asyncio.sleep(1)
            closed.append(connection)

        pool = Pool(Server().connect, close=close)
        held = await pool.acquire()
        async with pool.acquire():
            pass
        closing = asyncio.create_task(pool.aclose(grace=100))
        await asyncio.sleep(0.1)
        for _ in range(3):
            closing.cancel()
            await turns()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert len(closed) == 1 and held.aborted
        assert pool.stats().size == 0

    simulate(main)


def test_a_close_that_hangs_is_bounded_by_hook_timeout() -> None:
    async def main() -> None:
        async def close(connection: Connection) -> None:
            await asyncio.sleep(1000)

        loop = asyncio.get_running_loop()
        server = Server()
        pool = Pool(server.connect, close=close, hook_timeout=2)
        async with pool.acquire():
            pass
        start = loop.time()
        await pool.aclose()
        assert loop.time() - start == pytest.approx(2)
        assert server.made[0].aborted and pool.stats().abandoned == 1

    simulate(main)


# ------------------------------------------------------------------------------------------------ loops, threads, fork


def test_another_loop_or_thread_gets_a_clear_error() -> None:
    async def main() -> None:
        async with Pool(Server().connect) as pool:
            connection = await pool.acquire()
            caught: list[BaseException] = []

            def elsewhere() -> None:
                for attempt in (lambda: pool.release(connection), lambda: asyncio.run(enter())):
                    try:
                        attempt()
                    except BaseException as error:
                        caught.append(error)

            async def enter() -> None:
                async with pool.acquire():
                    pass

            await asyncio.to_thread(elsewhere)
            assert [type(error) for error in caught] == [RuntimeError, LoopMismatch]
            assert "different event loop" in str(caught[1])
            pool.release(connection)

    run(main)


def test_the_connections_of_a_closed_loop_are_forgotten() -> None:
    server = Server()
    pool = Pool(server.connect)

    async def use() -> int:
        async with pool.acquire() as connection:
            return connection.number

    assert asyncio.run(use()) == 1
    assert asyncio.run(use()) == 2
    assert server.made[0].aborted
    check_books(pool)
    assert pool.stats().abandoned == 1
    asyncio.run(pool.aclose())
    assert pool.stats().size == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_after_a_fork_inherited_connections_are_never_touched() -> None:
    server = Server()
    pool = Pool(server.connect)
    touched: list[str] = []

    class Watched(Connection):
        async def close(self) -> None:
            touched.append("close")

        def abort(self) -> None:
            touched.append("abort")

        def __del__(self) -> None:
            touched.append("del")

    async def connect() -> Connection:
        return Watched(99)

    async def use(pool: Pool[Connection]) -> Connection:
        async with pool.acquire() as connection:
            return connection

    pool = Pool(connect)
    loop = asyncio.new_event_loop()
    first = loop.run_until_complete(use(pool))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            other = asyncio.new_event_loop()
            second = other.run_until_complete(use(pool))
            stats = pool.stats()
            status = 0 if second is not first and not touched and (stats.abandoned, stats.size) == (1, 1) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert loop.run_until_complete(use(pool)) is first  # the parent's pool is as it was
    loop.run_until_complete(pool.aclose())
    loop.close()


# ---------------------------------------------------------------------------------------------------------- the lease


def test_a_lease_does_nothing_before_it_is_awaited_and_warns_when_it_never_is() -> None:
    async def main() -> None:
        server = Server()
        async with Pool(server.connect) as pool:
            with pytest.warns(RuntimeWarning, match=r"'Pool.acquire' was never awaited"):
                pool.acquire()
            await turns()
            assert server.attempts == 0

    run(main)


def test_a_lease_is_for_one_use(cell: Cell) -> None:
    async def main() -> None:
        async with Pool(Server().connect) as pool:
            lease = pool.acquire()
            async with lease:
                with pytest.raises(RuntimeError, match="second time"):
                    await lease
            with pytest.raises(RuntimeError, match="entered already"):
                async with lease:
                    pass
            assert pool.stats().idle == 1

    run(main, cell)


def test_given_back_or_discarded_inside_the_block_is_not_given_back_twice() -> None:
    async def main() -> None:
        async with Pool(Server().connect, max_size=1) as pool:
            async with pool.acquire() as first:
                pool.release(first)
                other = pool.try_acquire()  # the same connection, another's now
                assert other is first
            assert pool.stats().in_use == 1
            pool.release(first)
            async with pool.acquire() as first:
                pool.discard(first)
            await turns()
            assert first.closed and pool.stats().size == 0

    run(main)


def test_an_acquire_can_be_a_task_and_be_waited_for_with_a_timeout(cell: Cell) -> None:
    async def main() -> None:
        async with Pool(Server().connect, max_size=1) as pool:
            connection = await asyncio.create_task(pool.acquire())  # type: ignore[arg-type]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pool.acquire(), 0.01)
            pool.release(connection)
            assert await asyncio.wait_for(pool.acquire(), 5) is connection
            pool.release(connection)
            check_books(pool)

    run(main, cell)


def test_arguments_are_checked_at_the_door() -> None:
    server = Server()
    for given, error in [
        ({"max_size": 0}, ValueError),
        ({"max_size": 1.5}, TypeError),
        ({"min_size": 11}, ValueError),
        ({"order": "best"}, ValueError),
        ({"timeout": math.nan}, ValueError),
        ({"jitter": 2}, ValueError),
        ({"hook_timeout": 0}, ValueError),
        ({"close": 3}, TypeError),
        ({"is_clean": Connection.close}, TypeError),
        ({"on_event": 3}, TypeError),
    ]:
        with pytest.raises(error, match=next(iter(given))):
            Pool(server.connect, **given)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="connect"):
        Pool(3)  # type: ignore[arg-type]


def test_a_deadlock_names_the_pool_and_who_holds_its_connections() -> None:
    async def main() -> None:
        pool = Pool(Server().connect, max_size=1, timeout=math.inf, name="db", max_idle=math.inf, max_lifetime=math.inf)

        async def hoard() -> None:
            async with pool.acquire():
                await pool.acquire()

        async def starve() -> None:
            await asyncio.sleep(1)
            async with pool.acquire():
                pass

        tasks = [asyncio.create_task(hoard(), name="hoarder"), asyncio.create_task(starve(), name="starved")]
        await asyncio.gather(*tasks)

    with pytest.raises(Deadlock) as caught:
        simulate(main)
    text = str(caught.value)
    assert "'hoarder' waits for itself" in text and "waits in Pool.acquire(): pool = <Pool 'db'" in text
    assert "held by 'hoarder'" in text.split("task 'starved'")[1]


def test_the_leak_checks_name_a_pool_that_was_left_open() -> None:
    async def main(closes: bool) -> None:
        pool = Pool(Server().connect, name="db")
        async with pool.acquire():
            pass
        if closes:
            await pool.aclose()

    with leak_checks(fail=False) as leaks:
        asyncio.run(main(closes=True))
        asyncio.run(main(closes=False))
    assert [(leak.kind, "Pool 'db'" in leak.what) for leak in leaks] == [("pools", True)]


def test_a_pool_is_freed_when_it_is_closed_or_its_loop_is_gone() -> None:
    async def closed() -> weakref.ref[Any]:
        async with Pool(Server().connect) as pool, pool.acquire():
            pass
        return weakref.ref(pool)

    async def check() -> None:
        ref = await closed()
        await turns()
        gc.collect()
        assert ref() is None

    async def abandoned() -> weakref.ref[Any]:
        pool: Pool[Any] = Pool(Server().connect, max_size=1, on_event=lambda event: pool.stats())
        connection = await pool.acquire()
        connection.pool = pool  # a cycle
        next(pool.acquire().__await__())  # a waiter that nobody drives
        return weakref.ref(pool)

    asyncio.run(check())
    ref = asyncio.run(abandoned())
    _loopwright._forget_cached_hub()
    gc.collect()
    assert ref() is None
