"""amap: every promise of its docstring, in every cell; then under a cancel at every step."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import pickle
import subprocess
import sys
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from support import requires
from support.cancels import EVERY_STEP, cancels
from support.loops import Cell, VirtualLoop, run

import loopwright
from loopwright import CallCancelled, LoopwrightError, MapError, Semaphore, amap
from loopwright.testing import Play, cancel_sweep, random_cancels


@pytest.fixture(params=[True, False], ids=["isolated", "shared"])
def isolate(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=["plain", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Source:
    """Items from 0 up, plain or asynchronous; knows how it was treated."""

    def __init__(
        self,
        kind: str,
        n: int | None = None,
        *,
        fails_at: int | None = None,
        step: Callable[[], object] = lambda: None,
    ) -> None:
        self.kind, self.n, self.fails_at, self.step = kind, n, fails_at, step
        self.pulled = 0
        self.pulling = 0
        self.closed = 0

    def __call__(self) -> Any:
        return self._plain() if self.kind == "plain" else self._async()

    def _plain(self) -> Iterator[int]:
        try:
            for item in itertools.count():
                if item == self.n:
                    return
                if item == self.fails_at:
                    raise OSError("source")
                self.pulled += 1
                yield item
        finally:
            self.closed += 1

    async def _async(self) -> AsyncIterator[int]:
        try:
            for item in itertools.count():
                self.pulling += 1
                assert self.pulling == 1, "one pull at a time"
                self.step()
                await asyncio.sleep(0)
                self.step()
                self.pulling -= 1
                if item == self.n:
                    return
                if item == self.fails_at:
                    raise OSError("source")
                self.pulled += 1
                yield item
        finally:
            self.pulling = 0
            self.step()
            try:
                await asyncio.sleep(0)  # closing takes a turn: it has to be awaited
            finally:  # (a cancel may hit the last pull just here)
                self.closed += 1
                self.step()


class Calls:
    """A mapped function that counts what is alive; its clean-up takes turns of the loop."""

    def __init__(
        self, *, fails_at: int | None = None, turns: int = 2, step: Callable[[], object] = lambda: None
    ) -> None:
        self.fails_at, self.turns, self.step = fails_at, turns, step
        self.alive = self.peak = self.started = self.ended = 0
        self.cancelled: list[int] = []

    async def __call__(self, item: int) -> int:
        self.started += 1
        self.alive += 1
        self.peak = max(self.peak, self.alive)
        try:
            for _ in range(self.turns + item % 3):
                self.step()
                await asyncio.sleep(0)
            if item == self.fails_at:
                raise ValueError(item)
            return item * 2
        except asyncio.CancelledError:
            self.cancelled.append(item)
            self.step()
            await asyncio.sleep(0)
            self.step()
            await asyncio.sleep(0)
            raise
        finally:
            self.alive -= 1
            self.ended += 1
            self.step()


def others() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


# ---------------------------------------------------------------------------------------------------- the list


def test_gives_the_results_in_the_order_of_the_items(cell: Cell, isolate: bool, kind: str) -> None:
    async def main() -> None:
        source, calls = Source(kind, 25), Calls(turns=8)
        assert await amap(calls, source(), limit=4, isolate=isolate) == [item * 2 for item in range(25)]
        assert (calls.peak, calls.started, calls.ended) == (4, 25, 25)
        assert source.closed == 1
        assert others() == []

    run(main, cell)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_fewer_items_than_places(n: int, isolate: bool, kind: str) -> None:
    async def main() -> None:
        assert await amap(Calls(), Source(kind, n)(), limit=10, isolate=isolate) == [i * 2 for i in range(n)]

    run(main)


def test_takes_any_function_that_gives_an_awaitable(isolate: bool) -> None:
    class Waits:
        def __await__(self) -> Any:
            yield from asyncio.sleep(0).__await__()
            return "waited"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in range(2)]
        loop.call_soon(futures[0].set_result, "future 0")
        loop.call_soon(futures[1].set_result, "future 1")
        assert await amap(futures.__getitem__, range(2), limit=2, isolate=isolate) == ["future 0", "future 1"]
        assert await amap(lambda _: Waits(), range(2), limit=1, isolate=isolate) == ["waited"] * 2
        assert await amap(lambda _: Semaphore(1).acquire(), range(2), limit=1, isolate=isolate) == [True] * 2
        with pytest.raises(MapError) as caught:
            await amap(lambda item: item, [7], limit=1, isolate=isolate)
        (error,) = caught.value.exceptions
        assert isinstance(error, TypeError)

    run(main)


def test_pulls_only_what_has_room(isolate: bool, kind: str) -> None:
    async def main() -> None:
        source, calls = Source(kind, 50), Calls()

        async def call(item: int) -> int:
            assert source.pulled - calls.ended <= 3
            return await calls(item)

        await amap(call, source(), limit=3, isolate=isolate)

    run(main)


def test_the_number_of_tasks_is_the_limit_not_the_items(isolate: bool, kind: str) -> None:
    async def main() -> None:
        most = 0

        async def call(item: int) -> None:
            nonlocal most
            await asyncio.sleep(0)
            most = max(most, len(asyncio.all_tasks()))

        await amap(call, Source(kind, 500)(), limit=5, isolate=isolate)
        assert most <= 5 + 2  # this one, and the reader of an async source

    run(main)


def test_memory_does_not_grow_with_the_items_taken() -> None:
    async def main() -> None:
        alive: weakref.WeakSet[Any] = weakref.WeakSet()

        class Page:
            pass

        async def fetch(item: int) -> Page:
            await asyncio.sleep(0)
            page = Page()
            alive.add(page)
            return page

        async with amap(fetch, range(500), limit=5) as pages:
            async for _page in pages:
                assert len(alive) <= 5 + 1

    run(main)


def test_nothing_is_left_for_the_garbage_collector(isolate: bool, kind: str) -> None:
    class Item:
        pass

    async def main() -> None:
        seen: list[weakref.ref[Item]] = []

        def items() -> Iterator[Item]:
            for _ in range(5):
                item = Item()
                seen.append(weakref.ref(item))
                yield item

        async def aitems() -> AsyncIterator[Item]:
            for item in items():
                yield item
                del item

        async def call(item: Item) -> Item:
            await asyncio.sleep(0)
            return item

        gc.collect()
        gc.disable()
        try:
            results = await amap(call, items() if kind == "plain" else aitems(), limit=2, isolate=isolate)
            assert len(results) == 5
            del results
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert [ref() for ref in seen] == [None] * 5
        finally:
            gc.enable()

    run(main)


def test_an_abandoned_map_is_collected() -> None:
    class Canary:
        pass

    canary = Canary()
    ref = weakref.ref(canary)

    async def main(items: list[Canary]) -> None:
        async def call(item: Canary) -> None:
            await asyncio.get_running_loop().create_future()

        coroutine = amap(call, items, limit=1).__await__()
        coroutine.send(None)  # never driven any further
        coroutine.close()
        await asyncio.sleep(0)

    asyncio.run(main([canary, canary]))
    del canary
    gc.collect()
    assert ref() is None


# ------------------------------------------------------------------------------------------------- the iterator


@pytest.mark.parametrize("ordered", [True, False])
def test_iterates_over_an_endless_source(cell: Cell, isolate: bool, kind: str, ordered: bool) -> None:
    async def main() -> None:
        source, calls, got = Source(kind), Calls(), []
        async with amap(calls, source(), limit=4, isolate=isolate, ordered=ordered) as results:
            async for result in results:
                got.append(result)
                if len(got) == 30:
                    break
        assert (sorted(got) if not ordered else got)[:20] == [item * 2 for item in range(20)]
        assert calls.peak <= 4
        assert calls.alive == 0
        assert calls.started == calls.ended <= 30 + 4
        assert source.closed == 1
        assert others() == []

    run(main, cell)


def test_results_come_as_they_finish_when_not_ordered(isolate: bool) -> None:
    async def main() -> None:
        gates = [asyncio.Event() for _ in range(3)]

        async def call(item: int) -> int:
            await gates[item].wait()
            return item

        async with amap(call, range(3), limit=3, ordered=False, isolate=isolate) as results:
            for item in (1, 2, 0):
                gates[item].set()
                assert await anext(results) == item
            with pytest.raises(StopAsyncIteration):
                await anext(results)

    run(main)


def test_a_slow_consumer_stops_the_source(isolate: bool, kind: str) -> None:
    """Calls that run and results nobody has taken are never more than the limit."""

    async def main() -> None:
        source, calls = Source(kind), Calls()
        async with amap(calls, source(), limit=3, isolate=isolate) as results:
            for taken in range(10):
                for _ in range(30):
                    await asyncio.sleep(0)
                assert calls.started == taken + 3
                assert results.stats().running + results.stats().waiting <= 3
                assert await anext(results) == taken * 2

    run(main)


def test_the_source_is_pulled_in_one_task(isolate: bool) -> None:
    async def main() -> None:
        tasks = set()

        async def source() -> AsyncIterator[int]:
            try:
                for item in itertools.count():
                    tasks.add(asyncio.current_task())
                    yield item
            finally:
                tasks.add(asyncio.current_task())

        async with amap(Calls(), source(), limit=3, isolate=isolate) as results:
            async for result in results:
                if result == 20:
                    break
        assert len(tasks) == 1

    run(main)


def test_an_iteration_can_be_interrupted_and_go_on(isolate: bool) -> None:
    async def main() -> None:
        gate, got = asyncio.Event(), []

        async def call(item: int) -> int:
            await gate.wait()
            return item

        async with amap(call, range(6), limit=2, isolate=isolate) as results:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0):
                        await anext(results)
            gate.set()
            got = [result async for result in results]
        assert got == list(range(6))

    run(main)


def test_the_body_s_own_error_goes_on_bare(isolate: bool, kind: str) -> None:
    async def main() -> None:
        source, calls = Source(kind), Calls()
        with pytest.raises(LookupError):
            async with amap(calls, source(), limit=3, isolate=isolate) as results:
                async for _ in results:
                    raise LookupError
        assert calls.alive == 0
        assert source.closed == 1
        assert others() == []

    run(main)


# -------------------------------------------------------------------------------------------------- the context

VAR: contextvars.ContextVar[object] = contextvars.ContextVar("VAR", default="unset")


def test_no_context_leaks_from_item_to_item(cell: Cell, kind: str) -> None:
    async def main() -> None:
        VAR.set("caller")
        seen = []

        async def call(item: int) -> None:
            seen.append(VAR.get())
            VAR.set(item)
            await asyncio.sleep(0)
            assert VAR.get() == item

        seen_by_plain = []

        def plain(item: int) -> Any:
            seen_by_plain.append(VAR.get())
            VAR.set(item)
            return call(item)

        await amap(call, Source(kind, 20)(), limit=3)
        assert seen == ["caller"] * 20
        await amap(plain, Source(kind, 20)(), limit=3)
        assert seen_by_plain == ["caller"] * 20
        assert VAR.get() == "caller"

    run(main, cell)


def test_a_source_keeps_its_context_and_its_items_inherit_it(kind: str) -> None:
    async def main() -> None:
        def plain() -> Iterator[int]:
            for item in range(10):
                assert VAR.get() == (f"item {item - 1}" if item else "unset")
                VAR.set(f"item {item}")
                yield item

        async def asynchronous() -> AsyncIterator[int]:
            for item in plain():
                yield item

        async def call(item: int) -> object:
            return VAR.get()

        source: Any = plain() if kind == "plain" else asynchronous()
        assert await amap(call, source, limit=3) == [f"item {item}" for item in range(10)]
        assert VAR.get() == "unset"

    run(main)


def test_workers_share_theirs() -> None:
    async def main() -> None:
        async def call(item: int) -> object:
            before = VAR.get()
            VAR.set(item)
            return before

        assert await amap(call, range(4), limit=1, isolate=False) == ["unset", 0, 1, 2]
        assert VAR.get() == "unset"

    run(main)


# --------------------------------------------------------------------------------------------------- the errors


def test_the_first_error_cancels_and_awaits_the_rest(cell: Cell, isolate: bool, kind: str) -> None:
    async def main() -> None:
        source, calls = Source(kind), Calls(fails_at=10)
        with pytest.raises(MapError) as caught:
            await amap(calls, source(), limit=4, isolate=isolate)
        error = caught.value
        assert calls.alive == 0
        assert calls.started == calls.ended
        assert calls.cancelled
        assert source.closed == 1
        assert others() == []
        (raised,) = error.exceptions
        assert isinstance(raised, ValueError)
        assert error.failed == {10: raised}
        assert error.results
        assert error.results == {item: item * 2 for item in error.results}
        assert list(error.results) == sorted(error.results)
        assert set(error.results) >= set(range(6))
        assert not set(error.results) & {10, *calls.cancelled}
        assert f"raised by call 10 of {str(error).partition(':')[0]}" in raised.__notes__

    run(main, cell)


def test_errors_of_the_clean_up_are_in_the_group_too(isolate: bool) -> None:
    async def main() -> None:
        async def call(item: int) -> None:
            try:
                await asyncio.sleep(0)
                if item:
                    await asyncio.get_running_loop().create_future()
            finally:
                raise ValueError(item)

        with pytest.raises(MapError) as caught:
            await amap(call, range(3), limit=3, isolate=isolate)
        assert sorted(caught.value.failed) == [0, 1, 2]
        assert caught.value.results == {}

    run(main)


def test_a_function_that_raises_at_the_call(isolate: bool) -> None:
    async def main() -> None:
        def call(item: int) -> Any:
            raise LookupError(item)

        with pytest.raises(MapError) as caught:
            await amap(call, range(3), limit=2, isolate=isolate)
        assert 0 in caught.value.failed
        results = await amap(call, range(3), limit=2, isolate=isolate, errors="return")
        assert [str(result) for result in results] == ["0", "1", "2"]

    run(main)


def test_errors_return_puts_them_in_place(cell: Cell, isolate: bool, kind: str) -> None:
    async def main() -> None:
        results = await amap(Calls(fails_at=3), Source(kind, 6)(), limit=2, isolate=isolate, errors="return")
        assert isinstance(results[3], ValueError)
        assert [result for result in results if isinstance(result, int)] == [0, 2, 4, 8, 10]
        async with amap(Calls(fails_at=3), Source(kind, 6)(), limit=2, isolate=isolate, errors="return") as iterator:
            got = [result async for result in iterator]
        assert isinstance(got[3], ValueError)
        assert len(got) == 6

    run(main, cell)


def test_a_failing_iterator_raises_once_everything_has_ended(isolate: bool, kind: str) -> None:
    async def main() -> None:
        source, calls, got = Source(kind), Calls(fails_at=7), []
        async with amap(calls, source(), limit=3, isolate=isolate) as results:
            with pytest.raises(MapError) as caught:
                async for result in results:
                    got.append(result)
            assert calls.alive == 0
            assert source.closed == 1
            assert others() == []
            with pytest.raises(StopAsyncIteration):
                await anext(results)
        assert set(caught.value.failed) == {7}
        assert got == [item * 2 for item in range(len(got))]
        assert not set(caught.value.results) & set(range(len(got)))

    run(main)


@pytest.mark.parametrize("errors", ["raise", "return"])
def test_a_failing_source_ends_the_map(isolate: bool, kind: str, errors: Any) -> None:
    async def main() -> None:
        source, calls = Source(kind, fails_at=5), Calls(turns=5)
        with pytest.raises(MapError) as caught:
            await amap(calls, source(), limit=3, isolate=isolate, errors=errors)
        (raised,) = caught.value.exceptions
        assert isinstance(raised, OSError)
        assert caught.value.failed == {}
        assert calls.alive == 0
        assert source.closed == 1

    run(main)


def test_leaving_early_tells_the_handler_what_nobody_saw(isolate: bool) -> None:
    async def main() -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        async with amap(Calls(fails_at=1), range(4), limit=4, isolate=isolate):
            for _ in range(10):
                await asyncio.sleep(0)
        (error,) = told
        assert isinstance(error, MapError)
        assert set(error.failed) == {1}

    run(main)


def test_a_call_that_cancels_itself_has_failed(cell: Cell, isolate: bool) -> None:
    async def main() -> None:
        async def call(item: int) -> int:
            if item == 1:
                raise asyncio.CancelledError("mine")
            if item == 2:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            await asyncio.sleep(0)
            return item

        with pytest.raises(MapError) as caught:
            await amap(call, range(2), limit=1, isolate=isolate)
        (error,) = caught.value.exceptions
        assert isinstance(error, CallCancelled)
        assert isinstance(error, LoopwrightError)
        assert error.__cause__ is not None
        assert "call 1" in str(error)
        results = await amap(call, range(5), limit=1, isolate=isolate, errors="return")
        assert [type(result) for result in results] == [int, CallCancelled, CallCancelled, int, int]

    run(main, cell)


def test_a_source_that_cancels_itself_has_failed(kind: str) -> None:
    async def main() -> None:
        def plain() -> Iterator[int]:
            yield 1
            raise asyncio.CancelledError

        async def asynchronous() -> AsyncIterator[int]:
            yield 1
            raise asyncio.CancelledError

        with pytest.raises(MapError) as caught:
            await amap(Calls(), plain() if kind == "plain" else asynchronous(), limit=1)
        assert isinstance(caught.value.exceptions[0], CallCancelled)

    run(main)


@pytest.mark.parametrize("fatal", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_fatal_exceptions_go_on_bare_after_the_clean_up(isolate: bool, fatal: type[BaseException]) -> None:
    calls = Calls(turns=20)

    async def main() -> None:
        async def call(item: int) -> int:
            if item == 2:
                await asyncio.sleep(0)
                raise fatal(item)
            return await calls(item)

        await amap(call, range(3), limit=3, isolate=isolate)

    with pytest.raises(fatal):
        run(main)
    assert calls.started == calls.ended == 2


def test_a_fatal_exception_of_a_plain_source() -> None:
    calls = Calls(turns=20)

    def source() -> Iterator[int]:
        yield 1
        raise SystemExit(3)

    async def main() -> None:
        await amap(calls, source(), limit=3)

    with pytest.raises(SystemExit):
        run(main)
    assert calls.started == calls.ended


# ----------------------------------------------------------------------------------------------------- MapError


def test_map_error_is_an_exception_group() -> None:
    async def main() -> MapError:
        async def call(item: int) -> int:
            if item == 1:
                raise ValueError(1)
            if item == 2:
                raise LookupError(2)
            return item

        with pytest.raises(MapError) as caught:
            await amap(call, range(4), limit=4)
        return caught.value

    error = run(main)
    assert isinstance(error, ExceptionGroup)
    assert isinstance(error, LoopwrightError)
    assert error.results == {0: 0, 3: 3}
    assert "2 of 4 calls failed" in str(error)

    values, rest = error.split(ValueError)
    assert isinstance(values, MapError)
    assert isinstance(rest, MapError)
    assert (set(values.failed), set(rest.failed)) == ({1}, {2})
    assert values.results == rest.results == error.results
    part = error.subgroup(LookupError)
    assert isinstance(part, MapError)
    assert set(part.failed) == {2}

    caught: list[Any] = []
    try:
        try:
            raise error
        except* ValueError as group:
            caught.append(group)
    except MapError as left:
        caught.append(left)
    assert [set(group.failed) for group in caught] == [{1}, {2}]


def test_map_error_pickles() -> None:
    value, lookup = ValueError(1), LookupError(2)
    error = MapError("m", [value, lookup], results={0: "r"}, failed={1: value, 2: lookup})
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, MapError)
    assert (copy.message, copy.results, set(copy.failed)) == ("m", {0: "r"}, {1, 2})
    assert copy.failed[1] is copy.exceptions[0]
    assert set(copy.derive([copy.exceptions[1]]).failed) == {2}
    assert str(copy) == str(error)


# -------------------------------------------------------------------------------------------------- the cancels


def test_a_cancel_awaits_the_calls_and_goes_on_as_it_is(cell: Cell, isolate: bool, kind: str) -> None:
    async def main() -> None:
        source, calls = Source(kind), Calls(turns=1000)
        seen: list[BaseException] = []

        async def caller() -> None:
            try:
                await amap(calls, source(), limit=4, isolate=isolate)
            except BaseException as error:
                seen.append(error)
                raise

        task = asyncio.get_running_loop().create_task(caller())
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel("why")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen[0].args == ("why",)
        assert sorted(calls.cancelled) == [0, 1, 2, 3]
        assert calls.alive == 0
        assert source.closed == 1
        assert others() == []

    run(main, cell)


def test_a_second_cancel_still_awaits_them(isolate: bool, kind: str) -> None:
    async def main() -> None:
        source, ended = Source(kind), []

        async def call(item: int) -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                for _ in range(20):
                    await asyncio.sleep(0)
                ended.append(item)

        async def caller() -> None:
            await amap(call, source(), limit=2, isolate=isolate)

        task = asyncio.get_running_loop().create_task(caller())
        for _ in range(10):
            await asyncio.sleep(0)
        for number in range(5):
            task.cancel(f"cancel {number}")
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(ended) == [0, 1]
        assert source.closed == 1
        assert others() == []

    run(main)


def test_a_cancel_during_the_clean_up_of_an_error_wins_and_the_error_is_told(isolate: bool) -> None:
    async def main() -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        failed = asyncio.Event()

        async def call(item: int) -> None:
            try:
                await asyncio.sleep(0)
                if item == 0:
                    failed.set()
                    raise ValueError
                await asyncio.get_running_loop().create_future()
            finally:
                for _ in range(10):
                    await asyncio.sleep(0)

        async def caller() -> None:
            await amap(call, range(2), limit=2, isolate=isolate)

        task = asyncio.get_running_loop().create_task(caller())
        await failed.wait()
        for _ in range(14):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (error,) = told
        assert isinstance(error, MapError)

    run(main)


def test_under_a_timeout(isolate: bool, kind: str) -> None:
    async def main() -> None:
        source, calls = Source(kind), Calls(turns=10**9)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await amap(calls, source(), limit=3, isolate=isolate)
        assert calls.alive == 0
        assert source.closed == 1
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run(main)


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts what is scheduled for the next turn: a busy loop shows."""

    calls = 0

    def call_soon(self, *args: Any, **kwargs: Any) -> asyncio.Handle:
        self.calls += 1
        return super().call_soon(*args, **kwargs)


