"""loopwright.integrations.redis: limits shared by many processes, on a real server.

The scripts alone, at times that the test chooses; then the promises: never more than the limit, first come, first
served, a cancel at any moment leaves nothing behind, a process that is killed gives its permits back, a server that is
gone or comes back empty is met as ``fail=`` says. The server's own log is the judge of what several processes did.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
import debian
import pytest
from support import loops, requires
from support.loops import PLAIN, Cell
from support.servers import HOST, Redis, free_port

import loopwright
from loopwright import (
    BreakerOpen,
    LeaseLost,
    LimitUnavailable,
    LoopMismatch,
    RateLimitExceeded,
    amap,
    resilient,
    timeout,
)
from loopwright.integrations import _redis_shared
from loopwright.integrations import redis as shared
from loopwright.integrations._redis_limits import Lease

pytestmark = [pytest.mark.default_only, pytest.mark.timeout(180)]

STRESS = os.environ.get("LOOPWRIGHT_STRESS") == "1"
ROOT = Path(__file__).resolve().parent.parent
LONG = 600.0
"""Seconds of a lease that ends in no test."""
NAMES = itertools.count()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine is no server that is gone."""
    for limit in (shared.Semaphore, shared.Lock, shared.RateLimiter, shared.CircuitBreaker):
        monkeypatch.setitem(limit.__init__.__kwdefaults__, "reply_timeout", 60.0)


def fresh(what: str = "limit") -> str:
    return f"{what}-{os.getpid()}-{next(NAMES)}"


async def until(condition: Callable[[], Any], limit: float = 60.0) -> None:
    """Waits for what has to come, however slow the machine is."""
    end = time.monotonic() + limit
    while True:
        holds = condition()
        if asyncio.iscoroutine(holds):
            holds = await holds
        if holds:
            return
        assert time.monotonic() < end, "it did not come"
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def client(server: Redis, **options: Any) -> AsyncIterator[Any]:
    """A client that takes an error for an error, at once."""
    redis = requires.module("redis.asyncio")
    retry = redis.retry.Retry(requires.module("redis.backoff").NoBackoff(), 0)
    made = redis.Redis.from_url(server.url, **({"retry": retry, "socket_timeout": None} | options))
    try:
        yield made
    finally:
        await made.aclose()


def on(server: Redis, main: Callable[[Any], Coroutine[Any, Any, None]], cell: Cell = PLAIN, **options: Any) -> None:
    """Runs ``main(client)``; afterwards nothing is left running."""

    async def enter() -> None:
        async with client(server, **options) as redis:
            await main(redis)
        me = asyncio.current_task()
        await until(lambda: asyncio.all_tasks() <= {me})

    loops.run(enter, cell)


async def at_rest(semaphore: Any) -> None:
    """The server knows of nobody any more: nothing is held, nobody waits."""

    async def empty() -> bool:
        stats = await semaphore.fetch()
        return bool(stats.value == stats.limit and stats.line == 0)

    await until(empty)


# The scripts, at chosen times


class Books:
    """One script on one set of keys; each call says what time it is."""

    def __init__(self, server: Redis, script: Any, keys: tuple[str, ...]) -> None:
        self.redis = requires.module("redis").Redis.from_url(server.url)
        self.script = script
        self.keys = keys

    def __call__(self, command: str, now: float, *arguments: object) -> list[Any]:
        given = (command, f"{now:.0f}", *arguments)
        answer: list[Any] = self.redis.execute_command("EVAL", self.script.text, len(self.keys), *self.keys, *given)
        return answer


LEASE = 10**12
"""Microseconds of a lease in the script's tests: the keys live by the real clock, and have to outlive the test."""


class SemaphoreBooks(Books):
    def __init__(self, server: Redis, limit: int) -> None:
        base = f"test:{{{fresh()}}}:"
        super().__init__(server, shared.Semaphore.script, (base + "alive", base + "line", base + "info"))
        self.limit, self.bells = limit, base + "bell:"

    def ask(self, command: str, now: float, *arguments: object) -> list[int]:
        return self(command, now, self.limit, LEASE, self.bells, *arguments)

    def rung(self, client: str) -> list[str]:
        bell = self.bells + client
        heard = [text.decode().split()[0] for text in self.redis.lrange(bell, 0, -1)]
        self.redis.delete(bell)
        return heard


