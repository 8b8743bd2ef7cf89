"""The load that a pool of real connections has to survive, whoever made the pool.

200 tasks use one pool. Some are cancelled at random, some have a timeout around everything, some have one around a
query only and swallow it there, also in the middle of a transaction, some fail by themselves. Meanwhile the server is
killed and started again, stopped for a while (SIGSTOP), and a firewall goes silent. Every query carries a nonce that
its answer has to repeat, so a connection handed on with an unread answer or an open transaction cannot hide. The
server's own view is compared with the pool's at the end; how many connections are open at a time is counted by the
proxy in between. :class:`Verdict` is what came out.

What is done with a connection is in ``drivers.py``, the drivers' own pools are in ``peers.py``. No asyncio primitive
here is ours, so that a defect of ours cannot hide another.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import dataclasses
import gc
import itertools
import os
import random
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.drivers import Driver, WrongAnswer
from support.proxy import Proxy
from support.servers import Server

__all__ = ["Disturbance", "FileSite", "Plan", "ServerSite", "Site", "Subject", "Verdict", "storm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much, how long. All times in seconds."""

    seconds: float = 8.0
    tasks: int = 200
    max_size: int = 10
    burst: int = 2
    timeout: float = 3.0
    """What a pool may let somebody wait."""
    deadline: float = 1.0
    """What a user gives to everything done with one connection."""
    check_after: float = 0.5
    """A connection idle for longer is checked before it is handed out, where a pool can do that."""
    hook_timeout: float = 0.5
    down: float = 0.3
    stopped: float = 1.0
    silent: float = 1.0
    pause: float = 0.0
    """Between two operations of one task, on average."""
    cancels_per_second: float = 200.0
    seed: int = 1

    @classmethod
    def of_today(cls, **changes: Any) -> Plan:
        """8 s in ``make test``; 30 s and longer faults under ``make stress``."""
        if os.environ.get("LOOPWRIGHT_STRESS") == "1":
            changes = {"seconds": 30.0, "stopped": 5.0, "silent": 3.0} | changes
        return cls(**changes)

    def for_ssh(self) -> Plan:
        """Fewer and slower: a login costs both sides some 50 ms of CPU, a command costs a process."""
        slower = {"deadline": 3 * self.deadline, "timeout": 2 * self.timeout, "pause": 1.0, "cancels_per_second": 50.0}
        return dataclasses.replace(self, max_size=4, **slower)

    @property
    def allowed_recovery(self) -> float:
        """Seconds until all is well again, beside a back-off that may be as long as the server was away.

        A connection that was idle for less than ``check_after`` is handed out unchecked: its user finds out by its own
        deadline. One that was idle for longer costs a check that hangs. Then come a connect and ten answers.
        """
        return self.check_after + max(self.deadline, self.hook_timeout) + 1.0


@dataclass(slots=True)
class Verdict:
    """What a storm showed. :meth:`faults` is what a right pool has none of."""

    pool: str
    limit: int
    allowed: float
    operations: int = 0
    answered: int = 0
    cancels: int = 0
    """Cancels delivered."""
    swallowed: int = 0
    """Tasks that were cancelled and ran on to their end."""
    wrong: int = 0
    """Answers to another's question, transactions of another's."""
    innocent: Counter[str] = field(default_factory=Counter)
    """Errors of operations nobody interrupted, while the server was well."""
    stuck: int = 0
    """Operations that waited for longer than every timeout together."""
    longest_wait: float = 0.0
    in_use: int = 0
    """Connections that the pool believes to be in use when nobody is there any more."""
    pool_says: int = 0
    server_says: int = 0
    """Connections open when all is quiet, before the pool is closed."""
    left: int = 0
    """Connections that the server still has after the pool was closed."""
    shrunk: int = 0
    """Connections fewer than ``max_size`` that can be had at once in the end."""
    peak: int = 0
    """Connections open at a time, counted between the pool and the server."""
    opened: int = 0
    """Connections opened in all."""
    recovery: dict[str, float | None] = field(default_factory=dict)
    """Seconds from the end of each disturbance until work goes on without errors; None: not within 10 s."""
    away: dict[str, float] = field(default_factory=dict)
    """Seconds from the begin of each disturbance to its end."""
    errors: Counter[str] = field(default_factory=Counter)
    """All errors seen by users, deserved ones included."""
    closed: bool = True
    """Whether closing the pool came to its end."""

    def faults(self) -> list[str]:
        found = {
            f"{self.wrong} wrong answers": self.wrong,
            f"{self.swallowed} cancels swallowed": self.swallowed,
            f"{sum(self.innocent.values())} innocent operations failed: {dict(self.innocent.most_common(3))}": (
                sum(self.innocent.values())
            ),
            f"{self.stuck} waiters stuck (longest wait {self.longest_wait:.1f} s)": self.stuck,
            f"{self.in_use} connections in use by nobody": self.in_use,
            f"the pool says {self.pool_says} open, the server {self.server_says}": self.pool_says != self.server_says,
            f"{self.left} connections left open by close": self.left,
            f"shrunk by {self.shrunk}": self.shrunk,
            f"{self.peak} connections at a time, the limit is {self.limit}": self.peak > self.limit,
            "close did not end": not self.closed,
        }
        slow = {
            f"after {name}: recovery took {'for ever' if took is None else f'{took:.1f} s'}": True
            for name, took in self.recovery.items()
            if took is None or took > self.allowed + self.away[name]
        }
        return [text for text, bad in (found | slow).items() if bad]