@pytest.mark.parametrize("form", ["list", "iterator", "prefetch", "gather"])
def test_in_a_cancelled_anyio_scope_nothing_spins_and_all_is_awaited(form: str, isolate: bool, kind: str) -> None:
    anyio = requires.module("anyio")
    ended: list[object] = []

    async def call(item: int) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.05)
            ended.append(item)

    async def slow_source() -> AsyncIterator[int]:
        try:
            yield 0
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.05)
            ended.append("source")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        with anyio.move_on_after(0.01) as scope:
            if form == "list":
                await amap(call, [0, 1] if kind == "plain" else slow_source(), limit=2, isolate=isolate)
            elif form == "gather":
                await loopwright.gather(call(0), call(1), limit=2)
            elif form == "prefetch":
                async with loopwright.prefetch(slow_source(), 2) as ahead:
                    async for _ in ahead:
                        await anyio.sleep(3600)
            else:
                source = [0, 1] if kind == "plain" else slow_source()
                async with amap(call, source, limit=2, isolate=isolate) as results:
                    async for _ in results:
                        pass
            raise AssertionError("the cancel was swallowed")
        assert scope.cancelled_caught
        assert ended
        assert others() == []
        assert loop.calls < 300
        await asyncio.sleep(0)
        with anyio.move_on_after(0.001):  # the scope's machinery is intact
            await anyio.sleep(3600)

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        runner.run(main())