class Naive:
    """What the semaphore's script promises, in the plainest words: lists, and everything looked at each time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held: dict[str, int] = {}
        self.line: list[tuple[str, int]] = []
        self.ends: dict[str, float] = {}
        self.woken: list[str] = []

    def known(self, id: str) -> bool:
        return id in self.ends

    def holds(self, now: float, id: str) -> bool:
        return id in self.held and self.ends[id] > now

    def leave(self, id: str) -> None:
        self.held.pop(id, None)
        self.line = [entry for entry in self.line if entry[0] != id]
        self.ends.pop(id, None)

    def serve(self, now: float) -> None:
        for id in [id for id, end in self.ends.items() if end <= now]:
            self.leave(id)
        while self.line and sum(self.held.values()) + self.line[0][1] <= self.limit:
            id, n = self.line.pop(0)
            self.held[id] = n
            self.woken.append(id)

    def acquire(self, now: float, id: str, n: int, wait: int) -> int:
        self.serve(now)
        if not self.known(id):
            if not self.line and sum(self.held.values()) + n <= self.limit:
                self.held[id] = n
            elif wait:
                self.line.append((id, n))
            else:
                return -1
        self.ends[id] = now + LEASE
        return int(id in self.held)

    def release(self, now: float, id: str, kept: int) -> None:
        if kept == 0:
            self.leave(id)
        elif kept < self.held.get(id, 0):
            self.held[id] = kept
        self.serve(now)

    def beat(self, now: float, ids: list[str]) -> list[int]:
        for id in ids:
            if self.known(id):
                self.ends[id] = now + LEASE
        self.serve(now)
        return [1 if id in self.held else 0 if self.known(id) else -1 for id in ids]


@pytest.mark.parametrize("seed", range(4 if not STRESS else 200))
def test_semaphore_script_does_what_the_naive_books_do(seed: int, redis_server: Redis) -> None:
    chance = random.Random(seed)
    limit = chance.randint(1, 5)
    books, naive = SemaphoreBooks(redis_server, limit), Naive(limit)
    now, number, newest = 1e15, 0, 0
    ids: list[str] = []
    for _ in range(250):
        now += chance.choice([0, 1, 1000, LEASE // 3, LEASE // 2])
        what = chance.choice(["acquire", "acquire", "try", "release", "release", "shrink", "beat"])
        id = chance.choice(ids) if ids else "nobody.0"
        if what in ("acquire", "try"):
            number += 1
            id = f"client{chance.randint(0, 2)}.{number}" if chance.random() < 0.9 or not ids else id
            ids.append(id)
            n, wait = chance.randint(1, limit), int(what == "acquire")
            again = naive.holds(now, id)  # then it is answered again, and nothing is taken
            status, token, *rest = books.ask("acquire", now, id, n, wait)
            assert status == naive.acquire(now, id, n, wait)
            assert status != 1 or again or token > newest
            newest = max(token, newest)
        elif what in ("release", "shrink"):
            kept = chance.randint(1, limit) if what == "shrink" else 0
            rest = books.ask("release", now, id, kept)[2:]
            naive.release(now, id, kept)
        else:
            some = chance.sample(ids, min(len(ids), 5))
            *answer, taken, line, first = books.ask("beat", now, *some)
            rest = [taken, line, first]
            assert answer[::2] == naive.beat(now, some)
        first = min(naive.ends.values()) - now if naive.line else -1
        assert rest == [sum(naive.held.values()), len(naive.line), first]
        assert rest[0] <= limit
        heard = [id for name in ("client0", "client1", "client2") for id in books.rung(name)]
        assert sorted(heard) == sorted(naive.woken)
        naive.woken.clear()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("if taken + n > limit then break end", "if taken + n > limit + 1 then break end"),
        ("if not head and taken + n <= limit then", "if taken + n <= limit then"),
        ("if is == HELD then taken = taken - n else", "if is == HELD then else"),
        ("local head = redis.call('ZRANGE', line, 0, 0)[1]", "local head = redis.call('ZRANGE', line, -1, -1)[1]"),
        ("'-inf', text(now))) do leave(id) end", "'-inf', text(now))) do redis.call('ZREM', alive, id) end"),
    ],
)
def test_a_hand_broken_script_is_noticed(
    right: str, wrong: str, redis_server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = shared.Semaphore.script
    assert script.text.count(right) == 1
    monkeypatch.setattr(script, "text", script.text.replace(right, wrong))
    with pytest.raises(AssertionError):
        for seed in range(20):
            test_semaphore_script_does_what_the_naive_books_do(seed, redis_server)


def test_permits_of_who_does_not_renew_are_somebody_elses_when_the_lease_ends(redis_server: Redis) -> None:
    books = SemaphoreBooks(redis_server, 2)
    assert books.ask("acquire", 1e15, "dead.1", 2, 1)[0] == 1
    assert books.ask("acquire", 1e15 + 5, "alive.1", 1, 1)[0] == 0
    assert books.ask("beat", 1e15 + LEASE - 1, "alive.1")[0] == 0
    assert books.ask("beat", 1e15 + LEASE, "alive.1")[0] == 1


def test_who_died_in_line_stands_in_nobodys_way(redis_server: Redis) -> None:
    books = SemaphoreBooks(redis_server, 2)
    books.ask("acquire", 1e15, "holder.1", 1, 1)
    books.ask("acquire", 1e15, "dead.1", 2, 1)
    assert books.ask("acquire", 1e15 + 1, "alive.1", 1, 1)[0] == 0, "nobody overtakes"
    books.ask("beat", 1e15 + LEASE - 1, "holder.1", "alive.1")
    assert books.ask("beat", 1e15 + LEASE, "alive.1")[0] == 1


def test_fencing_tokens_grow_although_the_data_are_lost(redis_server: Redis) -> None:
    books = SemaphoreBooks(redis_server, 3)
    tokens = [books.ask("acquire", 1e15, f"client.{number}", 1, 1)[1] for number in range(3)]
    books.redis.delete(*books.keys)
    tokens.append(books.ask("acquire", 1e15 + 10, "client.9", 1, 1)[1])
    assert tokens == sorted(set(tokens))
    assert tokens[0] >= 1e15


def test_books_heal_when_the_server_evicted_a_part_of_them(redis_server: Redis) -> None:
    books = SemaphoreBooks(redis_server, 1)
    books.ask("acquire", 1e15, "client.1", 1, 1)
    books.redis.delete(books.keys[0])
    assert books.ask("acquire", 1e15 + 1, "client.2", 1, 1)[0] == 1
    books.redis.delete(books.keys[2])
    books.ask("release", 1e15 + 2, "client.2", 0)
    assert books.ask("acquire", 1e15 + 3, "client.3", 1, 1)[0] == 1


class RateBooks(Books):
    def __init__(self, server: Redis, unit: int, burst: int) -> None:
        base = f"test:{{{fresh()}}}:"
        super().__init__(server, shared.RateLimiter.script, (base + "tat", base + "holes"))
        self.unit, self.burst = unit, burst

    def ask(self, command: str, now: float, *arguments: object) -> list[Any]:
        *answer, missing = self(command, now, self.unit, self.burst, *arguments)
        assert missing >= 0
        return answer


def excess(granted: list[tuple[float, int]], unit: float, burst: float) -> float:
    """By how many units the worst of all windows exceeds ``rate * window + burst``: a bucket that leaks, as it goes."""
    level, last, worst = 0.0, 0.0, 0.0
    for at, n in sorted(granted):
        level = max(0.0, level - (at - last) / unit) + n
        last, worst = at, max(worst, level - burst)
    return worst


@pytest.mark.parametrize("seed", range(4 if not STRESS else 200))
def test_no_window_has_more_than_the_rate_allows_whatever_is_cancelled(seed: int, redis_server: Redis) -> None:
    chance = random.Random(seed)
    unit, burst = 10**9, chance.randint(1, 6)
    books = RateBooks(redis_server, unit, burst)
    now = 1e15
    places: dict[int, tuple[float, int, bytes, bytes]] = {}
    for number in range(300):
        now += chance.choice([0, 0, 1, unit // 7, unit // 2, unit, 3 * unit])
        if places and chance.random() < 0.3:
            which = chance.choice(list(places))
            at, n, place, tat = places[which]
            if at >= now:  # it waits still
                del places[which]
                books.ask("undo", now, n, place, tat, number)
            continue
        n = chance.randint(1, burst)
        patience = chance.choice([-1, -1, 0, 2 * unit])
        granted, delay, place, tat = books.ask("take", now, n, patience)
        assert delay <= patience or patience < 0 or not granted
        if granted:
            places[number] = (now + delay, n, place, tat)
            assert float(place) == now + delay
    assert len(places) > 50
    assert excess([(at, n) for at, n, *_ in places.values()], unit, burst) <= 1e-6


def test_a_place_that_is_given_back_is_used(redis_server: Redis) -> None:
    books = RateBooks(redis_server, 10**9, 1)
    places = [books.ask("take", 1e15, 1, -1) for _ in range(4)]
    assert [place[1] for place in places] == [0, 10**9, 2 * 10**9, 3 * 10**9]
    books.ask("undo", 1e15, 1, *places[1][2:], "a")
    assert books.ask("take", 1e15, 1, -1)[1] == 10**9, "the one in the middle, to who asks next"
    books.ask("undo", 1e15, 1, *places[3][2:], "b")
    assert books.ask("take", 1e15, 1, -1)[1] == 3 * 10**9, "the last one"
    assert books.ask("take", 1e15, 1, -1)[1] == 4 * 10**9


def test_a_big_request_is_not_starved_by_small_ones(redis_server: Redis) -> None:
    books = RateBooks(redis_server, 10**9, 5)
    books.ask("take", 1e15, 5, -1)
    big = books.ask("take", 1e15, 5, -1)
    small = [books.ask("take", 1e15 + second * 10**9, 1, -1) for second in range(20)]
    assert big[1] == 5 * 10**9
    assert min(1e15 + second * 10**9 + place[1] for second, place in enumerate(small)) > 1e15 + big[1]


# Semaphore and Lock


@pytest.mark.parametrize("cell", loops.parameters())
def test_never_more_than_the_limit_and_first_come_first_served(cell: Cell, redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        name = fresh()
        one, two = (shared.Semaphore(3, redis=redis, name=name, lease=LONG) for _ in range(2))
        running, peak, order = 0, 0, []

        async def job(number: int, n: int) -> None:
            nonlocal running, peak
            async with (one, two)[number % 2].permit(n) as lease:
                order.append((lease.token, number))
                running += n
                peak = max(peak, running)
                await asyncio.sleep(0)
                running -= n

        hold = await one.acquire(3)
        tasks = []
        for number in range(12):  # each is in line before the next one asks
            tasks.append(asyncio.create_task(job(number, 1 + number % 3)))

            async def asked(line: int = number + 1) -> bool:
                return (await one.fetch()).line == line

            await until(asked)
        assert one.locked() and one.value == 0 and one.waiting == 6
        one.release(hold.n)
        await asyncio.gather(*tasks)
        assert peak <= 3
        assert [number for _, number in sorted(order)] == list(range(12))
        await at_rest(one)
        assert one.stats().acquired + two.stats().acquired == 13
        await one.aclose()
        await two.aclose()

    on(redis_server, main, cell)


def test_the_interface_is_that_of_the_local_ones(redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        semaphore = shared.Semaphore(3, redis=redis, name=fresh(), lease=LONG)
        assert await semaphore.acquire(2)
        assert not await semaphore.try_acquire(2)
        lease = await semaphore.try_acquire()
        assert isinstance(lease, Lease) and lease.n == 1
        semaphore.release()
        semaphore.release()
        await semaphore.release()
        await at_rest(semaphore)
        with pytest.raises(ValueError, match="more than it holds"):
            semaphore.release()
        with pytest.raises(ValueError, match="no more than 3"):
            await semaphore.acquire(4)
        with pytest.raises(TypeError, match=r"write `await Semaphore\.try_acquire`"):
            bool(semaphore.try_acquire())
        with pytest.raises(TypeError, match="must be an int"):
            await semaphore.acquire(True)
        lock = shared.Lock(redis=redis, name=fresh(), lease=LONG)
        async with lock as lease:
            assert lock.locked()
            assert not await lock.try_acquire()
            assert lease.token
        assert not lock.locked() and lock.is_quiescent()
        with pytest.raises(RuntimeError, match="more than it holds"):
            lock.release()
        assert "Lock in Redis" in repr(lock) and "token=" in repr(lease)
        limiter = shared.RateLimiter(1, 1000, burst=2, redis=redis, name=fresh())
        async with limiter:
            assert await limiter.try_acquire()
        assert not await limiter.try_acquire()
        assert 0 < await limiter.retry_after() <= 1000
        with pytest.raises(TypeError, match="round trip"):
            float(limiter.retry_after())
        limiter.set_rate(1e6)
        assert limiter.rate == 1e6 and limiter.burst == 1_000_000 and limiter.is_quiescent()
        assert limiter.stats().admitted == 2

    on(redis_server, main)


def test_two_semaphores_of_one_task_are_left_in_any_order(redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        semaphore = shared.Semaphore(5, redis=redis, name=fresh(), lease=LONG)
        outer, inner = semaphore.permit(3), semaphore.permit(2)
        await outer.__aenter__()
        await inner.__aenter__()
        await inner.__aexit__(None, None, None)
        assert (await semaphore.fetch()).value == 2
        await asyncio.create_task(outer.__aexit__(None, None, None))  # type: ignore[arg-type]
        assert (await semaphore.fetch()).value == 5
        with pytest.raises(RuntimeError, match="nobody had entered"):
            await outer.__aexit__(None, None, None)

    on(redis_server, main)


@pytest.mark.parametrize("held", [False, True], ids=["free", "taken"])
@pytest.mark.parametrize("cell", loops.parameters([PLAIN, Cell("uvloop")]))
def test_a_cancel_at_any_turn_leaves_nothing_behind(cell: Cell, held: bool, redis_server: Redis) -> None:
    """Also in the middle of the round trip, and in the turn in which the permit comes. The lease has no part in it."""

    async def main(redis: Any) -> None:
        semaphore = shared.Semaphore(1, redis=redis, name=fresh(), lease=LONG)
        await semaphore.fetch()  # the script is known
        entered = cancelled = 0
        for turn in range(60):
            holder = await semaphore.acquire() if held else None

            async def use() -> None:
                nonlocal entered
                async with semaphore:
                    entered += 1

            victim = asyncio.create_task(use())
            if holder is not None:
                await until(lambda: semaphore.waiting == 1)
                semaphore.release()
            for _ in range(turn):
                await asyncio.sleep(0 if turn % 2 else 0.0001)
            victim.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await victim
            cancelled += victim.cancelled()
            await at_rest(semaphore)
        assert cancelled > 2
        await semaphore.aclose()

    on(redis_server, main, cell)


@pytest.mark.parametrize("seed", range(2))
def test_random_cancels_lose_no_permit(seed: int, redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        chance = random.Random(seed)
        name = fresh()
        crowd = [shared.Semaphore(4, redis=redis, name=name, lease=LONG) for _ in range(2)]
        running = peak = done = 0

        async def work(semaphore: Any, n: int) -> None:
            nonlocal running, peak, done
            async with semaphore.permit(n):
                running += n
                peak = max(peak, running)
                try:
                    await asyncio.sleep(chance.random() * 0.002)
                finally:
                    running -= n
            done += 1

        tasks: list[asyncio.Task[None]] = []
        for _ in range(300 if not STRESS else 10_000):
            tasks.append(asyncio.create_task(work(chance.choice(crowd), chance.randint(1, 4))))
            if len(tasks) > 20:
                chance.choice(tasks).cancel()
                await asyncio.sleep(chance.choice([0, 0, 0.001]))
                tasks = [task for task in tasks if not task.done()]
        await asyncio.gather(*tasks, return_exceptions=True)
        assert peak <= 4 and done > 0
        for semaphore in crowd:
            await at_rest(semaphore)
            await semaphore.aclose()

    on(redis_server, main)


def test_a_lease_is_renewed_for_as_long_as_it_is_held(redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        lock = shared.Lock(redis=redis, name=fresh(), lease=9.0)
        async with lock as lease:
            alive = lock._keys[0]
            first = await redis.zscore(alive, lease.id)

            async def renewed() -> bool:
                return bool(await redis.zscore(alive, lease.id) > first + 2e6)

            await until(renewed)
            lease.check()
        await at_rest(lock)

    on(redis_server, main)


@pytest.mark.parametrize("on_lost", ["cancel", "tell"])
def test_a_lost_lease_is_told(on_lost: Any, redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        lock = shared.Lock(redis=redis, name=fresh(), lease=0.3, on_lost=on_lost)
        went_on = False
        with pytest.raises(LeaseLost, match="was lost") as caught:
            async with lock as lease:
                await redis.delete(*lock._keys)  # as when the server has lost its data
                await lease.lost.wait()
                await asyncio.sleep(0 if on_lost == "tell" else 60)
                went_on = True
        assert went_on == (on_lost == "tell")
        assert caught.value.token == lease.token
        with pytest.raises(LeaseLost):
            lease.check()
        assert lock.stats().lost == 1
        task = asyncio.current_task()
        assert task is not None and not task.cancelling()

    on(redis_server, main)


def test_a_cancel_beside_a_lost_lease_stays_a_cancel(redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        lock = shared.Lock(redis=redis, name=fresh(), lease=0.3)
        leases = []

        async def use() -> None:
            async with lock as lease:
                leases.append(lease)
                await asyncio.sleep(60)

        task = asyncio.create_task(use())
        await until(lambda: leases)
        task.cancel()
        lock._lose(leases[0])  # in the same turn
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert "was lost" in "".join(caught.value.__notes__)
        await lock.aclose()

    on(redis_server, main)


def test_a_waiter_that_the_server_forgot_stands_in_line_again(redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        one, two = (shared.Semaphore(1, redis=redis, name=name, lease=0.6) for name in [fresh()] * 2)
        await one.acquire()
        waiter = asyncio.create_task(two.acquire())
        await until(lambda: two.waiting == 1)
        await redis.delete(*one._keys)
        assert await waiter
        await one.aclose()
        await two.aclose()

    on(redis_server, main)


def test_a_bell_that_nobody_heard_is_made_up_for(redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        semaphore = shared.Semaphore(1, redis=redis, name=fresh(), lease=LONG)
        await semaphore.acquire()
        waiter = asyncio.create_task(semaphore.acquire())
        await until(lambda: semaphore.waiting == 1)
        assert semaphore._ear is not None
        semaphore._ear.cancel()
        await asyncio.wait([semaphore._ear])
        await semaphore.release()
        assert semaphore.waiting == 1
        semaphore._ring()  # as a third of the lease later
        assert await waiter
        await semaphore.aclose()
        await at_rest(semaphore)

    on(redis_server, main)


def test_an_object_in_use_belongs_to_one_loop(redis_server: Redis) -> None:
    lock: Any = None

    async def first(redis: Any) -> None:
        nonlocal lock
        lock = shared.Lock(redis=redis, name=fresh(), lease=LONG)
        await lock.acquire()

        def elsewhere() -> None:
            with pytest.raises(LoopMismatch, match="one for each loop"):
                asyncio.run(lock.acquire())

        await asyncio.to_thread(elsewhere)
        await lock.release()

    on(redis_server, first)


@pytest.mark.parametrize("decode", [False, True])
def test_any_client_will_do(decode: bool, redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        await redis.script_flush()  # NOSCRIPT: it sends the text
        semaphore = shared.Semaphore(1, redis=redis, name=fresh(), lease=LONG)
        waiter = None
        async with semaphore:
            waiter = asyncio.create_task(semaphore.acquire())
            await until(lambda: semaphore.waiting == 1)
        assert (await waiter).token
        await semaphore.release()
        limiter = shared.RateLimiter(1000, burst=1, redis=redis, name=fresh())
        for _ in range(3):
            await limiter.acquire()
        assert limiter.stats().round_trips == 3
        await semaphore.aclose()

    on(redis_server, main, decode_responses=decode)


def test_our_own_connection_pool_will_do(redis_server: Redis) -> None:
    async def main() -> None:
        redis = requires.module("redis.asyncio").Redis.from_pool(shared.connection_pool(redis_server.url, max_size=2))
        semaphore = shared.Semaphore(2, redis=redis, name=fresh(), lease=LONG)

        async def use() -> None:
            async with semaphore:
                await asyncio.sleep(0)

        await asyncio.gather(*(use() for _ in range(30)))
        await at_rest(semaphore)
        await semaphore.aclose()
        await redis.aclose()

    loops.run(main)


def test_it_limits_whatever_a_semaphore_limits(redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        semaphore = shared.Semaphore(2, redis=redis, name=fresh(), lease=LONG)
        running = peak = 0

        async def work(item: int) -> int:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            await asyncio.sleep(0)
            running -= 1
            return item

        assert await amap(work, range(10), limit=semaphore) == list(range(10))
        assert peak <= 2
        guards = {"redis": redis, "name": fresh()}
        breaker, limiter = shared.CircuitBreaker(**guards), shared.RateLimiter(1, 1000, burst=1, **guards)
        guarded = resilient(work, timeout=100, breaker=breaker, limiter=limiter)
        assert await guarded(5) == 5
        with pytest.raises(RateLimitExceeded):
            await guarded(6)
        assert (await breaker.fetch()).ignored == 1
        await at_rest(semaphore)
        await semaphore.aclose()
        await breaker.aclose()

    on(redis_server, main)


def test_a_scope_that_cancels_again_and_again_stops_no_give_back(redis_server: Redis) -> None:
    """anyio cancels whatever waits in a cancelled scope, the end of the block too."""

    async def main(redis: Any) -> None:
        semaphore = shared.Semaphore(1, redis=redis, name=fresh(), lease=LONG)
        for inside in (True, False):
            with anyio.CancelScope() as scope:
                async with semaphore:
                    if inside:
                        scope.cancel()
                        await asyncio.sleep(60)
                    asyncio.get_running_loop().call_soon(scope.cancel)
                    await semaphore.acquire()
            assert scope.cancelled_caught
            await at_rest(semaphore)
        await semaphore.aclose()

    on(redis_server, main)


# RateLimiter


def test_a_cancelled_acquire_gives_its_place_back(redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        limiter = shared.RateLimiter(1, 1000, burst=3, redis=redis, name=fresh())
        for turn in range(40):
            victim = asyncio.create_task(limiter.acquire(3))
            waiter = None
            if turn % 3 == 0:
                await asyncio.wait([victim])
                waiter = asyncio.create_task(limiter.acquire(2))  # has to wait, for ever
            for _ in range(turn):
                await asyncio.sleep(0 if turn % 2 else 0.0001)
            for task in filter(None, (waiter, victim)):
                task.cancel()
            done = await asyncio.gather(victim, *filter(None, [waiter]), return_exceptions=True)
            if done[0] is True:
                await redis.delete(*limiter._keys)  # it went: that stays, so the next turn begins anew
                await until(limiter.is_quiescent)
                await redis.delete(*limiter._keys)
            limiter._acquired = 0

            async def whole() -> bool:
                return limiter.is_quiescent() and await limiter.retry_after(3) == 0

            await until(whole)

    on(redis_server, main)


def test_acquire_that_cannot_meet_its_deadline_fails_at_once_and_takes_nothing(redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        limiter = shared.RateLimiter(1, 1000, redis=redis, name=fresh())
        await limiter.acquire()
        before = await limiter.retry_after()
        with pytest.raises(RateLimitExceeded, match="nothing was taken") as caught:
            async with timeout(100):
                await limiter.acquire()
        assert 900 < caught.value.retry_after <= 1000
        assert await limiter.retry_after() <= before
        assert limiter.stats().refused == 1

    on(redis_server, main)


# A server that is not there


def test_closed_refuses_while_redis_is_gone_and_works_again_after(redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        semaphore = shared.Semaphore(1, redis=redis, name=fresh(), lease=LONG)
        limiter = shared.RateLimiter(10, redis=redis, name=fresh())
        await limiter.acquire()
        holder = await semaphore.acquire()
        waiter = asyncio.create_task(semaphore.acquire())
        await until(lambda: semaphore.waiting == 1)
        redis_server.kill()
        with pytest.raises(LimitUnavailable, match="fail='closed'"):
            await waiter
        for acquire in (semaphore.acquire, limiter.acquire, limiter.try_acquire):
            with pytest.raises(LimitUnavailable) as caught:
                await acquire()
            assert isinstance(caught.value, ConnectionError)
        assert not holder.lost.is_set(), "its lease has not ended"
        redis_server.start()
        await limiter.acquire()
        await semaphore.aclose()
        async with semaphore:
            pass
        await at_rest(semaphore)
        await semaphore.aclose()

    on(redis_server, main)


def test_closed_tells_who_is_in_when_the_lease_ends_or_the_data_are_gone(redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        lock = shared.Lock(redis=redis, name=fresh(), lease=1.0)
        with pytest.raises(LeaseLost):
            async with lock:
                redis_server.kill()
                await asyncio.sleep(60)
        redis_server.start()
        with pytest.raises(LeaseLost):
            async with lock:
                redis_server.kill()
                redis_server.start()
                await asyncio.sleep(60)

    on(redis_server, main)


def test_open_lets_everybody_through_while_redis_is_gone_and_counts_them_after(redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        semaphore = shared.Semaphore(1, redis=redis, name=fresh(), lease=LONG, fail="open")
        limiter = shared.RateLimiter(1, 1000, redis=redis, name=fresh(), fail="open")
        await limiter.acquire()
        holder = await semaphore.acquire()
        waiter = asyncio.create_task(semaphore.acquire())
        await until(lambda: semaphore.waiting == 1)
        redis_server.kill()
        assert (await waiter).token is None
        async with semaphore:
            await limiter.acquire(1)
            assert await limiter.try_acquire()
        assert limiter.stats().let_through == 2 and semaphore.stats().let_through == 2
        holder._ends = 0.0  # its lease is over
        semaphore._ring()
        await until(lambda: not semaphore._beating)
        assert not holder.lost.is_set()
        redis_server.start()

        async def adopted() -> bool:
            semaphore._ring()
            with contextlib.suppress(LimitUnavailable):
                return (await semaphore.fetch()).value == 0
            return False

        await until(adopted)
        assert not await semaphore.try_acquire(), "who was in counts again"
        holder.check()
        semaphore.release()
        semaphore.release()
        await semaphore.aclose()

    on(redis_server, main)


def test_a_silent_server_is_gone_after_the_reply_timeout(redis_server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_redis_shared, "AGAIN", LONG)

    async def main(redis: Any) -> None:
        lock = shared.Lock(redis=redis, name=fresh(), lease=LONG, reply_timeout=0.2)
        limiter = shared.RateLimiter(1, redis=redis, name=fresh(), reply_timeout=0.2, fail="open")
        redis_server.pause()
        try:
            with pytest.raises(LimitUnavailable, match=r"no reply within reply_timeout=0\.2 s"):
                await lock.acquire()
            lock._reply_timeout = LONG  # for giving back
            assert await limiter.acquire()
            assert await limiter.acquire(), "at once: it does not ask again so soon"
            assert limiter.stats().round_trips == 1
        finally:
            redis_server.resume()
        # What the silent server was asked for it gave when it woke up: that was given back too.
        await at_rest(lock)
        await lock.aclose()

    on(redis_server, main)


@contextlib.contextmanager
def cluster(home: Path) -> Iterator[str]:
    """A cluster of one node, which has all slots: a script whose keys are in two of them is refused all the same."""
    program = debian.find("redis-server") or requires.missing("redis-server")
    port = free_port()
    options = ["--port", str(port), "--bind", HOST, "--cluster-enabled", "yes", "--save", "", "--dir", str(home)]
    bus = ["--cluster-port", str(free_port())]
    with open(home / "log", "wb") as log:
        server = subprocess.Popen([program, *options, *bus], stdout=log, stderr=log)
    try:
        redis = requires.module("redis").Redis(HOST, port)
        end = time.monotonic() + 60

        def ready() -> bool:
            with contextlib.suppress(Exception):
                if not redis.execute_command("CLUSTER", "SLOTS"):
                    redis.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
                return bool(redis.cluster("INFO").get("cluster_state") == "ok")
            return False

        while not ready():
            assert time.monotonic() < end and server.poll() is None, (home / "log").read_text()
            time.sleep(0.05)
        redis.close()
        yield f"redis://{HOST}:{port}"
    finally:
        server.kill()
        server.wait()


def test_keys_are_in_one_slot_of_a_cluster(tmp_path: Path) -> None:
    async def main(url: str) -> None:
        redis = requires.module("redis.asyncio.cluster").RedisCluster.from_url(url)
        async with redis:
            for name in ("a", "b", "orders {eu"):
                semaphore = shared.Semaphore(1, redis=redis, name=name, lease=LONG)
                limiter = shared.RateLimiter(100, burst=1, redis=redis, name=name)
                async with semaphore:
                    waiter = asyncio.create_task(semaphore.acquire())
                    await until(lambda semaphore=semaphore: semaphore.waiting == 1)
                    await limiter.acquire()
                    await limiter.acquire()
                assert await waiter
                await semaphore.release()
                await at_rest(semaphore)
                await semaphore.aclose()

    with cluster(tmp_path) as url:
        asyncio.run(main(url))


# Several processes, and the server's log


@contextlib.contextmanager
def processes(n: int, server: Redis, *arguments: object) -> Iterator[list[subprocess.Popen[bytes]]]:
    """``support.redis_crowd`` in ``n`` processes."""
    paths = os.pathsep.join(map(str, (Path(loopwright.__file__).parent.parent, ROOT / "tests", ROOT / "tools")))
    environment = os.environ | {"PYTHONPATH": paths}
    command = [sys.executable, "-m", "support.redis_crowd", server.url, *map(str, arguments)]
    started = [subprocess.Popen(command, env=environment, cwd=ROOT) for _ in range(n)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def crowd(server: Redis, kind: str, name: str, settings: dict[str, Any]) -> list[tuple[float, dict[str, str]]]:
    """4 processes with 50 tasks each, for a while; what the server's log says of it: seconds, and what was written."""
    seconds = 20.0 if STRESS else 2.0
    redis = requires.module("redis").Redis.from_url(server.url, decode_responses=True)
    with processes(4, server, kind, name, seconds, json.dumps(settings)) as started:
        end = time.monotonic() + 100
        while int(redis.get(f"{name}:ready") or 0) < 4:
            assert time.monotonic() < end and all(process.poll() is None for process in started)
            time.sleep(0.01)
        redis.rpush(f"{name}:go", *"1234")
        assert [process.wait(150) for process in started] == [0] * 4
    log = redis.xrange(f"{name}:log")
    redis.delete(f"{name}:log")
    return [(int(id.partition("-")[0]) / 1000, entry) for id, entry in log]


