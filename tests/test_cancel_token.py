"""CancelToken: heard by everybody who waits, in every loop and thread; a cancel of the task itself still raises."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import math
import os
import pickle
import signal
import sys
import threading
import time
import warnings
import weakref
from typing import Any

import anyio
import pytest
from support.cancels import EVERY_STEP, cancels, in_cell
from support.loops import Cell, run

from loopwright import CancelToken, TokenCancelled, timeout
from loopwright.testing import Play, cancel_sweep, random_cancels


def deadlines() -> int:
    hub = getattr(asyncio.get_running_loop(), "_loopwright_hub", None)
    return hub.deadlines()[0] if hub is not None else 0


async def turns(n: int = 3) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


# -------------------------------------------------------------------- what it says


def test_sleep_tells_whether_the_token_was_cancelled(cell: Cell) -> None:
    async def main() -> None:
        token = CancelToken()
        assert await token.sleep(0.001) is False
        assert await token.sleep(0) is False
        assert await token.sleep(-5) is False
        asleep = asyncio.create_task(token.sleep(60))
        waiting = asyncio.create_task(token.wait())
        for_ever = asyncio.create_task(token.sleep(math.inf))
        await turns()
        assert token.stats().waiting == 3 and deadlines() == 1
        assert token.cancel("why") is True
        assert [await asleep, await waiting, await for_ever] == [True, True, True]
        assert await token.sleep(60) is True and await token.wait() is True
        assert token.stats().waiting == 0 and deadlines() == 0

    run(main, cell)


def test_cancel_counts_once() -> None:
    token = CancelToken()
    assert (token.cancelled, token.reason) == (False, None)
    assert token.cancel("first") is True
    assert token.cancel("second") is False
    assert token.cancel() is False
    assert (token.cancelled, token.reason) == (True, "first")
    assert CancelToken().cancel(None) is True


def test_sleep_0_lets_the_loop_run_once(cell: Cell) -> None:
    async def main() -> None:
        ran: list[int] = []
        asyncio.get_running_loop().call_soon(ran.append, 1)
        await CancelToken().sleep(0)
        assert ran == [1]

    run(main, cell)


def test_a_cancel_of_the_task_raises(cell: Cell) -> None:
    async def main() -> None:
        token = CancelToken()
        for wait in (lambda: token.sleep(60), token.wait):
            task = asyncio.create_task(wait())
            await turns()
            task.cancel()
            assert token.stats().waiting == 0, "it leaves the token at once"
            assert deadlines() == 0, "and the timer"
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not token.cancelled

    run(main, cell)


@pytest.mark.parametrize("token_first", [True, False])
def test_a_cancel_of_token_and_task_in_one_turn_raises(cell: Cell, token_first: bool) -> None:
    async def main() -> None:
        token = CancelToken()
        task = asyncio.create_task(token.sleep(60))
        await turns()
        for cancel in (token.cancel, task.cancel) if token_first else (task.cancel, token.cancel):
            cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled() and token.stats().waiting == 0 and deadlines() == 0

    run(main, cell)


def test_a_dropped_sleep_leaves_at_once(cell: Cell) -> None:
    async def main() -> None:
        token = CancelToken()

        async def sleeper() -> None:
            await token.sleep(60)

        abandoned = sleeper()
        abandoned.send(None)
        assert token.stats().waiting == 1 and deadlines() == 1
        del abandoned
        assert token.stats().waiting == 0 and deadlines() == 0
        sleep = token.sleep(60)
        next(sleep.__await__())
        sleep.close()
        assert token.stats().waiting == 0 and deadlines() == 0

    run(main, cell)


def test_nothing_happens_before_the_await() -> None:
    token = CancelToken()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        token.sleep(1)
        token.wait()
        gc.collect()
    assert [str(warning.message) for warning in caught] == [
        "'CancelToken.sleep' was never awaited",
        "'CancelToken.wait' was never awaited",
    ]
    assert token.stats().waiting == 0


def test_under_timeout_and_anyio(cell: Cell) -> None:
    async def main() -> None:
        token = CancelToken()
        with pytest.raises(TimeoutError):
            async with timeout(0.001):
                await token.sleep(60)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(token.wait(), 0.001)
        with anyio.move_on_after(0.001) as scope:
            await token.wait()
        assert scope.cancelled_caught
        assert token.stats().waiting == 0 and deadlines() == 0

    run(main, cell)


# -------------------------------------------------------------------- children


def test_a_child_is_cancelled_with_its_parent_never_the_other_way() -> None:
    parent = CancelToken()
    child, sibling = parent.child(), parent.child()
    grandchild = child.child()
    assert child.cancel("only this") is True
    assert (parent.cancelled, sibling.cancelled, grandchild.cancelled) == (False, False, True)
    assert grandchild.reason == "only this"
    assert parent.cancel("all") is True
    assert sibling.reason == "all" and child.reason == "only this"
    late = parent.child()
    assert late.cancelled and late.reason == "all"


def test_a_cancel_gets_through_a_child_that_was_dropped(cell: Cell) -> None:
    async def main() -> None:
        top = CancelToken()
        bottom = top.child().child()
        gc.collect()
        waiting = asyncio.create_task(bottom.wait())
        await turns()
        top.cancel()
        assert await waiting is True

    run(main, cell)


def test_children_leave_nothing_behind() -> None:
    parent = CancelToken()
    for _ in range(10_000):
        parent.child()
    assert parent.stats().children == 0
    kept = [parent.child() for _ in range(5)]
    assert parent.stats().children == 5
    del kept[1:4]
    assert parent.stats().children == 2
    token = parent
    for _ in range(50_000):  # no recursion, however deep
        token = token.child()
    assert parent.cancel() and token.cancelled
    del token
    assert parent.stats().children == 2


# -------------------------------------------------------------------- threads and loops


def test_cancel_from_a_thread_wakes_the_loop(cell: Cell) -> None:
    async def main() -> None:
        token = CancelToken()
        child = token.child()
        thread = threading.Timer(0.02, token.cancel, ("from a thread",))
        thread.start()
        assert await asyncio.gather(token.sleep(60), child.wait(), child.sleep(60)) == [True, True, True]
        thread.join()
        assert child.reason == "from a thread"

    run(main, cell)


def test_waits_of_several_loops_at_once() -> None:
    """Decided: a token belongs to no loop."""
    token = CancelToken()
    answers: list[bool] = []

    def serve(child: CancelToken) -> None:
        async def main() -> None:
            answers.extend(await asyncio.gather(token.wait(), child.sleep(60)))

        asyncio.run(main())

    threads = [threading.Thread(target=serve, args=(token.child(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    while token.stats().waiting < 3:
        time.sleep(0.001)
    token.cancel()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert answers == [True] * 6


def test_threads_that_cancel_and_wait_all_at_once() -> None:
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(30):
            root = CancelToken()

            def serve(token: CancelToken) -> None:
                async def main() -> None:
                    while not await token.child().sleep(0.0005):
                        pass

                asyncio.run(main())

            threads = [threading.Thread(target=serve, args=(root.child(),)) for _ in range(3)]
            threads += [threading.Thread(target=root.cancel) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
                assert not thread.is_alive(), "a wake-up was lost"
    finally:
        sys.setswitchinterval(switch)


def test_a_closed_loop_is_passed_over() -> None:
    token = CancelToken()
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    left = loop.create_task(token.wait())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    async def main() -> None:
        waiting = asyncio.create_task(token.wait())
        await turns()
        assert token.cancel() is True
        assert await waiting is True

    run(main)
    del left


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_cancel_in_a_signal_handler_wakes_a_loop_that_sleeps(cell: Cell) -> None:
    if cell.loop == "uvloop":
        pytest.skip("uvloop runs a handler of signal.signal() only when it has something else to do")
    token = CancelToken()
    before = signal.signal(signal.SIGUSR1, lambda *_: token.cancel("SIGUSR1") and None)
    try:

        async def main() -> None:
            thread = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1))
            thread.start()
            assert await token.sleep(60) is True
            thread.join()

        run(main, cell)
        assert token.reason == "SIGUSR1"
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_raise_if_cancelled() -> None:
    token = CancelToken()
    token.raise_if_cancelled()
    token.cancel("enough")
    with pytest.raises(TokenCancelled, match="the token was cancelled: enough") as told:
        token.raise_if_cancelled()
    assert isinstance(told.value, RuntimeError) and told.value.reason == "enough"
    again = pickle.loads(pickle.dumps(told.value))
    assert type(again) is TokenCancelled and again.reason == "enough" and str(again) == str(told.value)
    silent = CancelToken()
    silent.cancel()
    with pytest.raises(TokenCancelled, match=r"^the token was cancelled$"):
        silent.raise_if_cancelled()


# -------------------------------------------------------------------- state, misuse, memory


def test_repr_and_stats(cell: Cell) -> None:
    async def main() -> None:
        token = CancelToken()
        assert "[active]" in repr(token)
        child = token.child()
        task = asyncio.create_task(token.wait())
        await turns()
        assert "[active, waiters:1, children:1]" in repr(token)
        stats = token.stats()
        assert (stats.cancelled, stats.reason, stats.waiting, stats.children) == (False, None, 1, 1)
        with pytest.raises(dataclasses.FrozenInstanceError):
            stats.waiting = 0  # type: ignore[misc]
        token.cancel("it's over")
        assert '[cancelled, reason:"it\'s over"' in repr(child)
        await task

    run(main, cell)


@pytest.mark.parametrize("bad", [1, b"x", ValueError("x"), ["x"]])
def test_a_reason_is_text(bad: Any) -> None:
    token = CancelToken()
    with pytest.raises(TypeError, match="must be a str or None, got"):
        token.cancel(bad)
    assert not token.cancelled


def test_collected_with_who_waits() -> None:
    async def main() -> weakref.ref[Any]:
        token = CancelToken()

        async def waiter() -> None:
            await token.sleep(math.inf)

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        task = loop.create_task(waiter())
        await turns()
        del task
        return weakref.ref(token)

    loop = asyncio.new_event_loop()
    token = loop.run_until_complete(main())
    loop.close()
    del loop
    gc.collect()
    assert token() is None


# -------------------------------------------------------------------- the sweep


async def family(play: Play) -> None:
    """Sleepers on three generations; the token is cancelled by a task that may be cancelled first."""
    top = CancelToken()
    middle = top.child()
    answers: dict[str, bool] = {}

    async def sleeper(name: str, token: CancelToken, seconds: float) -> None:
        answers[name] = await token.sleep(seconds)
        assert answers[name] is False or token.cancelled

    async def canceller() -> None:
        await play.pause()
        await asyncio.sleep(0.001)
        top.cancel("now")

    play.spawn(sleeper("a", top, 60), name="a")
    play.spawn(sleeper("b", middle, 0.0005), name="b")
    play.spawn(sleeper("c", middle.child(), 0.001), name="c")
    play.spawn(sleeper("d", middle.child(), math.inf), name="d")
    killer = play.spawn(canceller(), name="canceller", catches=True)
    await asyncio.wait([killer])
    top.cancel("at the latest")
    await play.finished()
    assert top.stats().waiting == middle.stats().waiting == 0
    assert deadlines() == 0
    assert answers.get("a", True) and answers.get("d", True)


@pytest.mark.parametrize("victim", ["a", "b", "c", "d", "canceller"])
def test_sweep(victim: str) -> None:
    assert cancel_sweep(family, victims=victim, **EVERY_STEP).count("cancel") > 1


def test_random_cancels() -> None:
    random_cancels(family, cancels(share=0.25), level="task")


def test_random_cancels_in_every_cell(cell: Cell) -> None:
    random_cancels(
        family, min(cancels(cell=cell, again=True, share=0.25), 2_000), seed=2, level="task", **in_cell(cell)
    )


def test_the_guides_sleep_swallows_what_ours_raises(cell: Cell) -> None:
    """The guides' CancellableSleeps, as it is written, beside ours."""

    class CancellableSleeps:
        def __init__(self) -> None:
            self.tasks: set[asyncio.Task[None]] = set()

        async def sleep(self, seconds: float) -> None:
            task = asyncio.create_task(asyncio.sleep(seconds))
            self.tasks.add(task)
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self.tasks.discard(task)

    async def main() -> None:
        async def run_on(sleep: Any) -> str:
            await sleep(60)
            return "ran on"

        guide, ours = CancellableSleeps(), CancelToken()
        for sleep, ended in ((guide.sleep, "ran on"), (ours.sleep, "cancelled")):
            task = asyncio.create_task(run_on(sleep))
            await turns()
            task.cancel()
            await asyncio.wait([task])
            assert ("cancelled" if task.cancelled() else task.result()) == ended

    run(main, cell)