def test_a_map_can_be_cancelled_from_inside_a_call(isolate: bool) -> None:
    async def main() -> None:
        async def caller() -> None:
            me = asyncio.current_task()
            assert me is not None

            async def call(item: int) -> None:
                await asyncio.sleep(0)
                if item == 2:
                    me.cancel()
                await asyncio.get_running_loop().create_future()

            await amap(call, range(5), limit=3, isolate=isolate)

        task = asyncio.get_running_loop().create_task(caller())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert others() == []

    run(main)


def test_maps_nest(cell: Cell, isolate: bool) -> None:
    async def main() -> None:
        calls = Calls()

        async def row(y: int) -> list[int]:
            return await amap(calls, range(y), limit=2, isolate=isolate)

        assert await amap(row, range(5), limit=2, isolate=isolate) == [[x * 2 for x in range(y)] for y in range(5)]
        assert calls.peak <= 4

    run(main, cell)


# ---------------------------------------------------------------------------------------------------- the limiter


@pytest.mark.parametrize("make", [Semaphore, asyncio.Semaphore])
def test_a_shared_semaphore_bounds_several_maps(cell: Cell, isolate: bool, kind: str, make: Any) -> None:
    async def main() -> None:
        limiter, calls = make(3), Calls()
        sources = [Source(kind, 20), Source(kind, 20)]
        results = await asyncio.gather(
            *[amap(calls, source(), limit=limiter, isolate=isolate) for source in sources]  # type: ignore[arg-type]
        )
        assert results == [[item * 2 for item in range(20)]] * 2
        assert calls.peak == 3
        with pytest.raises(MapError):
            await amap(Calls(fails_at=4), Source(kind)(), limit=limiter, isolate=isolate)
        async with amap(calls, Source(kind)(), limit=limiter, isolate=isolate) as iterator:
            assert [await anext(iterator) for _ in range(10)] == [item * 2 for item in range(10)]
            for _ in range(50):
                await asyncio.sleep(0)
            assert iterator.stats().waiting <= 6
        assert limiter._value == 3 if make is asyncio.Semaphore else limiter.value == 3
        assert others() == []

    run(main, cell)


