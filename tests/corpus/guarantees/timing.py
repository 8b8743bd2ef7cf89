"""Time: later comes later, and a deadline is a deadline."""

from __future__ import annotations

import asyncio


async def timers_by_their_times() -> None:
    """call_at(): "Schedule callback to be called at the given absolute timestamp when." """
    loop, seen = asyncio.get_running_loop(), []
    now = loop.time()
    for delay in (3, 1, 2):
        loop.call_at(now + delay, seen.append, delay)
    await asyncio.sleep(4)
    assert seen == [1, 2, 3]


async def never_early() -> None:
    """call_later(): "Schedule callback to be called after the given delay number of seconds." """
    loop, seen = asyncio.get_running_loop(), []
    started = loop.time()
    for delay in (0.5, 0.25, 1.5):
        loop.call_later(delay, lambda delay=delay: seen.append(loop.time() - started >= delay))
    await asyncio.sleep(2)
    assert seen == [True, True, True]


async def a_cancelled_timer_does_not_fire() -> None:
    """Docs: "An instance of asyncio.TimerHandle is returned which can be used to cancel the callback." """
    loop, seen = asyncio.get_running_loop(), []
    timer = loop.call_later(2, seen.append, "fired")
    loop.call_later(1, timer.cancel)
    await asyncio.sleep(3)
    assert seen == []


async def what_a_timer_registers_comes_before_the_next_timer() -> None:
    """Docs: "Callbacks are called in the order in which they are registered": by the timer of 1 s, long before that of
    2 s.
    """
    loop, seen = asyncio.get_running_loop(), []

    def first() -> None:
        loop.call_soon(seen.append, "registered by the first")
        loop.call_soon(seen.append, "and after it")

    loop.call_later(1, first)
    loop.call_later(2, seen.append, "second")
    await asyncio.sleep(3)
    assert seen == ["registered by the first", "and after it", "second"]


async def timeout_turns_its_own_cancel_into_timeout_error() -> None:
    """Docs: "The asyncio.timeout() context manager is what transforms the asyncio.CancelledError into a
    TimeoutError."
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        async with asyncio.timeout(5) as deadline:
            await asyncio.sleep(60)
    except TimeoutError:
        assert deadline.expired()
        assert 5 <= loop.time() - started < 60
    else:
        raise AssertionError


async def a_timeout_in_time_does_nothing() -> None:
    """Timeout.expired(): "Return whether the context manager has exceeded its deadline (expired)." """
    async with asyncio.timeout(5) as deadline:
        await asyncio.sleep(1)
    assert not deadline.expired()
    await asyncio.sleep(10)


async def timeouts_nest() -> None:
    """Docs: "Timeout context managers can be safely nested." """
    seen = []
    try:
        async with asyncio.timeout(2):
            try:
                async with asyncio.timeout(1):
                    await asyncio.sleep(60)
            except TimeoutError:
                seen.append("inner")
            await asyncio.sleep(60)
    except TimeoutError:
        seen.append("outer")
    assert seen == ["inner", "outer"]


async def wait_for_waits_for_the_cancelled() -> None:
    """wait_for(): "The function will wait until the future is actually cancelled, so the total wait time may exceed the
    timeout."
    """
    cleaned = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(5)
            cleaned.append(True)

    try:
        await asyncio.wait_for(work(), 1)
    except TimeoutError:
        assert cleaned
    else:
        raise AssertionError


async def sleeping_lets_others_run() -> None:
    """Docs: "sleep() always suspends the current task, allowing other tasks to run." """
    seen = []

    async def other() -> None:
        seen.append("other")

    task = asyncio.create_task(other())
    await asyncio.sleep(1)
    assert seen == ["other"]
    await task


async def the_last_reschedule_counts() -> None:
    """Timeout.reschedule(): "Reschedule the timeout", by callbacks "in the order in which they are registered"."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60) as deadline:
        now = loop.time()
        loop.call_soon(deadline.reschedule, now + 1)
        loop.call_soon(deadline.reschedule, now + 30)
        await asyncio.sleep(10)
    assert not deadline.expired()