# Where the connections go


@dataclass(frozen=True, slots=True)
class Disturbance:
    name: str
    begin: Callable[[], Awaitable[object]]
    end: Callable[[], Awaitable[object]]
    seconds: float


class Site(abc.ABC):
    """The other end: what it sees, and how it is disturbed."""

    application = "storm"

    @abc.abstractmethod
    async def sessions(self) -> int:
        """The server's own view: how many connections it has."""

    @abc.abstractmethod
    def counts(self) -> tuple[int, int]:
        """The most connections open at a time, and how many were opened."""

    @abc.abstractmethod
    def disturbances(self, plan: Plan) -> Sequence[Disturbance]: ...

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Gives up what :meth:`sessions` keeps."""


class ServerSite(Site):
    """A server behind a proxy."""

    def __init__(self, server: Server, proxy: Proxy) -> None:
        self.server, self.proxy = server, proxy
        self.host, self.port = proxy.host, proxy.port

    async def sessions(self) -> int:
        return len(await self.server.sessions(self.application))

    def counts(self) -> tuple[int, int]:
        return self.proxy.peak, self.proxy.opened

    def disturbances(self, plan: Plan) -> Sequence[Disturbance]:
        def off_the_loop(function: Callable[[], object]) -> Callable[[], Awaitable[object]]:
            return lambda: asyncio.to_thread(function)

        kill, start = off_the_loop(self.server.kill), off_the_loop(self.server.start)
        pause, resume = off_the_loop(self.server.pause), off_the_loop(self.server.resume)
        silence, speak = off_the_loop(self.proxy.silent), off_the_loop(self.proxy.pass_on)
        return [
            Disturbance("kill", kill, start, plan.down),
            Disturbance("stop", pause, resume, plan.stopped),
            Disturbance("silence", silence, speak, plan.silent),
        ]

    async def aclose(self) -> None:
        await self.server.aclose()


class FileSite(Site):
    """An SQLite database: no server, so what is seen is this process' open files and the threads of aiosqlite."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.peak = 0
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="file-site", daemon=True)
        self._lock: sqlite3.Connection | None = None
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE storm (owner TEXT)")
        self._sampler.start()

    def _threads(self) -> set[int | None]:
        return {thread.ident for thread in threading.enumerate() if "_connection_worker_thread" in thread.name}

    def _files(self) -> int:
        gc.collect()  # a cursor in a traceback keeps the file of a closed connection open
        found = 0
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found += os.readlink(f"/proc/self/fd/{name}") == str(self.path)
        return found - (self._lock is not None)

    def _sample(self) -> None:
        """A thread that is seen twice is a connection's; one that has just closed its connection ends at once."""
        before: set[int | None] = set()
        while not self._over.wait(0.01):
            now = self._threads()
            self.peak = max(self.peak, len(before & now))
            before = now

    async def sessions(self) -> int:
        return max(self._files(), len(self._threads()))

    def counts(self) -> tuple[int, int]:
        return self.peak, 0

    def disturbances(self, plan: Plan) -> Sequence[Disturbance]:
        """Another program keeps everybody out."""

        async def lock() -> None:
            other = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
            await asyncio.to_thread(other.execute, "BEGIN EXCLUSIVE")
            self._lock = other

        async def unlock() -> None:
            assert self._lock is not None
            self._lock.close()
            self._lock = None

        return [Disturbance("lock", lock, unlock, plan.stopped)]

    async def aclose(self) -> None:
        self._over.set()
        self._sampler.join()


# What is tested


class Subject(abc.ABC):
    """A pool under test."""

    name: str
    server: str
    """The kind of server, or ``file``."""
    packages: Sequence[str]
    driver: Driver
    limit: int | None = None
    """The most connections it may open; None: the plan's ``max_size + burst``."""

    def adapted(self, plan: Plan) -> Plan:
        """The plan, where this driver needs more time."""
        return plan

    @abc.abstractmethod
    async def open(self, site: Any, plan: Plan) -> None: ...

    @abc.abstractmethod
    def use(self) -> AbstractAsyncContextManager[Any]:
        """Takes a connection for the block, as the pool's documentation says."""

    def hold(self) -> AbstractAsyncContextManager[Any]:
        """The same, where :meth:`use` does not keep the connection for the whole block."""
        return self.use()

    @abc.abstractmethod
    def counts(self) -> tuple[int, int]:
        """How many connections the pool believes to be open, and how many of them in use."""

    @abc.abstractmethod
    async def close(self) -> None: ...