# --------------------------------------------------------------------------------------------------- the progress


def test_progress_counts(cell: Cell, isolate: bool) -> None:
    async def main() -> None:
        seen: list[tuple[int, int | None]] = []

        def progress(done: int, total: int | None) -> None:
            seen.append((done, total))

        await amap(Calls(), range(5), limit=2, isolate=isolate, progress=progress)
        assert seen == [(n, 5) for n in range(1, 6)]
        seen.clear()
        await amap(Calls(), Source("async", 3)(), limit=2, isolate=isolate, progress=progress)
        assert seen == [(n, None) for n in range(1, 4)]

    run(main, cell)


def test_a_failing_progress_callback_ends_the_map(isolate: bool) -> None:
    async def main() -> None:
        def progress(done: int, total: int | None) -> None:
            if done == 3:
                raise LookupError("progress")

        calls = Calls()
        with pytest.raises(MapError) as caught:
            await amap(calls, range(50), limit=2, isolate=isolate, progress=progress)
        assert [str(error) for error in caught.value.exceptions] == ["'progress'"] or caught.value.exceptions
        assert isinstance(caught.value.exceptions[0], LookupError)
        assert calls.alive == 0

    run(main)


class Terminal:
    def __init__(self, tty: bool) -> None:
        self.tty, self.text, self.encoding = tty, "", "utf-8"

    def isatty(self) -> bool:
        return self.tty

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("library", ["tqdm", "rich"])
def test_progress_draws_a_bar_on_a_terminal_only(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    requires.module(library)
    if library == "rich":
        monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setenv("TERM", "xterm")

    async def fetch(item: int) -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        await amap(fetch, range(20), limit=3, progress=True)

    terminal = Terminal(tty=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    run(main)
    assert terminal.text == ""
    terminal = Terminal(tty=True)
    monkeypatch.setattr(sys, "stderr", terminal)
    run(main)
    assert "fetch" in terminal.text


# ----------------------------------------------------------------------------------------------------- misuse


@pytest.mark.usefixtures("only_new_garbage")
@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"limit": 0}, ValueError, "got 0"),
        ({"limit": -3}, ValueError, "got -3"),
        ({"limit": True}, TypeError, "got True"),
        ({"limit": 2.0}, TypeError, "got 2.0"),
        ({"limit": float("nan")}, TypeError, "got nan"),
        ({"limit": None}, TypeError, "got None"),
        ({"fn": 3}, TypeError, "got 3"),
        ({"items": 3}, TypeError, "got 3"),
        ({"errors": "ignore"}, ValueError, "'ignore'"),
        ({"progress": 3}, TypeError, "got 3"),
    ],
)
def test_misuse_is_told_at_once(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    given: dict[str, Any] = {"fn": Calls(), "items": [1], "limit": 1} | arguments
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error, match=says):
            amap(given.pop("fn"), given.pop("items"), **given)
        gc.collect()


