"""prefetch: reads ahead, in order, and always closes its source."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from support.cancels import EVERY_STEP, cancels
from support.loops import Cell, run

from loopwright import CallCancelled, prefetch
from loopwright.testing import Play, cancel_sweep, random_cancels


class Rows:
    """A source that knows what was read from it and whether it was closed."""

    def __init__(
        self, n: int, *, fails: BaseException | None = None, slow: int = 1, step: Callable[[], object] = lambda: None
    ) -> None:
        self.n, self.fails, self.slow, self.step = n, fails, slow, step
        self.read = self.closed = 0
        self.tasks: set[Any] = set()

    async def rows(self) -> AsyncIterator[int]:
        try:
            for row in range(self.n):
                self.tasks.add(asyncio.current_task())
                for _ in range(self.slow):
                    self.step()
                    await asyncio.sleep(0)
                self.read += 1
                yield row
            if self.fails is not None:
                raise self.fails
        finally:
            self.tasks.add(asyncio.current_task())
            try:
                self.step()
                await asyncio.sleep(0)
            finally:
                self.closed += 1
                self.step()

    def plain(self) -> Iterator[int]:
        try:
            for row in range(self.n):
                self.read += 1
                yield row
            if self.fails is not None:
                raise self.fails
        finally:
            self.closed += 1

    def __call__(self, kind: str) -> Any:
        return self.plain() if kind == "plain" else self.rows()


@pytest.fixture(params=["plain", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("n", [1, 3, 100])
def test_gives_every_item_in_order(cell: Cell, kind: str, n: int) -> None:
    async def main() -> None:
        source = Rows(20)
        async with prefetch(source(kind), n) as ahead:
            assert [row async for row in ahead] == list(range(20))
            with pytest.raises(StopAsyncIteration):
                await anext(ahead)
        assert source.closed == 1
        assert len(asyncio.all_tasks()) == 1

    run(main, cell)


def test_reads_n_ahead_and_no_more(cell: Cell, kind: str) -> None:
    async def main() -> None:
        source = Rows(50)
        async with prefetch(source(kind), 4) as ahead:
            for taken in range(20):
                for _ in range(20):
                    await asyncio.sleep(0)
                assert source.read == taken + 4
                assert ahead.stats().buffered == 4
                assert await anext(ahead) == taken

    run(main, cell)


def test_an_error_comes_after_the_items_before_it(cell: Cell, kind: str) -> None:
    async def main() -> None:
        error, got = OSError("source"), []
        source = Rows(5, fails=error)
        with pytest.raises(OSError, match="source") as caught:
            async with prefetch(source(kind), 3) as ahead:
                for _ in range(20):
                    await asyncio.sleep(0)
                async for row in ahead:
                    got.append(row)
        assert caught.value is error
        assert got == list(range(5))
        assert source.closed == 1

    run(main, cell)


def test_closes_its_source_however_the_block_is_left(cell: Cell, kind: str) -> None:
    async def main() -> None:
        for _ in range(1):
            source = Rows(50)
            async with prefetch(source(kind), 3) as ahead:
                async for row in ahead:
                    if row == 2:
                        break
            assert source.closed == 1
        source = Rows(50)
        with pytest.raises(LookupError):
            async with prefetch(source(kind), 3) as ahead:
                await anext(ahead)
                raise LookupError
        assert source.closed == 1
        source = Rows(50)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005), prefetch(source(kind), 3) as ahead:
                await anext(ahead)
                await asyncio.sleep(3600)
        assert source.closed == 1
        assert len(asyncio.all_tasks()) == 1

    run(main, cell)


def test_one_that_was_begun_is_closed_even_if_not_a_single_item_was_read() -> None:
    async def main() -> None:
        source = Rows(10)
        rows = source.rows()
        assert await anext(rows) == 0
        async with prefetch(rows, 3):
            pass
        assert source.closed == 1

    run(main)


def test_all_the_source_s_life_is_in_one_task() -> None:
    async def main() -> None:
        source = Rows(50)
        async with prefetch(source.rows(), 3) as ahead:
            for _ in range(10):
                await anext(ahead)
        (task,) = source.tasks
        assert task is not asyncio.current_task()
        assert task.get_name() == "prefetch source"

    run(main)


VAR: contextvars.ContextVar[str] = contextvars.ContextVar("VAR")


def test_the_source_has_a_copy_of_the_context() -> None:
    async def main() -> None:
        VAR.set("outside")

        async def rows() -> AsyncIterator[str]:
            yield VAR.get()
            VAR.set("inside")
            yield VAR.get()

        async with prefetch(rows(), 5) as ahead:
            assert [row async for row in ahead] == ["outside", "inside"]
        assert VAR.get() == "outside"

    run(main)


def test_a_cancelled_wait_has_taken_nothing() -> None:
    async def main() -> None:
        source, got = Rows(10, slow=20), []
        async with prefetch(source.rows(), 2) as ahead:
            while True:
                try:
                    async with asyncio.timeout(0):
                        got.append(await anext(ahead))
                except TimeoutError:
                    await asyncio.sleep(0)
                except StopAsyncIteration:
                    break
        assert got == list(range(10))

    run(main)


def test_a_source_that_cancels_itself_has_failed(kind: str) -> None:
    async def main() -> None:
        source = Rows(1, fails=asyncio.CancelledError())
        async with prefetch(source(kind), 2) as ahead:
            assert await anext(ahead) == 0
            with pytest.raises(CallCancelled):
                await anext(ahead)

    run(main)


def test_an_error_of_the_closing_is_raised() -> None:
    async def main() -> None:
        async def rows() -> AsyncIterator[int]:
            try:
                yield 1
                yield 2
            finally:
                raise OSError("closing")

        with pytest.raises(OSError, match="closing"):
            async with prefetch(rows(), 1) as ahead:
                await anext(ahead)

        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        with pytest.raises(LookupError):  # the block's own error goes first
            async with prefetch(rows(), 1) as ahead:
                await anext(ahead)
                raise LookupError
        assert isinstance(told[0], OSError)

    run(main)


def test_a_failure_nobody_saw_is_told() -> None:
    async def main() -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        async with prefetch(Rows(1, fails=OSError("source")).rows(), 5):
            for _ in range(10):
                await asyncio.sleep(0)
        assert isinstance(told[0], OSError)

    run(main)


def test_a_second_cancel_still_awaits_the_closing(cell: Cell) -> None:
    async def main() -> None:
        closed = []

        async def rows() -> AsyncIterator[int]:
            try:
                yield 1
                await asyncio.get_running_loop().create_future()
            finally:
                for _ in range(20):
                    await asyncio.sleep(0)
                closed.append(True)

        async def caller() -> None:
            async with prefetch(rows(), 1) as ahead:
                async for _ in ahead:
                    pass

        task = asyncio.get_running_loop().create_task(caller())
        for _ in range(5):
            await asyncio.sleep(0)
        for _ in range(5):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert closed == [True]

    run(main, cell)


def test_a_cancel_before_the_reader_began_still_closes_the_source() -> None:
    async def main() -> None:
        source = Rows(3)
        rows = source.rows()
        assert await anext(rows) == 0
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(asyncio.CancelledError):
            async with prefetch(rows, 1):
                asyncio.get_running_loop().call_soon(task.cancel)  # it arrives while the block waits for the reader
        assert source.closed == 1

    run(main)


@pytest.mark.parametrize(
    ("source", "n", "error", "says"),
    [
        (3, 1, TypeError, "got 3"),
        ([], 0, ValueError, "got 0"),
        ([], True, TypeError, "got True"),
        ([], 1.5, TypeError, "got 1.5"),
    ],
)
def test_misuse_is_told_at_once(source: Any, n: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        prefetch(source, n)


def test_it_is_entered_once_and_iterated_inside() -> None:
    async def main() -> None:
        ahead = prefetch([1, 2], 1)
        with pytest.raises(TypeError, match="async with"):
            async for _ in ahead:  # type: ignore[attr-defined]
                pass
        async with ahead:
            with pytest.raises(RuntimeError, match="entered already"):
                async with ahead:
                    pass

    run(main)


def test_it_tells_its_state() -> None:
    async def main() -> None:
        ahead = prefetch(range(3), 2)
        assert repr(ahead) == "<prefetch not started: 0 of 2 ahead, 0 read>"
        async with ahead as rows:
            await anext(rows)
            assert "reading" in repr(ahead)
            assert [row async for row in rows] == [1, 2]
            stats = ahead.stats()
            assert (stats.read, stats.buffered, stats.limit, stats.ended) == (3, 0, 2, True)
            assert "ended" in repr(ahead)

    run(main)


def test_nothing_is_left_for_the_garbage_collector() -> None:
    class Row:
        pass

    async def main() -> None:
        seen = []

        async def rows() -> AsyncIterator[Row]:
            for _ in range(5):
                row = Row()
                seen.append(weakref.ref(row))
                yield row
                del row

        gc.collect()
        gc.disable()
        try:
            async with prefetch(rows(), 2) as ahead:
                async for row in ahead:
                    del row
            await asyncio.sleep(0)
            assert [ref() for ref in seen] == [None] * 5
        finally:
            gc.enable()

    run(main)


def play_of(kind: str, fails: bool) -> Any:
    async def play_prefetch(play: Play) -> None:
        source = Rows(6, fails=OSError() if fails else None, slow=play.rng.randrange(3), step=play.step)
        got: list[int] = []
        entered = False
        rows = source(kind)
        if kind == "async":
            assert await anext(rows) == 0
        told = []
        play.loop.set_exception_handler(lambda _, context: told.append(context["exception"]))

        async def caller() -> None:
            nonlocal entered
            entered = True
            async with prefetch(rows, play.rng.randint(1, 3)) as ahead:
                async for row in ahead:
                    got.append(row)
                    await play.pause(2)

        task = play.spawn(caller(), name="caller", allow=(OSError,) if fails else ())
        await play.finished()
        if kind == "async" and not entered:
            await rows.aclose()
        assert source.closed == (source.read > 0)
        first = int(kind == "async")
        assert got == list(range(first, first + len(got)))
        assert task.cancelled() or len(got) == 6 - first
        assert all(isinstance(error, OSError) for error in told)
        assert not [t for t in asyncio.all_tasks() if t is not play.main]

    play_prefetch.__qualname__ = f"prefetch-{kind}{'-fails' if fails else ''}"
    return play_prefetch


@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
def test_sweep(kind: str, fails: bool) -> None:
    for seed in range(4):
        cancel_sweep(play_of(kind, fails), victims="caller", seed=seed, **EVERY_STEP)


@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
def test_random_cancels(kind: str, fails: bool) -> None:
    random_cancels(play_of(kind, fails), cancels(share=0.25), level="task")


def test_random_cancels_in_every_cell(cell: Cell, kind: str) -> None:
    def setup(loop: asyncio.AbstractEventLoop) -> None:
        loop.set_debug(cell.debug)

    random_cancels(
        play_of(kind, False),
        cancels(cell=cell, again=True, share=0.5),
        loop_factory=cell.new_loop,
        setup=setup,
        level="task",
    )