def test_four_processes_of_fifty_tasks_never_exceed_the_semaphore(redis_server: Redis) -> None:
    log = crowd(redis_server, "semaphore", fresh("crowd"), {"value": 7, "lease": 60})
    inside = peak = 0
    by_process: dict[str, int] = {}
    for _, entry in log:
        inside += int(entry["n"])
        peak = max(peak, inside)
        by_process[entry["pid"]] = by_process.get(entry["pid"], 0) + 1
    assert inside == 0
    assert peak == 7
    assert len(by_process) == 4
    tokens = [entry["token"] for _, entry in log if int(entry["n"]) > 0]
    assert len(tokens) == len(set(tokens)) > 50


def test_four_processes_of_fifty_tasks_never_exceed_the_rate(redis_server: Redis) -> None:
    rate, burst = 200, 10
    log = crowd(redis_server, "rate", fresh("crowd"), {"rate": rate, "burst": burst})
    places = [(float(entry["at"]) / 1e6, int(entry["n"])) for _, entry in log]
    assert len(places) > 100
    assert excess(places, 1 / rate, burst) < 0.01
    early = [at - when for (when, _), (at, _) in zip(log, places, strict=True)]
    assert max(early) < 0.002, "nobody went before its place: the log counts milliseconds, and clocks are slewed"