@dataclass(slots=True)
class _Record:
    kind: str
    began: float
    ended: float
    injured: bool
    error: str


PLAIN = {"echo": 10, "slow": 4, "transaction": 4, "application error": 1}
"""Kinds of operations that nobody interrupts (but a cancel), and how often each is drawn."""
HURT = {"timeout around": 4, "timeout around, transaction": 2, "timeout inside": 4, "timeout inside, transaction": 4}
KINDS = PLAIN | HURT


class _ApplicationError(Exception):
    """What a user's own code raises, the connection being well."""


class _Storm:
    def __init__(self, subject: Subject, site: Site, plan: Plan) -> None:
        self.subject, self.site, self.plan = subject, site, plan
        self.random = random.Random(plan.seed)
        self.verdict = Verdict(subject.name, plan.max_size + plan.burst, plan.allowed_recovery)
        self.nonces = itertools.count()
        self.records: list[_Record] = []
        self.running: dict[asyncio.Task[None], str] = {}
        self.holding: set[asyncio.Task[Any]] = set()
        self.cancelled: set[asyncio.Task[None]] = set()
        self.windows: list[tuple[str, float, float]] = []
        self.stopping = False

    # One operation

    async def operation(self, kind: str) -> None:
        if not kind.startswith("timeout around"):
            await self.block(kind)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.random.uniform(0.001, 0.3)):
                await self.block(kind)

    async def block(self, kind: str) -> None:
        driver, nonce = self.subject.driver, f"n{next(self.nonces)}"
        task = asyncio.current_task()
        assert task is not None
        began = time.monotonic()
        try:
            async with self.subject.use() as connection:
                self.holding.add(task)
                self.verdict.longest_wait = max(self.verdict.longest_wait, time.monotonic() - began)
                async with asyncio.timeout(self.plan.deadline):
                    await self.work(driver, connection, kind, nonce)
                if kind == "application error":
                    raise _ApplicationError
        except _ApplicationError:
            pass
        finally:
            self.holding.discard(task)

    async def work(self, driver: Driver, connection: Any, kind: str, nonce: str) -> None:
        seconds = self.random.uniform(0.002, 0.02)
        if kind.startswith("timeout inside"):
            seconds *= 4
            call = driver.transaction if "transaction" in kind else driver.slow
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(call(connection, nonce, seconds), self.random.uniform(0.001, 0.015))
                self.verdict.answered += 1
            return
        if "transaction" in kind:
            await driver.transaction(connection, nonce, seconds)
        elif kind in ("slow", "timeout around"):
            await driver.slow(connection, nonce, seconds)
        else:
            await driver.echo(connection, nonce)
        self.verdict.answered += 1

    # Many of them

    async def user(self) -> None:
        """One of the tasks: an operation after the other, each a task that can be cancelled."""
        kinds, weights = list(KINDS), list(KINDS.values())
        while not self.stopping:
            kind = self.random.choices(kinds, weights)[0]
            began = time.monotonic()
            task = asyncio.create_task(self.operation(kind))
            self.running[task] = kind
            await asyncio.wait({task})
            del self.running[task]
            self.note(task, kind, began)
            failed = not task.cancelled() and task.exception() is not None
            await asyncio.sleep(self.random.uniform(0, 2 * self.plan.pause) + 0.01 * failed)

    def note(self, task: asyncio.Task[None], kind: str, began: float) -> None:
        verdict, error = self.verdict, None if task.cancelled() else task.exception()
        injured = task in self.cancelled or kind in HURT
        verdict.operations += 1
        if task in self.cancelled and not task.cancelled() and error is None:
            verdict.swallowed += 1
        self.cancelled.discard(task)
        text = "" if error is None else _short(error)
        if error is not None:
            verdict.errors[text] += 1
            verdict.wrong += isinstance(error, WrongAnswer)
        self.records.append(_Record(kind, began, time.monotonic(), injured, text))

    async def canceller(self) -> None:
        """Half of the cancels hit those who have a connection.

        asyncio.wait_for of 3.11 is left alone: it swallows a cancel by itself, and leaves its task behind when it is
        cancelled twice (python/cpython#86296).
        """
        spared = "timeout inside" if sys.version_info < (3, 12) else "nobody"
        pause = 0.02
        while not self.stopping:
            await asyncio.sleep(pause)
            for _ in range(round(self.plan.cancels_per_second * pause)):
                running = [task for task, kind in self.running.items() if not kind.startswith(spared)]
                among = [task for task in running if task in self.holding] if self.random.random() < 0.5 else []
                among = among or running
                if among:
                    task = self.random.choice(among)
                    if task not in self.cancelled and task.cancel():
                        self.cancelled.add(task)
                        self.verdict.cancels += 1

    async def disturb(self) -> None:
        """Each disturbance in turn, with calm before and after."""
        disturbances = self.site.disturbances(self.plan)
        calm = (self.plan.seconds - sum(each.seconds for each in disturbances)) / (len(disturbances) + 1)
        for disturbance in disturbances:
            await asyncio.sleep(calm)
            begin = time.monotonic()
            await disturbance.begin()
            await asyncio.sleep(disturbance.seconds)
            await disturbance.end()
            end = time.monotonic()
            self.windows.append((disturbance.name, begin, end))
            self.verdict.away[disturbance.name] = end - begin
            self.verdict.recovery[disturbance.name] = await self.recovery(end)
        await asyncio.sleep(calm)

    async def recovery(self, end: float) -> float | None:
        """Seconds until work goes on: as many answers as there are connections, and half a second without an error.

        Only operations that began after the end count, and that nobody interrupted.
        """
        while time.monotonic() < end + 10:
            await asyncio.sleep(0.1)
            after = [record for record in self.records if record.began >= end and not record.injured]
            good = [record.ended for record in after if not record.error]
            last = max((record.ended for record in after if record.error), default=0.0)
            if len(good) >= self.plan.max_size and last < time.monotonic() - 0.5:
                return max(good[self.plan.max_size - 1], last) - end
        return None

    async def run(self) -> Verdict:
        await self.subject.open(self.site, self.plan)
        self.verdict.limit = self.subject.limit or self.verdict.limit
        users = [asyncio.create_task(self.user()) for _ in range(self.plan.tasks)]
        canceller = asyncio.create_task(self.canceller())
        try:
            await self.disturb()
        finally:
            self.stopping = True
        await canceller
        patience = self.plan.timeout + self.plan.deadline + self.plan.hook_timeout + 2
        await asyncio.wait(users, timeout=patience)
        self.verdict.stuck = len(self.running)
        if self.verdict.longest_wait > patience:
            self.verdict.stuck += 1
        for task in list(self.running):
            task.cancel()
        await asyncio.wait(users, timeout=2)
        await self.count()
        self.judge()
        return self.verdict

    # The end

    async def count(self) -> None:
        """When all is quiet: what the pool says, what the server says, and whether the pool is whole."""
        verdict = self.verdict

        async def agree() -> bool:
            verdict.pool_says, verdict.in_use = self.subject.counts()
            verdict.server_says = await self.site.sessions()
            return verdict.pool_says == verdict.server_says and not verdict.in_use

        await _within(self.plan.timeout, agree)
        verdict.peak, verdict.opened = self.site.counts()
        verdict.shrunk = self.plan.max_size - await self.at_once(self.plan.max_size)
        verdict.peak = max(verdict.peak, self.site.counts()[0])
        try:
            await asyncio.wait_for(self.subject.close(), 5)
        except TimeoutError:
            verdict.closed = False

        async def empty() -> bool:
            verdict.left = await self.site.sessions()
            return not verdict.left

        await _within(self.plan.timeout, empty)
        await self.site.aclose()

    async def at_once(self, wanted: int) -> int:
        """How many connections can be had at a time, each of them answering."""
        got, enough = 0, asyncio.Event()

        async def take() -> None:
            nonlocal got
            async with self.subject.hold() as connection:
                await self.subject.driver.echo(connection, f"n{next(self.nonces)}")
                got += 1
                if got == wanted:
                    enough.set()
                await enough.wait()

        tasks = [asyncio.create_task(take()) for _ in range(wanted)]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(enough.wait(), self.plan.timeout)
        enough.set()
        await asyncio.wait(tasks, timeout=1)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=2)
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()):
                self.verdict.errors[f"in the end: {_short(error)}"] += 1
        return got

    def judge(self) -> None:
        """Errors that nobody deserved."""
        allowed = self.plan.allowed_recovery
        trouble = [(begin, end + allowed + (end - begin)) for _, begin, end in self.windows]
        for record in self.records:
            hit = any(record.began < end and record.ended > begin for begin, end in trouble)
            if record.error and not record.injured and not hit and not self.subject.driver.excused(record.error):
                self.verdict.innocent[record.error] += 1


def _short(error: BaseException) -> str:
    first_line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first_line[:100]}".rstrip(": ")


async def _within(seconds: float, condition: Callable[[], Awaitable[bool]]) -> bool:
    end = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.05)
    return True


async def storm(subject: Subject, site: Site, plan: Plan) -> Verdict:
    """Lets the load loose on a pool and says what came out."""
    return await _Storm(subject, site, subject.adapted(plan)).run()
