"""Keyed: one value for each key; what is in use is never given up, what rests leaves nothing behind."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import math
import random
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from support.cancels import EVERY_STEP, cancels, in_cell
from support.loops import Cell, VirtualLoop, run

from loopwright import BoundedSemaphore, Event, Keyed, Lock, Queue, Semaphore
from loopwright.testing import Play, SimLoop, cancel_sweep, random_cancels


class Value:
    """A user's own: in use as long as it says so."""

    def __init__(self, key: object) -> None:
        self.key = key
        self.rests = True

    def is_quiescent(self) -> bool:
        return self.rests


def fill(keyed: Keyed[Any, Any], n: int = 1_000) -> None:
    """Newcomers: as many as it takes to push out whatever may be pushed out."""
    for number in range(n):
        keyed["filler", number]


# ------------------------------------------------------------------------------- one value for each key


def test_each_key_has_one_value_made_when_it_is_first_asked_for() -> None:
    made: list[str] = []

    def factory(host: str) -> Semaphore:
        made.append(host)
        return Semaphore(8)

    per_host = Keyed(factory)
    a = per_host["a"]
    assert per_host["a"] is a
    assert per_host["b"] is not a
    assert made == ["a", "b"]
    assert per_host.get("c") is None
    assert per_host.get("c", 5) == 5
    assert per_host.get("a") is a
    assert ("a" in per_host, "c" in per_host, len(per_host), list(per_host)) == (True, False, 2, ["b", "a"])
    assert made == ["a", "b"]


@pytest.mark.parametrize(
    ("key", "equal"),
    [
        ("host", "".join(["ho", "st"])),
        (10**30, 10**29 * 10),
        (1, True),
        (1, 1.0),
        (b"host", bytes(bytearray(b"host"))),
        (("host", 80), ("".join(["ho", "st"]), 80)),
        (frozenset({1, 2}), frozenset({2, 1})),
        (None, None),
    ],
)
def test_keys_are_those_of_a_dict(key: object, equal: object) -> None:
    keyed = Keyed(Value)
    value = keyed[key]
    assert keyed[equal] is value
    assert equal in keyed
    assert keyed.discard(equal) is False  # `value` refers to it
    with pytest.raises(TypeError, match="unhashable"):
        keyed[[]]  # type: ignore[index]