def test_one_that_is_dropped_says_so() -> None:
    with pytest.warns(RuntimeWarning, match=r"amap\(Calls\) was never awaited"):
        amap(Calls(), [1], limit=1)
        gc.collect()


def test_it_is_used_once() -> None:
    async def main() -> None:
        mapped = amap(Calls(), range(3), limit=1)
        await mapped
        with pytest.raises(RuntimeError, match="used already"):
            await mapped
        with pytest.raises(RuntimeError, match="used already"):
            async with mapped:
                pass
        mapped = amap(Calls(), range(3), limit=1)
        with pytest.raises(TypeError, match="async with"):
            async for _ in mapped:  # type: ignore[attr-defined]
                pass
        await mapped
        async with amap(Calls(), range(3), limit=1) as results:
            other = asyncio.get_running_loop().create_task(anext(results))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task"):
                await anext(results)
            await other

    run(main)


def test_a_file_is_not_closed(tmp_path: Any) -> None:
    path = tmp_path / "lines"
    path.write_text("1\n2\n3\n")

    async def main(file: Any) -> None:
        async def call(line: str) -> None:
            raise ValueError

        with pytest.raises(MapError):
            await amap(call, file, limit=1)
        assert not file.closed

    with path.open(encoding="utf-8") as file:
        asyncio.run(main(file))


