"""Pools: connections that many tasks share."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Hashable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

from loopwright import _loopwright as native
from loopwright._arguments import count, seconds
from loopwright._loopwright import Lease
from loopwright._pool_driver import Driver, PoolEvent
from loopwright._pool_hooks import HOOKS, ConnectionStrategy, Hooks
from loopwright.broadcasts import Broadcast, broadcast

__all__ = ["ConnectionStrategy", "Histogram", "KeyedPool", "Lease", "Pool", "PoolEvent", "PoolStats"]

C = TypeVar("C")
K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Histogram:
    """How long things took, counted by powers of two."""

    counts: tuple[int, ...]
    """``counts[0]`` took less than 1 µs, ``counts[i]`` less than 2**i µs; the last one everything longer."""
    total: float = 0.0
    """Seconds, all together."""

    @property
    def count(self) -> int:
        """All of them."""
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """Seconds within which this share of them (0 to 1) was done: an upper bound, at most twice the true value."""
        wanted, so_far = share * self.count, 0
        for power, done in enumerate(self.counts):
            so_far += done
            if done and so_far >= wanted:
                return math.inf if power == len(self.counts) - 1 else 2.0**power / 1e6
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """What a :class:`Pool` or :class:`KeyedPool` looks like at one moment, and its totals since it was made.

    Always: ``opened - closed - abandoned == size``, and ``size + opening <= max_size + burst`` (after a
    :meth:`Pool.resize` to less, once what is in use has come back).
    """

    max_size: int
    """The most connections, whatever they are doing."""
    burst: int
    """How many more may be opened for waiters."""
    min_size: int
    """How many are kept open."""
    size: int
    """Open connections: idle, in use, or in a check, reset or close."""
    idle: int
    """Open, and nobody's."""
    in_use: int
    """Out, or reserved for a caller that was woken and has not run yet."""
    opening: int
    """Being opened."""
    checking: int
    """In a check, before a use."""
    resetting: int
    """In a reset, after a use."""
    closing: int
    """Being closed."""
    waiting: int
    """Callers in line."""
    keys: int
    """Keys that are known; of a :class:`KeyedPool`."""
    opened: int
    """Connects that succeeded."""
    closed: int
    """Connections whose close has ended, well or not."""
    abandoned: int
    """Connections that were cut instead: a hook took too long, or the time to close was over."""
    abandoned_connects: int
    """Connects that took too long."""
    acquired: int
    """Connections handed out."""
    waited: int
    """Callers that had to stand in line."""
    timeouts: int
    """Callers that got :class:`PoolTimeout`."""
    refused: int
    """Callers that got another error than their own cancel."""
    connect_failures: int
    check_failures: int
    reset_failures: int
    close_failures: int
    expired: int
    """Closed for age, idleness or :meth:`Pool.expire_all`."""
    evicted: int
    """Closed to make room for another key."""
    leaks: int
    """Connections reported as out for too long."""
    waits: Histogram
    """How long callers waited that got a connection."""
    holds: Histogram
    """How long connections were out."""
    draining: bool
    """Whether it takes no more callers."""


_LIMITS: Final = 2**31


