"""RateLimiter in Redis: so many a second in all processes together; ``_redis_scripts/rate.lua`` decides."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from loopwright._arguments import real, seconds
from loopwright.errors import LimitUnavailable, RateLimitExceeded
from loopwright.integrations._redis_shared import Answer, Fail, Script, Shared, units
from loopwright.limits import RateLimiterStats
from loopwright.timeouts import time_left

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.cluster import RedisCluster

__all__ = ["RateLimiter", "SharedRateLimiterStats"]

_US = 1e6


@dataclass(frozen=True, slots=True)
class SharedRateLimiterStats(RateLimiterStats):
    """What a :class:`RateLimiter` in Redis looks like from this process; ``available`` as the server last said it."""

    let_through: int
    """Acquires that went ahead without a server (``fail="open"``)."""
    round_trips: int
    """Round trips begun."""
    round_trips_failed: int
    """Round trips that failed."""


class RateLimiter(Shared):
    """So many a second in all processes together: :class:`loopwright.RateLimiter`, with its one number in Redis.

    ::

        limiter = RateLimiter(100, redis=Redis.from_url("redis://..."), name="their-api")
        await limiter.acquire()

    One round trip for each acquire, whether it has to wait or not: the server gives it a place in time, and the wait
    until then is a sleep.

    Args:
        rate: units in each ``per`` seconds, more than 0.
        per: seconds that ``rate`` is counted over.
        burst: units that may go at once after a rest, 1 or more; not given: ``rate``, rounded down, at least 1.
        redis: a client of ``redis.asyncio`` (or ``valkey.asyncio``), ``RedisCluster`` too.
        name: what the processes share it by. Give the same rate everywhere; each process goes by its own.
        fail: what happens while Redis cannot be asked. ``"closed"``: :class:`loopwright.LimitUnavailable`.
            ``"open"``: everybody goes ahead, without a limit.
        reply_timeout: seconds that Redis may take for one round trip before it counts as gone.
        prefix: the beginning of the keys: ``prefix:rate:{name}:...``, both in one slot of a cluster.

    Raises:
        ValueError, TypeError: an argument that makes no sense, named.

    In any window of ``w`` seconds no more than ``rate * w / per + burst`` units are granted, by the server's clock,
    whatever is cancelled. First come, first served, in the order in which the server was asked: a place is never moved,
    so a big request is not starved by small ones. A place that a cancel gives back before its time goes to who asks
    next. One event loop at a time; not thread-safe. Source: GCRA (ITU-T I.371).
    """

    kind = "rate"
    script: ClassVar[Script] = Script("rate")

    def __init__(  # noqa: PLR0913 (each is a choice of its own)
        self,
        rate: float,
        per: float = 1.0,
        *,
        burst: int | None = None,
        redis: Redis | RedisCluster,
        name: str,
        fail: Fail = "closed",
        reply_timeout: float = 2.0,
        prefix: str = "loopwright",
    ) -> None:
        keys = ("tat", "holes")
        super().__init__(redis=redis, name=name, fail=fail, reply_timeout=reply_timeout, prefix=prefix, keys=keys)
        self.set_rate(rate, per, burst)
        self._waiting = self._acquired = self._admitted = self._waited = self._refused = 0
        self._marks = 0

    @property
    def rate(self) -> float:
        """Units in each ``per`` seconds."""
        return self._rate

    @property
    def per(self) -> float:
        """Seconds that ``rate`` is counted over."""
        return self._per

    @property
    def burst(self) -> int:
        """Units that may go at once after a rest."""
        return self._burst

    @property
    def waiting(self) -> int:
        """Acquires of this process that wait."""
        return self._waiting

    def set_rate(self, rate: float, per: float = 1.0, burst: int | None = None) -> None:
        """Another rate, for this process, from the next acquire on. Who has a place keeps it.

        Args:
            rate, per, burst: as in the constructor.
        """
        what = "RateLimiter"
        per = seconds(per, f"{what}(per=...)", positive=True)
        rate = _positive(rate, f"{what}(rate=...)")
        self._burst = max(1, math.floor(rate)) if burst is None else units(burst, f"{what}(burst=...)", 2**31)
        self._rate, self._per = rate, per
        self._available = float(self._burst)

    async def acquire(self, n: int = 1) -> Literal[True]:
        """Waits until ``n`` units may go; they go in the order in which the server was asked.

        Returns:
            True.

        Raises:
            ValueError: ``n`` is more than ``burst``: it could never go.
            RateLimitExceeded: the current :func:`loopwright.timeout` ends before its turn. It is told at once, has
                ``retry_after``, and nothing was taken.
            LimitUnavailable: Redis cannot be asked, and ``fail="closed"``.

        A cancel ends the wait at once, and gives the place back.
        """
        delay = await self._place(units(n, "RateLimiter.acquire(n)", self._burst), None)
        self._waited += bool(delay)
        return True

    def try_acquire(self, n: int = 1) -> Answer[bool]:
        """Takes ``n`` units if they may go now: ``if await limiter.try_acquire(): ...``. It is a round trip."""
        n = units(n, "RateLimiter.try_acquire(n)", self._burst)
        return Answer(self._try_acquire(n), "RateLimiter.try_acquire")

    def retry_after(self, n: int = 1) -> Answer[float]:
        """Seconds that ``acquire(n)`` would wait: ``await limiter.retry_after()``. It is a round trip."""
        n = units(n, "RateLimiter.retry_after(n)", self._burst)
        return Answer(self._retry_after(n), "RateLimiter.retry_after")

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def is_quiescent(self) -> bool:
        """Whether nobody waits here and nothing is on its way."""
        return not self._waiting and not self._trips

    def stats(self) -> SharedRateLimiterStats:
        """A frozen :class:`SharedRateLimiterStats` of this moment."""
        return SharedRateLimiterStats(
            rate=self._rate,
            per=self._per,
            burst=self._burst,
            available=self._available,
            waiting=self._waiting,
            acquired=self._acquired,
            admitted=self._admitted,
            waited=self._waited,
            refused=self._refused,
            let_through=self._let_through,
            round_trips_failed=self._failures,
            round_trips=self._round_trips,
        )

    def __repr__(self) -> str:
        rate = f"{self._rate:g}/{self._per:g}s"
        return f"<RateLimiter in Redis {self._name!r} {rate} burst={self._burst} waiting={self._waiting}>"

    def _in_use(self) -> bool:
        return self._waiting > 0

    def _arguments(self) -> tuple[object, ...]:
        return repr(self._per / self._rate * _US), self._burst

    def _note(self, reply: Any) -> Any:
        """Keeps what the end of every reply says: how long until the burst is whole again."""
        *answer, missing = reply
        self._available = max(0.0, self._burst - missing / _US * self._rate / self._per)
        return answer

    async def _try_acquire(self, n: int) -> bool:
        return await self._place(n, 0.0) is not None

    async def _retry_after(self, n: int) -> float:
        self._bind()
        try:
            _, delay, _, _ = self._note(await self._ask("ask", n))
        except LimitUnavailable:
            if self._fail == "closed":
                raise
            return 0.0
        return float(delay) / _US

    async def _place(self, n: int, patience: float | None) -> float | None:
        """Takes a place, and waits for its time; how long that was, or None if it would be later than that."""
        loop = self._bind()
        left = time_left() if patience is None else patience
        if self._is_quiet():
            return self._let_go_ahead(n)
        trip = self._send("take", n, -1 if left is None else max(0, math.floor(left * _US)))
        self._waiting += 1
        try:
            granted, microseconds, _, _ = self._note(await self._reply(trip))
            if granted and microseconds:
                until = loop.time() + microseconds / _US
                await asyncio.sleep(until - loop.time())
                while loop.time() < until:  # noqa: ASYNC110 (uvloop's timers are early, by less than a millisecond)
                    await asyncio.sleep(0)
        except LimitUnavailable:
            if self._fail == "closed":
                raise
            return self._let_go_ahead(n)
        except asyncio.CancelledError:
            self._spawn(self._give_back(trip, n))
            raise
        finally:
            self._waiting -= 1
        delay = float(microseconds) / _US
        if granted:
            self._acquired += 1
            self._admitted += n
            return delay
        self._refused += 1
        if patience is not None:
            return None
        raise RateLimitExceeded(
            f"{self!r}: {n} unit(s) may go in {delay:.3g} s, and the current timeout ends in {left or 0.0:.3g} s: "
            "nothing was taken. Raise the timeout, or the rate",
            delay,
        )

    def _let_go_ahead(self, n: int) -> float:
        self._let_through += 1
        self._acquired += 1
        self._admitted += n
        return 0.0

    async def _give_back(self, trip: asyncio.Task[Any], n: int) -> None:
        """Nobody goes at the place that the trip was given, if it was."""
        await asyncio.wait([trip])
        if trip.cancelled() or trip.exception() is not None:
            return
        granted, _, at, tat, _ = trip.result()
        if granted:
            self._marks += 1
            await self._tell("undo", n, _text(at), _text(tat), f"{self._client}.{self._marks}")


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _positive(value: object, what: str) -> float:
    read = real(value, what)
    if not 0 < read < math.inf:
        raise ValueError(f"{what} must be more than 0 and finite, got {value!r}")
    return float(read)