def test_it_tells_its_state() -> None:
    async def main() -> None:
        mapped = amap(Calls(), range(10), limit=3)
        assert repr(mapped) == "<amap(Calls) not started>"
        assert mapped.stats().started == 0
        async with mapped as results:
            await anext(results)
            stats = mapped.stats()
            assert stats.limit == stats.peak == 3
            assert stats.running + stats.waiting == 3
            assert stats.started == 4
            assert "of 3" in repr(mapped)
        assert "over" in repr(mapped)
        assert mapped.stats().running == 0
        assert mapped.stats().done == 4
        with pytest.raises(AttributeError):
            stats.done = 3  # type: ignore[misc]

    run(main)


def test_tasks_are_named_after_the_function(isolate: bool) -> None:
    async def main() -> None:
        async def fetch(item: int) -> str:
            task = asyncio.current_task()
            assert task is not None
            return task.get_name()

        assert await amap(fetch, [1], limit=1, isolate=isolate) == ["amap(fetch)"]

    run(main)


# ---------------------------------------------------------------------------------------- a cancel at every step


def eager(loop: asyncio.AbstractEventLoop) -> None:
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]


SETUPS = [None, eager] if sys.version_info >= (3, 12) else [None]
MODES = list(itertools.product(["list", "ordered", "finished"], ["plain", "async", "limiter"], [True, False]))