class _Base(Driver[C]):
    """What both pools have."""

    def _read(
        self, kind: str, connect: Any, given: dict[str, Any], *, max_per_key: int, max_shares: int | None
    ) -> None:
        """Checks the arguments, as ``locals()`` of ``__init__`` has them."""
        self._kind = kind
        self._hooks = Hooks.of(kind, connect, {hook: given[hook] for hook in HOOKS})
        self._shared = max_shares != 1
        self._max_size = _count(given["max_size"], f"{kind}(max_size=...)", 1)
        self._burst = _count(given["burst"], f"{kind}(burst=...)", 0)
        self._min_size = _count(given.get("min_size", 0), f"{kind}(min_size=...)", 0)
        if self._min_size > self._max_size:
            raise ValueError(
                f"{kind}(min_size={self._min_size}) is more than max_size={self._max_size}: raise max_size"
            )
        if given["order"] not in ("lifo", "fifo"):
            raise ValueError(f"{kind}(order=...) must be 'lifo' or 'fifo', got {given['order']!r}")
        if self._shared and self._hooks.reset is not None:
            raise ValueError(f"{kind}(sharing=True) takes no reset: others are using the connection at that moment")
        times = ("check_after", "burst_linger", "max_idle", "max_lifetime", "jitter")
        limits = {what: seconds(given[what], f"{kind}({what}=...)") for what in times}
        if limits["jitter"] > 1:
            raise ValueError(f"{kind}(jitter=...) is a share, from 0 to 1, got {limits['jitter']}")
        leak_after, max_waiting = given["leak_after"], given["max_waiting"]
        self._timeout = seconds(given["timeout"], f"{kind}(timeout=...)")
        self._hook_timeout = seconds(given["hook_timeout"], f"{kind}(hook_timeout=...)", positive=True)
        connect_timeout = given["connect_timeout"]
        if connect_timeout is None:
            # A connect is the pool's: callers that give up soon must not end it, or none ever succeeds.
            connect_timeout = max(self._timeout, self._hook_timeout)
        self._set_up(on_event=given["on_event"], name=given["name"])
        self._configure(
            keyed=kind == "KeyedPool",
            timeout=self._timeout,
            is_clean=None if self._shared else self._hooks.is_clean,
            is_closed=self._hooks.is_closed,
            max_size=self._max_size,
            burst=self._burst,
            min_size=self._min_size,
            max_per_key=max_per_key,
            max_shares=max_shares,
            max_waiting=None if max_waiting is None else _count(max_waiting, f"{kind}(max_waiting=...)", 0),
            lifo=given["order"] == "lifo",
            checks=self._hooks.check is not None,
            resets=self._hooks.reset is not None,
            leak_after=None if leak_after is None else seconds(leak_after, f"{kind}(leak_after=...)", positive=True),
            connect_timeout=seconds(connect_timeout, f"{kind}(connect_timeout=...)"),
            hook_timeout=self._hook_timeout,
            seed=random.getrandbits(64),
            **limits,
        )

    def _change_limits(self, max_size: int | None, burst: int | None, min_size: int | None) -> None:
        """What ``resize`` does; None leaves one as it is."""
        size = self._max_size if max_size is None else _count(max_size, f"{self._kind}.resize(max_size=...)", 1)
        more = self._burst if burst is None else _count(burst, f"{self._kind}.resize(burst=...)", 0)
        kept = self._min_size if min_size is None else _count(min_size, f"{self._kind}.resize(min_size=...)", 0)
        if kept > size:
            raise ValueError(
                f"{self._kind}.resize: min_size={kept} is more than max_size={size}: lower it in the same call"
            )
        self._max_size, self._burst, self._min_size = size, more, kept
        self._resize(size, more, kept)

    @property
    def name(self) -> str | None:
        """What it was named."""
        return self._name

    async def check_idle(self) -> int:
        """Checks every connection that is idle, all of them at once, and closes those that fail.

        What has died is found before anybody needs it, and one host that does not answer delays no other: each check
        has ``hook_timeout`` seconds. Who needs a connection meanwhile is served by the first that passes, or by those
        that were not idle. To be checked is not to be used: ``max_idle`` counts on. For
        ``background.every(60, pool.check_idle)``.

        Returns:
            How many have failed.

        Raises:
            RuntimeError: the pool has no ``check``.
            LoopMismatch: it has connections of another event loop.
            CancelledError: the wait was cancelled; the checks go on.
        """
        if self._hooks.check is None:
            raise RuntimeError(f"{self._label}.check_idle: the pool does not know how: pass {self._kind}(check=...)")
        conns = self._check_idle()
        checks = [self._jobs[conn] for conn in conns if conn in self._jobs]
        if checks:
            await asyncio.wait(checks, timeout=self._hook_timeout)
        return sum(self._doing(conn) in (None, "checking", "closing") for conn in conns)

    async def drain(self) -> None:
        """Takes no more callers, serves those in line, and closes each connection when it comes back; waits for the end
        of that, however long it takes.

        Raises:
            CancelledError: the wait was cancelled; the pool goes on draining.
            LoopMismatch: it has connections of another event loop.
        """
        await self._drain_out()

    async def aclose(self, grace: float = 5.0) -> None:
        """Takes no more callers, gives those in line and in a block ``grace`` seconds, then ends what is left.

        Idle connections are closed at once, others when they come back. After ``grace`` callers in line get
        :class:`PoolClosed`, and connections that are still in use are cut by ``abort``; their users find them closed.
        It cannot be half done: a cancel ends the grace, not the clean-up, which each hook's ``hook_timeout`` bounds.

        Args:
            grace: seconds, 0 or more.

        Raises:
            CancelledError: it was cancelled; the pool is closed all the same.
            LoopMismatch: it has connections of another event loop.
        """
        await self._close(seconds(grace, f"{self._kind}.aclose(grace=...)"))

    def stats(self) -> PoolStats:
        """A frozen :class:`PoolStats` of this moment."""
        counts = self._counts()
        waits, holds = self._histograms()
        open_ = sum(counts[state] for state in ("idle", "in_use", "checking", "resetting", "closing"))
        if self._kind == "Pool":
            counts["keys"] = 0
        else:
            counts["keys"] -= 1  # the ledger's own
        return PoolStats(
            max_size=self._max_size,
            burst=self._burst,
            min_size=self._min_size,
            size=open_,
            waits=Histogram(*waits),
            holds=Histogram(*holds),
            draining=self._draining,
            **counts,
        )

    def __repr__(self) -> str:
        counts = self._counts()
        busy = "".join(
            f" {state}={counts[state]}"
            for state in ("opening", "checking", "resetting", "closing", "waiting")
            if counts[state]
        )
        closed = " closing" if self._draining and not self._gone.is_set() else " closed" if self._draining else ""
        sizes = f"idle={counts['idle']} in_use={counts['in_use']} max_size={self._max_size}"
        return f"<{self._label} {sizes}{busy}{closed}>"