def test_a_process_that_is_killed_gives_its_permits_back_within_the_lease(redis_server: Redis) -> None:
    name, lease = fresh("killed"), 5.0

    async def main(redis: Any) -> None:
        semaphore = shared.Semaphore(2, redis=redis, name=name, lease=lease)
        settings = json.dumps({"value": 2, "lease": lease})
        with processes(1, redis_server, "hold", name, 0, settings) as (process,):

            async def all_taken() -> bool:
                assert process.poll() is None
                stats = await semaphore.fetch()
                return stats.value == 0 and stats.line == 3

            await until(all_taken)
            waiter = asyncio.create_task(semaphore.acquire(2))
            await until(lambda: semaphore.waiting == 1)
            process.send_signal(signal.SIGKILL)
            process.wait()
            seconds, microseconds = await redis.time()
            now = seconds * 1e6 + microseconds
            own = semaphore._client.encode()
            ends = [
                score for id, score in await redis.zrange(semaphore._keys[0], 0, -1, withscores=True) if own not in id
            ]
            assert len(ends) == 4
            assert max(ends) <= now + lease * 1e6, "the server lets none of its leases live longer than that"
            assert (await waiter).n == 2
        await semaphore.release(2)
        await at_rest(semaphore)
        await semaphore.aclose()

    on(redis_server, main)