class Same:
    """Hashes collide; equality is Python code."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.name == other.name


def test_keys_whose_hashes_collide_are_told_apart() -> None:
    keyed = Keyed(Value, max_keys=10)
    values = {name: keyed[Same(name)] for name in "abcdefgh"}
    for name, value in values.items():
        assert keyed[Same(name)] is value
    for name in "aceg":
        del values[name]
        if "value" in locals():
            del value
        assert keyed.discard(Same(name))
    assert {key.name for key in keyed} == set("bdfh")
    for name, value in values.items():
        assert keyed[Same(name)] is value


def test_a_key_may_come_back_while_it_is_compared() -> None:
    class Evil(Same):
        def __eq__(self, other: object) -> bool:
            fill(keyed, 20)
            keyed.discard(other)  # type: ignore[arg-type]
            return super().__eq__(other)

        __hash__ = Same.__hash__

    keyed: Keyed[Any, Value] = Keyed(Value, max_keys=3)
    for _ in range(20):
        for name in "abc":
            assert keyed[Evil(name)].key.name == name  # type: ignore[attr-defined]


def test_a_factory_may_ask_and_may_fail() -> None:
    def factory(n: int) -> Value:
        if n < 0:
            raise LookupError(n)
        if n > 0:
            keyed[n - 1]
        return Value(n)

    keyed = Keyed(factory)
    with pytest.raises(LookupError):
        keyed[-1]
    assert (-1 in keyed, len(keyed)) == (False, 0)
    assert keyed[5].key == 5
    assert list(keyed) == [0, 1, 2, 3, 4, 5]

    def itself(n: int) -> Value:
        depth.append(n)
        return Value(n) if len(depth) > 3 else recursive[n]

    depth: list[int] = []
    recursive = Keyed(itself)
    assert recursive[1] is recursive[1]
    assert len(recursive) == 1


# ------------------------------------------------------------------------------- what is in use is never given up


HELD: list[tuple[Callable[[Any], Any], Callable[[Any], Any], Callable[[Any], Any]]] = [
    (lambda _: Semaphore(8), lambda value: value.try_acquire(), lambda value: value.release()),
    (lambda _: BoundedSemaphore(8), lambda value: value.try_acquire(5), lambda value: value.release(5)),
    (
        lambda _: BoundedSemaphore(8),
        lambda value: setattr(value, "limit", 5),
        lambda value: setattr(value, "limit", 8),
    ),
    (lambda _: Semaphore(0), lambda value: value.release(), lambda value: value.try_acquire()),
    (lambda _: Lock(), lambda value: value.try_acquire(), lambda value: value.release()),
    (lambda _: Event(), lambda value: value.set(), lambda value: value.clear()),
    (lambda _: Queue(), lambda value: value.put_nowait(1), lambda value: (value.get_nowait(), value.task_done())),
    (Value, lambda value: setattr(value, "rests", False), lambda value: setattr(value, "rests", True)),
]
each_kind = pytest.mark.parametrize(
    ("factory", "take", "give"),
    HELD,
    ids=["Semaphore", "Bounded", "limit", "more", "Lock", "Event", "Queue", "own"],
)


@each_kind
def test_what_is_in_use_is_never_given_up(factory: Any, take: Any, give: Any) -> None:
    keyed = Keyed(factory, max_keys=5)
    take(keyed["held"])  # and nobody refers to it from here on
    watch = id(keyed["held"])
    fill(keyed)
    assert id(keyed["held"]) == watch
    assert keyed["held"].is_quiescent() is False
    assert len(keyed) == 5
    assert keyed.discard("held") is False
    give(keyed["held"])
    assert keyed["held"].is_quiescent() is True
    fill(keyed)
    assert "held" not in keyed


@pytest.mark.parametrize("kind", [Semaphore, Lock])
def test_what_somebody_refers_to_is_never_given_up(kind: Any) -> None:
    """It rests, but whoever has it in a variable may take it any time: it must not be of two minds by then."""
    keyed = Keyed(lambda _: kind(), max_keys=5)
    mine = keyed["mine"]
    fill(keyed)
    assert keyed["mine"] is mine
    bound = mine.release
    del mine
    fill(keyed)
    assert "mine" in keyed
    del bound
    fill(keyed)
    assert "mine" not in keyed


def test_a_block_or_a_waiter_keeps_it(cell: Cell) -> None:
    async def main() -> None:
        keyed = Keyed(lambda _: Semaphore(1), max_keys=5)
        inside = 0

        async def worker() -> None:
            nonlocal inside
            async with keyed["one"]:
                inside += 1
                assert inside == 1, "the key had two semaphores at a time"
                fill(keyed, 20)
                await asyncio.sleep(0)
                fill(keyed, 20)
                inside -= 1

        await asyncio.gather(*(worker() for _ in range(10)))
        fill(keyed)
        assert "one" not in keyed
        operation = keyed["one"].acquire()  # not even begun
        fill(keyed)
        assert "one" in keyed
        await operation
        keyed["one"].release()
        enter, leave = keyed["one"].__aenter__, keyed["one"].__aexit__
        fill(keyed)
        assert "one" in keyed
        del enter, leave, operation
        fill(keyed)
        assert "one" not in keyed

    run(main, cell)


def test_what_rests_goes_in_the_order_of_its_last_use() -> None:
    keyed = Keyed(Value, max_keys=4)
    for key in "abcd":
        keyed[key]
    keyed["a"]
    keyed.get("b")
    assert "c" in keyed  # only looking is no use
    keyed["e"]
    assert list(keyed) == ["d", "a", "b", "e"]
    keyed["f"]
    assert list(keyed) == ["a", "b", "e", "f"]
    assert keyed.stats().evicted == 2


def test_when_all_are_in_use_it_grows_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    keyed = Keyed(Value, max_keys=10)
    with caplog.at_level(logging.WARNING, logger="loopwright"):
        for n in range(19):
            keyed[n].rests = False
        assert len(keyed) == 19
        (record,) = caplog.records
        assert "holds 11 values, max_keys=10: every one of them is in use" in record.getMessage()
        assert "Keyed of Value" in record.getMessage()
        for n in range(19, 50):
            keyed[n].rests = False
    assert len(keyed) == 50
    assert 2 <= len(caplog.records) <= 4, "one more each time that it has doubled"
    stats = keyed.stats()
    assert stats.full >= 1
    assert stats.peak == 50
    for n in range(50):
        keyed[n].rests = True
    fill(keyed, 8)  # an eighth more, and it looks again
    assert len(keyed) == 10
    assert keyed.stats().evicted == 48


def test_a_look_asks_after_few_even_when_all_are_in_use() -> None:
    asked = 0

    def quiescent(value: object) -> bool:
        nonlocal asked
        asked += 1
        return False

    keyed = Keyed(Value, max_keys=100, quiescent=quiescent)
    fill(keyed, 20_000)
    assert len(keyed) == 20_000
    assert asked < 200_000


def test_discard_forgets_only_what_rests() -> None:
    keyed = Keyed(Value)
    assert keyed.discard("a") is False
    keyed["a"].rests = False
    assert keyed.discard("a") is False
    keyed["a"].rests = True
    first = id(keyed["a"])
    assert keyed.discard("a") is True
    assert "a" not in keyed
    del first
    value = keyed["a"]
    assert keyed.discard("a") is False
    del value
    assert keyed.discard("a") is True


# ------------------------------------------------------------------------------- quiescence


def test_a_value_that_cannot_say_whether_it_is_in_use_is_refused() -> None:
    with pytest.raises(TypeError, match=r"whether dict is in use: .* is_quiescent\(\), or pass Keyed\(quies"):
        Keyed(lambda _: {})["a"]
    with pytest.raises(TypeError, match=r"whether asyncio.locks.Semaphore is in use"):
        Keyed(lambda _: asyncio.Semaphore(3))["a"]

    async def factory(_: str) -> Semaphore:
        return Semaphore(3)

    with pytest.raises(TypeError, match=r"plain function, .*factory gave something to be awaited: .*Resources"):
        Keyed(factory)["a"]


def test_the_function_quiescent_decides_in_place_of_the_method() -> None:
    keyed = Keyed(
        lambda _: asyncio.Semaphore(3), max_keys=5, quiescent=lambda semaphore: semaphore._value == 3 and True
    )

    async def main() -> None:
        await keyed["held"].acquire()
        fill(keyed)
        assert "held" in keyed
        keyed["held"].release()
        fill(keyed)
        assert "held" not in keyed

    run(main)
    plain_cache: Keyed[str, dict[str, int]] = Keyed(lambda _: {}, max_keys=5, quiescent=lambda _: True)
    fill(plain_cache)
    assert len(plain_cache) == 5


def test_an_error_in_quiescent_is_reported_and_means_no(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", reports.append)

    def broken(value: Value) -> bool:
        raise LookupError(value.key)

    keyed = Keyed(Value, max_keys=2, quiescent=broken)
    for key in "abc":
        keyed[key]
    assert len(keyed) == 3
    assert {type(report.exc_value) for report in reports} == {LookupError}

    def stop(value: Value) -> bool:
        raise KeyboardInterrupt

    keyed = Keyed(Value, max_keys=2, quiescent=stop)
    for key in "ab":
        keyed[key]
    with pytest.raises(KeyboardInterrupt):
        keyed["c"]
    assert set(keyed) == {"a", "b", "c"}


def test_quiescent_may_come_back() -> None:
    """What is asked for while it is asked after stays."""
    favourite = "a"

    def quiescent(value: Value) -> bool:
        keyed[favourite]
        return True

    keyed = Keyed(Value, max_keys=2, quiescent=quiescent)
    keyed["a"]
    for n in range(50):
        keyed[n]
        assert "a" in keyed
        assert len(keyed) <= 4


# ------------------------------------------------------------------------------- time


def test_what_nobody_asks_for_is_given_up_after_idle_seconds() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        keyed = Keyed(Value, idle=300)
        for key in "abc":
            keyed[key]
        keyed["held"].rests = False
        await asyncio.sleep(200)
        keyed["b"]
        await asyncio.sleep(99)
        assert keyed.sweep() == 0
        await asyncio.sleep(1)
        assert keyed.sweep() == 2
        assert set(keyed) == {"b", "held"}
        await asyncio.sleep(200)
        assert keyed.sweep() == 1
        keyed["held"].rests = True
        await asyncio.sleep(300)
        assert keyed.sweep() == 1
        assert keyed.stats().expired == 4
        assert loop.time() < 5_000  # virtual

    with asyncio.Runner(loop_factory=SimLoop) as runner:
        runner.run(main())


def test_new_keys_clear_up_behind_themselves() -> None:
    async def main() -> None:
        keyed = Keyed(Value, idle=10)
        fill(keyed, 500)
        for n in range(100):
            await asyncio.sleep(1)
            keyed[n]
        assert len(keyed) == 10
        forever = Keyed(Value, idle=math.inf)
        fill(forever, 500)
        await asyncio.sleep(1e9)
        assert forever.sweep() == 0

    with asyncio.Runner(loop_factory=SimLoop) as runner:
        runner.run(main())


def test_it_needs_no_loop_and_outlives_them() -> None:
    """A module-level object: used without a loop, in a loop of virtual time, in a real one."""
    keyed = Keyed(Value, idle=300)
    keyed["a"]

    async def virtual() -> None:
        keyed["b"]
        await asyncio.sleep(100)
        keyed["c"]
        assert keyed.sweep() == 0

    for _ in range(2):
        with asyncio.Runner(loop_factory=SimLoop) as runner:
            runner.run(virtual())

    async def real() -> None:
        assert keyed.sweep() == 0
        keyed["d"]

    run(real)
    assert set(keyed) == {"a", "b", "c", "d"}


def test_a_loop_with_a_clock_of_its_own_is_believed() -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)

        async def main() -> None:
            keyed = Keyed(Value, idle=300)
            keyed["a"], keyed["b"]
            loop.call_later(200, lambda: None)
            loop.advance()
            keyed["b"]
            loop.call_later(100, lambda: None)
            loop.advance()
            assert keyed.sweep() == 1
            assert list(keyed) == ["b"]

        runner.run(main())


# ------------------------------------------------------------------------------- threads, references, misuse


def test_threads_get_one_value_for_a_key() -> None:
    keyed: Keyed[Any, Value] = Keyed(Value, max_keys=50)
    wrong: list[object] = []
    barrier = threading.Barrier(4)

    def work(seed: int) -> None:
        rng = random.Random(seed)
        barrier.wait(10)
        for _ in range(5_000):
            key: Any = rng.randrange(200)
            key = Same(str(key % 7)) if key % 10 == 0 else ("t", key)
            value = keyed[key]
            if value.key != key or keyed[key] is not value:
                wrong.append(key)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
    fill(keyed)
    assert len(keyed) == 50


def test_what_is_given_up_is_freed_at_once() -> None:
    async def main() -> None:
        keyed = Keyed(lambda _: Semaphore(1), max_keys=2)
        async with keyed["a"]:
            pass
        reference = weakref.ref(keyed["a"])
        fill(keyed, 5)
        assert reference() is None

    gc.disable()
    try:
        run(main)
    finally:
        gc.enable()


def test_a_cycle_through_a_value_a_key_or_the_factory_is_collected() -> None:
    class Holder:
        keyed: object

        def factory(self, key: object) -> Value:
            return Value(self)

    def make() -> weakref.ref[Holder]:
        holder = Holder()
        keyed = Keyed(holder.factory)
        holder.keyed = keyed
        keyed[holder]
        return weakref.ref(holder)

    reference = make()
    gc.collect()
    assert reference() is None


def test_misuse_is_refused_by_name() -> None:
    for make, error, message in [
        (lambda: Keyed(5), TypeError, r"factory=...\) must be a function of the key, got 5"),  # type: ignore[arg-type]
        (lambda: Keyed(Value, quiescent=5), TypeError, r"quiescent=...\) must be a function of the value"),  # type: ignore[arg-type]
        (lambda: Keyed(Value, max_keys=0), ValueError, r"max_keys=...\) must be 1 or more, got 0"),
        (lambda: Keyed(Value, max_keys=True), TypeError, "max_keys"),
        (lambda: Keyed(Value, idle=0), ValueError, r"idle=...\) must be more than 0"),
        (lambda: Keyed(Value, idle=math.nan), ValueError, "nan"),
        (lambda: Keyed(Value, idle="1"), TypeError, "idle"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(error, match=message):
            make()


def test_it_tells_its_state() -> None:
    keyed: Keyed[Any, Value] = Keyed[str, Value](Value, max_keys=5)
    keyed["a"], keyed["a"], keyed["b"]
    stats = keyed.stats()
    assert (stats.keys, stats.max_keys, stats.idle, stats.hits, stats.made) == (2, 5, 300.0, 1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.keys = 3  # type: ignore[misc]
    assert repr(keyed) == "<Keyed of Value keys=2 max_keys=5>"


# ------------------------------------------------------------------------------- sweeps


async def scenario(play: Play) -> None:
    """Workers over few keys and a full house: never two semaphores of one key, none lost."""
    keyed = Keyed(lambda _: Semaphore(1), max_keys=1)
    inside = {"a": 0, "b": 0}

    async def worker(key: str) -> None:
        for _ in range(2):
            async with keyed[key]:
                inside[key] += 1
                assert inside[key] == 1, "two semaphores for one key"
                try:
                    await play.pause()
                finally:
                    inside[key] -= 1

    for key in "aabb":
        play.spawn(worker(key))
    await play.finished()
    assert inside == {"a": 0, "b": 0}
    for key in list(keyed):
        assert keyed[key].is_quiescent()
    keyed["new"]
    assert list(keyed) == ["new"]


def test_sweep(cell: Cell) -> None:
    assert cancel_sweep(scenario, **EVERY_STEP, **in_cell(cell)).count("cancel") > 3


def test_random_cancels(cell: Cell) -> None:
    random_cancels(scenario, cancels(cell=cell, share=0.05), **in_cell(cell))