def scenario(form: str, kind: str, isolate: bool, *, fails: bool = False, errors: Any = "raise") -> Any:
    """A caller of amap; whatever is cancelled when, nothing is left and nothing is lost."""

    async def play_map(play: Play) -> None:
        source = Source("plain" if kind == "plain" else "async", 7, step=play.step)
        calls = Calls(fails_at=4 if fails else None, turns=1, step=play.step)
        limiter = Semaphore(2)
        limit: Any = limiter if kind == "limiter" else 2
        got: list[Any] = []
        items = source()
        if kind != "plain":
            first = await anext(items)  # it has run: whatever comes, it has to be closed
            assert first == 0

        entered = False

        async def caller() -> None:
            nonlocal entered
            entered = True
            if form == "list":
                got.extend(await amap(calls, items, limit=limit, isolate=isolate, errors=errors))
                return
            ordered = form == "ordered"
            async with amap(calls, items, limit=limit, isolate=isolate, errors=errors, ordered=ordered) as results:
                async for result in results:
                    assert calls.alive + 1 <= 2 * (2 if kind == "limiter" else 1) + 1
                    got.append(result)
                    await asyncio.sleep(0)

        allow: tuple[type[BaseException], ...] = (MapError,) if fails and errors == "raise" else ()
        play.loop.set_exception_handler(lambda loop, context: told(play, loop, context))
        task = play.spawn(caller(), name="caller", allow=allow)
        await play.finished()
        if kind != "plain" and not entered:
            await items.aclose()
        assert calls.alive == 0
        assert calls.started == calls.ended
        assert calls.peak <= 2
        assert source.closed == (source.pulled > 0), "the source was not closed"
        assert limiter.value == 2
        assert not [other for other in others() if other is not play.main]
        if not task.cancelled() and not allow:
            assert len(got) == (7 if kind == "plain" else 6)

    def told(play: Play, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not (fails and isinstance(context.get("exception"), MapError)):
            play.exception_handler(loop, context)

    play_map.__qualname__ = f"amap-{form}-{kind}-{'isolated' if isolate else 'shared'}{'-fails' if fails else ''}"
    return play_map


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: "eager" if setup else "plain-tasks")
@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
@pytest.mark.parametrize(("form", "source", "isolated"), MODES)
def test_sweep(form: str, source: str, isolated: bool, fails: bool, setup: Any) -> None:
    cancel_sweep(scenario(form, source, isolated, fails=fails), victims="caller", setup=setup, **EVERY_STEP)


@pytest.mark.parametrize(("form", "source", "isolated"), MODES)
def test_sweep_of_errors_return(form: str, source: str, isolated: bool) -> None:
    cancel_sweep(
        scenario(form, source, isolated, fails=True, errors="return"), victims="caller", at="step", waves="cancel"
    )