# CircuitBreaker


class BreakerBooks(Books):
    def __init__(self, server: Redis, settings: tuple[object, ...]) -> None:
        base = f"test:{{{fresh()}}}:"
        super().__init__(server, shared.CircuitBreaker.script, (base + "state", base + "window", base + "probes"))
        self.settings = settings

    def ask(self, command: str, now: float, *arguments: object) -> tuple[int, str, int, int, int, int, int]:
        passes, state, epoch, after, calls, failures, slow, *_ = self(command, now, *self.settings, *arguments)
        return passes, state.decode(), epoch, after, calls, failures, slow


class NaiveBreaker:
    """The states of resilience4j, in the plainest words: every outcome is kept with its time."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.rate, self.size, self.span, least, self.slow_rate, self.open_for, self.half_open = settings.values()
        self.least = least if self.span else min(least, self.size)
        self.epoch = 0
        self.go("closed", 0)

    def go(self, state: str, now: int) -> None:
        self.state, self.since = state, now
        self.outcomes: list[tuple[int, int]] = []
        self.probing: set[str] = set()
        self.epoch += 1

    def window(self, now: int) -> list[int]:
        if self.state == "half_open" or not self.span:
            return [outcome for _, outcome in self.outcomes][-self.size if self.state == "closed" else 0 :]
        part = now * 32 // self.span
        return [outcome for at, outcome in self.outcomes if at * 32 // self.span > part - 32]

    def judge(self, now: int) -> bool:
        window = self.window(now)
        failed, slow = sum(o & 1 for o in window), sum(o >> 1 for o in window)
        return failed / len(window) >= self.rate or (0 < self.slow_rate <= slow / len(window))

    def report(self, now: int, epoch: int, outcomes: str) -> None:
        for outcome in outcomes:
            if epoch != self.epoch or self.state != "closed":
                return
            self.outcomes.append((now, int(outcome)))
            if len(self.window(now)) >= self.least and self.judge(now):
                self.go("open", now)

    def begin(self, now: int, id: str) -> int:
        if self.state == "open" and self.since + self.open_for <= now:
            self.go("half_open", now)
        if self.state == "half_open" and len(self.probing) + len(self.outcomes) < self.half_open:
            self.probing.add(id)
            return 2
        return int(self.state == "closed")

    def finish(self, now: int, id: str, outcome: str) -> None:
        if id in self.probing:
            self.probing.discard(id)
            if outcome != "-":
                self.outcomes.append((now, int(outcome)))
                if len(self.outcomes) == self.half_open:
                    self.go("open" if self.judge(now) else "closed", now)


def test_breaker_script_does_what_the_naive_one_does(redis_server: Redis) -> None:
    seen = {state for seed in range(6 if not STRESS else 300) for state in compare_breakers(seed, redis_server)}
    assert seen == {"closed", "open", "half_open", "isolated"}


def compare_breakers(seed: int, redis_server: Redis) -> set[str]:
    """Random events to both; the states that there were."""
    chance = random.Random(seed)
    rate, slow_rate = chance.choice([0.3, 0.5, 1.0]), chance.choice([0, 0.5, 1.0])
    size, least, half_open = chance.randint(1, 12), chance.randint(1, 8), chance.randint(1, 4)
    span = chance.choice([0, 32 * 10**6])
    open_for = 10**7
    settings: dict[str, Any] = {"rate": rate, "size": size, "span": span, "least": least, "slow_rate": slow_rate}
    settings |= {"open_for": open_for, "probes": half_open}
    naive = NaiveBreaker(settings)
    books = BreakerBooks(redis_server, (*settings.values(), 10**12))
    now, number, ids = 10**15, 0, ["nobody"]
    naive.since = now
    epochs = {naive.epoch: books.ask("look", now)[2]}
    seen = set()
    for _ in range(300):
        now += chance.choice([0, 1, 10**6, 5 * 10**6])
        what = chance.choice(["report"] * 4 + ["begin", "begin", "finish", "finish", "go"])
        passes, expected = 0, 0
        if what == "report":
            outcomes = "".join(chance.choice("0000123") for _ in range(chance.randint(1, 6)))
            epoch = chance.choice([naive.epoch] * 5 + list(epochs))
            answer = books.ask("report", now, epochs[epoch], outcomes)
            naive.report(now, epoch, outcomes)
        elif what == "begin":
            number += 1
            ids.append(f"client.{number}")
            passes, *_ = answer = books.ask("begin", now, ids[-1])
            expected = naive.begin(now, ids[-1])
        elif what == "finish":
            id, outcome = chance.choice(ids[-4:]), chance.choice("00012-")
            answer = books.ask("finish", now, id, outcome)
            naive.finish(now, id, outcome)
        elif chance.random() < 0.1:
            state = chance.choice(["open", "closed", "isolated"])
            answer = books.ask("go", now, state)
            naive.go(state, now)
        else:
            answer = books.ask("look", now)
        _, state, epoch, _, calls, failures, slow = answer
        assert passes == expected
        assert state == naive.state
        assert epochs.setdefault(naive.epoch, epoch) == epoch
        window = naive.window(now)
        assert (calls, failures, slow) == (len(window), sum(o & 1 for o in window), sum(o >> 1 for o in window))
        seen.add(state)
    assert list(epochs.values()) == sorted(set(epochs.values()))
    return seen


class Down(Exception):
    """What a call raises whose other side is down."""


async def fail() -> None:
    raise Down


async def succeed() -> int:
    return 1


def test_what_one_process_finds_to_be_down_none_of_them_calls(redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        settings: dict[str, Any] = {"redis": redis, "name": fresh(), "min_calls": 4, "open_for": LONG, "refresh": 0.01}
        one, two = (shared.CircuitBreaker(**settings) for _ in range(2))
        changes: list[Any] = []
        two.on_change(changes.append)
        assert await two.call(succeed) == 1
        for _ in range(4):
            with contextlib.suppress(Down):
                await one.call(fail)

        async def refused() -> bool:
            try:
                await two.call(succeed)
            except BreakerOpen as error:
                assert error.retry_after is not None and 0 < error.retry_after <= LONG
                return True
            return False

        await until(refused)
        assert [(change.old, change.new, change.why) for change in changes] == [("closed", "open", "failures")]
        assert changes[0].rate >= 0.5
        await one.close()
        await until(lambda: _passes(two))
        await two.isolate()
        with pytest.raises(BreakerOpen, match="isolated"):
            await two.call(succeed)
        await two.close()
        assert await two.call(succeed) == 1
        assert (await one.fetch()).state == "closed" == one.state
        assert one.stats().failures == 4 and two.stats().refused > 1
        await one.aclose()
        await two.aclose()

    on(redis_server, main)


async def _passes(breaker: Any) -> bool:
    with contextlib.suppress(BreakerOpen):
        return bool(await breaker.call(succeed))
    return False


def test_exactly_so_many_probes_are_in_flight_and_a_cancelled_one_gives_its_place(redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        name = fresh()
        settings: dict[str, Any] = {"redis": redis, "name": name, "open_for": 0.0, "half_open": 2, "refresh": 0.001}
        crowd = [shared.CircuitBreaker(**settings) for _ in range(3)]
        await crowd[0].open()
        inside = 0
        go = asyncio.Event()

        async def probe() -> None:
            nonlocal inside
            inside += 1
            try:
                await go.wait()
            finally:
                inside -= 1

        async def attempt(number: int) -> str:
            try:
                await crowd[number % 3].call(probe)
            except BreakerOpen:
                return "refused"
            return "passed"

        for breaker in crowd:
            await breaker.fetch()
        tasks = [asyncio.create_task(attempt(number)) for number in range(12)]
        await until(lambda: sum(task.done() for task in tasks) == 10 and inside == 2)
        first = next(task for task in tasks if not task.done())
        first.cancel()
        await asyncio.wait([first])

        async def another() -> bool:
            tasks.append(asyncio.create_task(attempt(len(tasks))))
            await until(lambda: tasks[-1].done() or inside == 2)
            return inside == 2

        await until(another)
        assert (await crowd[0].fetch()).state == "half_open"
        go.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert done.count("passed") == 2
        assert (await crowd[1].fetch()).state == "closed"
        for breaker in crowd:
            await breaker.aclose()

    on(redis_server, main)


def test_a_call_in_the_closed_state_waits_for_no_round_trip(redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        breaker = shared.CircuitBreaker(redis=redis, name=fresh(), refresh=LONG)

        @breaker
        async def call() -> int:
            return 5

        await call()
        redis_server.pause()
        try:
            assert [await call() for _ in range(100)] == [5] * 100
        finally:
            redis_server.resume()
        assert breaker.stats().round_trips == 1
        assert (await breaker.fetch()).window_calls == 100
        assert breaker.stats().successes == 101
        await breaker.aclose()

    on(redis_server, main)


def test_a_breaker_counts_as_the_local_one_does(redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        breaker = shared.CircuitBreaker(
            redis=redis, name=fresh(), on=lambda error: not isinstance(error, KeyError), slow_call=0, slow_rate=0.9
        )
        for error in (KeyError(), Down(), BreakerOpen("another one"), asyncio.CancelledError()):

            async def call(error: BaseException = error) -> None:
                await asyncio.sleep(0)
                raise error

            with contextlib.suppress(type(error)):
                await breaker.call(call)
        stats = await breaker.fetch()
        assert (stats.successes, stats.failures, stats.ignored, stats.slow) == (1, 1, 2, 2)
        assert (stats.window_calls, stats.window_failures, stats.window_slow) == (2, 1, 2)
        assert not breaker.is_quiescent() and "1 of 2 failed" in repr(breaker)
        with pytest.raises(TypeError, match="async with"), breaker:
            pass
        with pytest.raises(TypeError, match="async def"):
            breaker(len)
        with pytest.raises(ValueError, match="no more than 1"):
            shared.CircuitBreaker(redis=redis, name="x", failure_rate=2)
        await breaker.aclose()

    on(redis_server, main)


@pytest.mark.parametrize("fail", ["open", "closed"])
def test_a_breaker_without_a_server_lets_calls_pass_or_not(fail: Any, redis_server: Redis) -> None:
    async def main(redis: Any) -> None:
        breaker = shared.CircuitBreaker(redis=redis, name=fresh(), fail=fail, refresh=0.001)
        await breaker.call(succeed)
        redis_server.kill()
        await asyncio.sleep(0.002)
        if fail == "open":
            assert await breaker.call(succeed) == 1
            assert breaker.stats().let_through == 1
        else:
            with pytest.raises(LimitUnavailable):
                await breaker.call(succeed)
        redis_server.start()
        await until(lambda: _works(breaker))
        await until(breaker.fetch)
        await breaker.aclose()

    on(redis_server, main)


async def _works(breaker: Any) -> bool:
    with contextlib.suppress(LimitUnavailable):
        await breaker.call(succeed)
        return breaker._view is not None and bool(breaker._view.epoch)
    return False