class Pool(_Base[C]):
    """Connections that many tasks share: each is one task's at a time, and none gets lost.

    A task that is cancelled, times out or fails, at whatever moment, neither takes a connection with it nor leaves a
    dirty one to the next; a server that is down is told to those who wait, with its own error; and nothing waits for
    ever. Whoever waits is served in the order of arrival, in the turn in which something comes back::

        async with Pool(connect, max_size=10, close=Connection.close) as pool:
            async with pool.acquire() as connection:
                await connection.execute(...)

    Args:
        connect: opens a connection: an async (or plain) function without arguments, a function that returns an async
            context manager (entered, and left at the close, in a task of its own), or a :class:`ConnectionStrategy`. It
            runs in the pool's own context, for the pool, not for a caller: whoever is first in line gets the result.
        close: closes a connection, ``close(c)``, async or not. Default: its ``aclose()`` or ``close()``, and
            ``wait_closed()``, as far as it has them.
        abort: cuts a connection without waiting, ``abort(c)``: when a hook hangs, a close fails, or the time to close
            is over. Default: its ``abort()`` or ``terminate()``, or its transport's.
        check: whether a connection still works: raises, or returns False, if not. Called before it is handed out, if it
            was idle for more than ``check_after``.
        is_clean: a plain function: whether a connection that comes back is in no transaction and has no answer
            outstanding. Called at every release. It finds the operation whose interruption was swallowed in the block.
        is_closed: a plain function: whether a connection is known to be of no use any more. Called at every hand-out
            (and release, without ``is_clean``), of shared connections too, so it should cost next to nothing.
        reset: makes a connection as good as new, after each use, in a task of the pool; raises, or returns False, if it
            cannot. Without one, a connection that is not clean is closed.
        check_after: seconds idle from which on a connection is checked; 0: always.
        hook_timeout: seconds for a check, a reset or a close; what takes longer is abandoned, and its connection cut.
        connect_timeout: seconds for one connect; None: as ``timeout``, and no less than ``hook_timeout``.
        min_size: connections kept open, opened in the background (:meth:`warm` waits for them).
        max_size: connections at most, whatever they are doing: opening and closing ones count.
        burst: how many more may be opened while callers wait; they go again when nobody does.
        burst_linger: seconds that such a surplus connection may be idle first.
        timeout: seconds that ``acquire`` waits; ``math.inf`` for no end to it.
        max_waiting: callers in line at most; one more gets :class:`PoolFull` at once. None: no limit.
        max_idle: seconds after which an idle connection is closed, unless ``min_size`` wants it.
        max_lifetime: seconds after which a connection is closed, once it is not in use.
        jitter: each connection's lifetime is shorter by a share of its own, from 0 to this: a fleet does not reconnect
            in one second.
        order: ``"lifo"`` hands out the connection used last, so that those not needed idle out; ``"fifo"`` the one
            unused longest, for even wear.
        leak_after: seconds after which a connection that is out is reported, with the task and the line that acquired
            it. Costs a few hundred nanoseconds at each acquire. None: not reported.
        on_event: called with each :class:`PoolEvent`, in the loop; what it raises goes to the loop's exception handler.
        name: for messages, events and logs.

    Raises:
        ValueError, TypeError: an argument that makes no sense, named.

    After a connect that failed, all who wait get its error if there is no other connection to wait for; the next one
    waits for up to 0.1 s, doubling up to 5 s, with jitter. A block that is left by a cancel, a ``TimeoutError`` or an
    error from inside the driver gives its connection back as not clean.

    A pool belongs to the event loop that it has connections of. Those of a closed loop, or of a parent before a fork,
    are forgotten. Not thread-safe: another thread gets :class:`LoopMismatch`.
    """

    def __init__(  # noqa: PLR0913 (each is a keyword)
        self,
        connect: Callable[[], Awaitable[C] | AbstractAsyncContextManager[C] | C] | ConnectionStrategy[C],
        *,
        close: Callable[[C], object] | None = None,
        abort: Callable[[C], object] | None = None,
        check: Callable[[C], object] | None = None,
        is_clean: Callable[[C], object] | None = None,
        is_closed: Callable[[C], object] | None = None,
        reset: Callable[[C], object] | None = None,
        check_after: float = 1.0,
        hook_timeout: float = 5.0,
        connect_timeout: float | None = None,
        min_size: int = 0,
        max_size: int = 10,
        burst: int = 0,
        burst_linger: float = 0.0,
        timeout: float = 30.0,
        max_waiting: int | None = None,
        max_idle: float = 600.0,
        max_lifetime: float = 3600.0,
        jitter: float = 0.05,
        order: Literal["lifo", "fifo"] = "lifo",
        leak_after: float | None = None,
        on_event: Callable[[PoolEvent], object] | None = None,
        name: str | None = None,
    ) -> None:
        self._read("Pool", connect, locals(), max_per_key=_LIMITS, max_shares=1)

    def resize(self, *, max_size: int | None = None, burst: int | None = None, min_size: int | None = None) -> None:
        """Changes the limits. Raised ones serve who waits at once; lowered ones take effect as connections come back.

        Args:
            max_size, burst, min_size: as for the pool; None leaves one as it is.

        Raises:
            ValueError, TypeError: a value that makes no sense, named; nothing is changed then.
        """
        self._change_limits(max_size, burst, min_size)

    async def warm(self) -> None:
        """Waits until ``min_size`` connections are open.

        Raises:
            Exception: what ``connect`` raised.
            PoolTimeout: they were not within the pool's ``timeout``.
        """
        self._start()
        ready = native.Event()
        held = 0

        async def hold() -> None:
            nonlocal held
            async with self.acquire():
                held += 1
                if held >= missing:
                    ready.set()
                await ready.wait()

        counts = self._counts()
        missing = self._min_size - counts["in_use"] - counts["resetting"]
        if missing <= 0 or counts["idle"] >= missing:
            return
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(missing):
                    group.create_task(hold())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None