def storm(isolate: bool, form: str) -> Any:
    """Three maps that share a limiter, with random sizes, sources, failures and consumers."""

    async def play_storm(play: Play) -> None:
        rng = play.rng
        limiter = Semaphore(3)
        worlds = []
        for number in range(3):
            kind = rng.choice(["plain", "async"])
            source = Source(kind, rng.randrange(8), step=play.step)
            calls = Calls(fails_at=rng.choice([None, None, 0, 3]), turns=rng.randrange(4), step=play.step)
            limit: Any = rng.choice([1, 2, 5, limiter])
            worlds.append((source, calls, limit))

            async def caller(source: Source = source, calls: Calls = calls, limit: Any = limit) -> None:
                await play.pause()
                errors: Any = rng.choice(["raise", "return"])
                ordered = rng.random() < 0.5
                mapped = amap(calls, source(), limit=limit, isolate=isolate, errors=errors, ordered=ordered)
                if form == "list":
                    await mapped
                    return
                async with mapped as results:
                    async for _ in results:
                        await play.pause()
                        if rng.random() < 0.1:
                            break

            play.spawn(caller(), name=f"caller {number}", allow=(MapError,))
        play.loop.set_exception_handler(lambda loop, context: told(play, loop, context))
        await play.finished()
        for source, calls, limit in worlds:
            assert calls.alive == 0
            assert calls.started == calls.ended
            assert calls.peak <= (limit if isinstance(limit, int) else 3)
            assert source.closed == 1 or source.pulled == 0
        assert limiter.value == 3
        assert not [other for other in others() if other is not play.main]

    def told(play: Play, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), MapError):
            play.exception_handler(loop, context)

    play_storm.__qualname__ = f"amap-storm-{form}-{'isolated' if isolate else 'shared'}"
    return play_storm


@pytest.mark.parametrize("form", ["list", "iterator"])
def test_random_cancels(form: str, isolate: bool) -> None:
    random_cancels(storm(isolate, form), cancels(share=0.25), level="task")


def test_random_cancels_in_every_cell(cell: Cell, isolate: bool) -> None:
    def setup(loop: asyncio.AbstractEventLoop) -> None:
        loop.set_debug(cell.debug)

    delivered = cancels(cell=cell, again=True, share=0.25)
    for form in ("list", "iterator"):
        random_cancels(storm(isolate, form), delivered, seed=7, loop_factory=cell.new_loop, setup=setup, level="task")


def test_the_virtual_clock_drives_it() -> None:
    """1,000 calls of 0.1 s, 10 at a time: 10 seconds exactly."""

    async def main() -> float:
        loop = asyncio.get_running_loop()

        async def call(item: int) -> None:
            await asyncio.sleep(0.1)

        start = loop.time()
        mapped = asyncio.ensure_future(amap(call, range(1000), limit=10))
        assert isinstance(loop, VirtualLoop)
        while not mapped.done():
            for _ in range(5):
                await asyncio.sleep(0)
            loop.advance()
        return loop.time() - start

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(main()) == pytest.approx(10.0)


# ------------------------------------------------------------------------------------------------- the visibility

PROGRAM = """
import asyncio, loopwright

async def deep(item):
    await asyncio.sleep(3600)

async def fetch(item):
    await deep(item)

async def source():
    yield 1
    await asyncio.sleep(3600)

async def isolated():
    await loopwright.amap(fetch, range(5), limit=2)

async def shared():
    await loopwright.amap(fetch, range(5), limit=2, isolate=False)

async def iterating():
    async with loopwright.amap(fetch, source(), limit=2) as results:
        async for result in results:
            pass

async def gathering():
    await loopwright.gather(fetch(1), fetch(2))

async def reading():
    async with loopwright.prefetch(source(), 2) as ahead:
        async for item in ahead:
            pass

async def main():
    async with asyncio.TaskGroup() as group:
        for caller in (isolated, shared, iterating, gathering, reading):
            group.create_task(caller(), name=caller.__name__)
        await asyncio.sleep(0.1)
        print("ready", flush=True)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="python -m asyncio pstree came with CPython 3.14")
def test_pstree_shows_the_users_frames_under_the_caller() -> None:
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        command = [sys.executable, "-m", "asyncio", "pstree", str(program.pid)]
        tree = subprocess.run(command, capture_output=True, text=True, check=False)
        if tree.returncode and "ermission" in tree.stderr:
            requires.missing("the right to read another process's memory")
        assert tree.returncode == 0, tree.stderr
    finally:
        program.kill()
        program.wait()
    callers: dict[str, list[str]] = {}
    for line in tree.stdout.splitlines():
        text = line.lstrip(" │├└─")
        if text in ("(T) isolated", "(T) shared", "(T) iterating", "(T) gathering", "(T) reading"):
            callers[text.removeprefix("(T) ")] = current = []
        elif callers:
            current.append(text.split()[0] if not text.startswith("(T)") else text)
    for name, calls in {"isolated": 2, "shared": 2, "iterating": 1, "gathering": 2}.items():
        assert callers[name][0] == name
        assert callers[name].count("fetch") == callers[name].count("deep") == calls, tree.stdout
    assert callers["isolated"].count("(T) amap(fetch)") == 2
    assert callers["gathering"].count("(T) gather") == 2
    assert "(T) amap(fetch) source" in callers["iterating"]
    assert "(T) prefetch source" in callers["reading"]