class KeyedPool(_Base[C], native._KeyedPool[K, C], Generic[K, C]):
    """One pool over many hosts: connections by key, under a limit for each key and one for all.

    An idle connection of a quiet key makes room for a busy one, the one unused longest first. Keys that wait for room
    take turns, so that a busy one cannot starve the others. A key that has no connection and no caller is forgotten.

    With ``sharing``, for connections that multiplex (SSH, HTTP/2): one connect for a key, whoever asks; everybody gets
    the same connection, up to ``max_shares`` at a time; it is never closed under a user, and its idle time begins when
    the last one leaves. Cancelling one of those who wait for it fails none of the others::

        async with KeyedPool(connect, max_size=100, max_per_key=1, sharing=True) as pool:
            async with pool.acquire("db1.internal") as ssh:
                await ssh.run("uptime")

    Args:
        connect: opens a connection of a key: ``connect(key)``. It may also return a :class:`ConnectionStrategy`, which
            then opens, checks and closes this connection.
        max_size: connections of all keys together.
        max_per_key: connections of one key.
        sharing: connections are shared.
        max_shares: users of one shared connection at a time; None: no limit.

    All other arguments, and what holds for all pools, are those of :class:`Pool`; with ``sharing`` there is no
    ``reset``, ``is_clean`` is not asked (``is_closed`` is), and leaks are not reported.

    Raises:
        ValueError, TypeError: an argument that makes no sense, named.
    """

    def __init__(  # noqa: PLR0913 (each is a keyword)
        self,
        connect: Callable[[K], Awaitable[C] | AbstractAsyncContextManager[C] | ConnectionStrategy[C] | C],
        *,
        max_size: int,
        max_per_key: int,
        sharing: bool = False,
        max_shares: int | None = None,
        close: Callable[[C], object] | None = None,
        abort: Callable[[C], object] | None = None,
        check: Callable[[C], object] | None = None,
        is_clean: Callable[[C], object] | None = None,
        is_closed: Callable[[C], object] | None = None,
        reset: Callable[[C], object] | None = None,
        check_after: float = 1.0,
        hook_timeout: float = 5.0,
        connect_timeout: float | None = None,
        burst: int = 0,
        burst_linger: float = 0.0,
        timeout: float = 30.0,
        max_waiting: int | None = None,
        max_idle: float = 600.0,
        max_lifetime: float = 3600.0,
        jitter: float = 0.05,
        order: Literal["lifo", "fifo"] = "lifo",
        leak_after: float | None = None,
        on_event: Callable[[PoolEvent], object] | None = None,
        name: str | None = None,
    ) -> None:
        if max_shares is not None and not sharing:
            raise ValueError("KeyedPool(max_shares=...) is for sharing=True")
        shares = (
            1 if not sharing else None if max_shares is None else _count(max_shares, "KeyedPool(max_shares=...)", 2)
        )
        per_key = _count(max_per_key, "KeyedPool(max_per_key=...)", 1)
        self._read("KeyedPool", connect, locals(), max_per_key=per_key, max_shares=shares)

    def _open(self, key: object) -> Any:
        return self._hooks.connect(key)

    def resize(self, *, max_size: int | None = None, burst: int | None = None) -> None:
        """Changes the limits of all keys together. Raised ones serve who waits at once; lowered ones take effect as
        connections come back.

        Args:
            max_size, burst: as for the pool; None leaves one as it is.

        Raises:
            ValueError, TypeError: a value that makes no sense, named; nothing is changed then.
        """
        self._change_limits(max_size, burst, None)

    async def broadcast(
        self,
        keys: Iterable[K],
        fn: Callable[[C], Awaitable[R]],
        *,
        limit: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 (one for each key)
    ) -> Broadcast[K, R]:
        """Calls ``await fn(connection)`` with a connection of each key, many at a time; keeps every result and error.

        A host that fails or hangs costs none of the others anything: its error is kept beside their results::

            uptimes = await pool.broadcast(hosts, lambda ssh: ssh.run("uptime"), timeout=10)
            for host, error in uptimes.errors.items(): ...

        Args:
            keys: each is called once, however often it is given.
            fn: called with a connection; gives a coroutine or another awaitable. A task and a context for each.
            limit: the most calls at a time, 1 or more; None: as many as the pool may have connections.
            timeout: seconds for one key in all, the wait for its connection included; then its error is a
                ``TimeoutError``. None: for the wait the pool's own, for the call no end.

        Returns:
            A frozen :class:`Broadcast`: ``results`` and ``errors``, by key.

        Raises:
            CancelledError: the caller was cancelled; every call has been cancelled and awaited.
            ValueError, TypeError: an argument that makes no sense, named.
        """
        if not callable(fn):
            raise TypeError(f"KeyedPool.broadcast(fn=...) must be a function of a connection, got {fn!r}")
        at_once = self._max_size + self._burst if limit is None else _count(limit, "KeyedPool.broadcast(limit=...)", 1)
        patience = None if timeout is None else seconds(timeout, "KeyedPool.broadcast(timeout=...)")
        return await broadcast(self, keys, fn, at_once, patience)


def _count(value: object, what: str, least: int) -> int:
    return count(value, what, least=least, below=_LIMITS)
