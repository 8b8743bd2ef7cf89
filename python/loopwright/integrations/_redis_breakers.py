"""CircuitBreaker in Redis: what one process finds to be down, none calls; ``_redis_scripts/breaker.lua`` decides.

A call that passes in the closed state asks nobody: what is known of the breaker is at most ``refresh`` seconds old, and
outcomes are reported many at a time (a failure at once). Only probes are asked for one by one.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, ParamSpec, TypeVar

from loopwright._arguments import seconds
from loopwright.breakers import BreakerChange, BreakerState, CircuitBreakerStats
from loopwright.errors import BreakerOpen, LimitUnavailable, RateLimitExceeded
from loopwright.integrations._redis_shared import Fail, Script, Shared, settled, share, unheard, units

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.cluster import RedisCluster

__all__ = ["CircuitBreaker", "SharedCircuitBreakerStats"]

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
L = TypeVar("L", bound="Callable[[BreakerChange], object]")
On = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], object]

PASSES, AS_PROBE = 1, 2
"""What the script answers to who wants to call; anything else: no."""

FAILED, SLOW = 1, 2
"""The bits of an outcome."""

MANY = 1_000
"""Outcomes that are reported at once, however young they are."""

_US = 1e6
_log = logging.getLogger("loopwright.breaker")


@dataclass(frozen=True, slots=True)
class SharedCircuitBreakerStats(CircuitBreakerStats):
    """What a :class:`CircuitBreaker` in Redis looks like from this process.

    The window, ``opened`` and ``retry_after`` are those of all processes, as the server last said it; the other numbers
    are this process's.
    """

    let_through: int
    """Calls that passed without a server (``fail="open"``)."""
    round_trips: int
    """Round trips begun."""
    round_trips_failed: int
    """Round trips that failed."""


@dataclass(frozen=True, slots=True)
class _View:
    """What the server said of the breaker."""

    asked: float
    """When it was asked, on the loop's clock."""
    state: BreakerState = "closed"
    epoch: int = 0
    passes_at: float | None = 0.0
    """When a call may pass, on the loop's clock; None: that is for others to decide."""
    calls: int = 0
    failures: int = 0
    slow: int = 0
    opened: int = 0


class _Call:
    """A call that passed."""

    __slots__ = ("began", "epoch", "probe")

    def __init__(self, began: float, epoch: int | None, probe: str | None = None) -> None:
        self.began = began
        self.epoch = epoch  # None: nobody was asked, nobody is told
        self.probe = probe


class CircuitBreaker(Shared):
    """Stops calling what is down, in all processes: :class:`loopwright.CircuitBreaker`, with its books in Redis.

    ::

        breaker = CircuitBreaker(redis=Redis.from_url("redis://..."), name="payments", failure_rate=0.5)
        async with breaker:
            await charge(card)

    Also ``await breaker.call(fn, *args)``, and ``@breaker`` on an ``async def`` function. States, windows and
    thresholds are those of the local one; ``half_open`` probes are in flight in all processes together.

    While calls pass, none of them waits for Redis: outcomes are reported in the background, failures at once, and the
    state that a call goes by was heard of at most ``refresh`` seconds ago. Who finds it older than that asks first, and
    so does every probe.

    Args:
        failure_rate, window, window_time, min_calls, slow_call, slow_rate, open_for, half_open, on: as in
            :class:`loopwright.CircuitBreaker`. Give the same everywhere.
        redis: a client of ``redis.asyncio`` (or ``valkey.asyncio``), ``RedisCluster`` too.
        name: what the processes share it by.
        refresh: seconds that the news from other processes may be old.
        probe_timeout: seconds after which a probe that has not ended, its process killed maybe, gives its place to
            another.
        fail: what happens while Redis cannot be asked. ``"open"``: all calls pass, uncounted. ``"closed"``: none does,
            they raise :class:`loopwright.LimitUnavailable`.
        reply_timeout: seconds that Redis may take for one round trip before it counts as gone.
        prefix: the beginning of the keys: ``prefix:breaker:{name}:...``, all in one slot of a cluster.

    Raises:
        ValueError, TypeError: an argument that makes no sense, named.

    One event loop at a time; not thread-safe, and so not for ``with``.
    """

    kind = "breaker"
    script: ClassVar[Script] = Script("breaker")

    def __init__(  # noqa: PLR0913 (each is a choice of its own)
        self,
        *,
        redis: Redis | RedisCluster,
        name: str,
        failure_rate: float = 0.5,
        window: int = 100,
        window_time: float | None = None,
        min_calls: int = 20,
        slow_call: float | None = None,
        slow_rate: float = 1.0,
        open_for: float = 30.0,
        half_open: int = 3,
        on: On = Exception,
        refresh: float = 0.2,
        probe_timeout: float = 30.0,
        fail: Fail = "open",
        reply_timeout: float = 2.0,
        prefix: str = "loopwright",
    ) -> None:
        keys = ("state", "window", "probes")
        super().__init__(redis=redis, name=name, fail=fail, reply_timeout=reply_timeout, prefix=prefix, keys=keys)
        what = "CircuitBreaker"
        timed = 0.0 if window_time is None else seconds(window_time, f"{what}(window_time=...)", positive=True)
        self._slow_call = None if slow_call is None else seconds(slow_call, f"{what}(slow_call=...)")
        slow = share(slow_rate, f"{what}(slow_rate=...)")
        self._open_for = seconds(open_for, f"{what}(open_for=...)")
        self._refresh = seconds(refresh, f"{what}(refresh=...)", positive=True)
        self._settings = (
            repr(share(failure_rate, f"{what}(failure_rate=...)")),
            units(window, f"{what}(window=...)", 1 << 20),
            round(timed * _US),
            units(min_calls, f"{what}(min_calls=...)", 2**31),
            0 if self._slow_call is None else repr(slow),
            round(self._open_for * _US),
            units(half_open, f"{what}(half_open=...)", 2**31),
            round(seconds(probe_timeout, f"{what}(probe_timeout=...)", positive=True) * _US),
        )
        if not callable(on) and not isinstance(on, tuple):
            raise TypeError(f"{what}(on=...) must be exception classes, or a function of the exception, got {on!r}")
        self._on = on
        self._listeners: tuple[Callable[[BreakerChange], object], ...] = ()
        self._in_flight = self._successes = self._failed = self._slow = self._ignored = self._refused = 0
        self._forget()

    def _forget(self) -> None:
        self._view: _View | None = None
        self._looking: asyncio.Task[Any] | None = None
        self._calls: dict[asyncio.Task[Any] | None, list[_Call]] = {}
        self._number = 0
        self._batch: list[str] = []
        self._batch_epoch = 0
        self._timer: asyncio.TimerHandle | None = None
        self._reporter: asyncio.Task[None] | None = None

    def _in_use(self) -> bool:
        return self._in_flight > 0

    def _arguments(self) -> tuple[object, ...]:
        return self._settings

    # What the local one has too

    @property
    def state(self) -> BreakerState:
        """The state, as the server last said it."""
        return "closed" if self._view is None else self._view.state

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Awaits ``fn(*args, **kwargs)`` inside of the breaker.

        Returns:
            What it returns.

        Raises:
            BreakerOpen: it is not called, because the breaker is open. ``retry_after`` says for how long, if that is
                known.
            LimitUnavailable: Redis cannot be asked, and ``fail="closed"``.
        """
        async with self:
            return await fn(*args, **kwargs)

    def __call__(self, fn: F) -> F:
        """As a decorator: every call of ``fn`` goes through the breaker.

        Raises:
            TypeError: ``fn`` is not an ``async def`` function.
        """
        if not inspect.iscoroutinefunction(fn):
            raise TypeError(f"@breaker of a breaker in Redis takes `async def` functions, got {fn!r}: it has to ask")

        @functools.wraps(fn)
        async def through(*args: Any, **kwargs: Any) -> Any:
            async with self:
                return await fn(*args, **kwargs)

        return through  # type: ignore[return-value]

    def open(self) -> Awaitable[object]:
        """Opens it, everywhere, for ``open_for`` seconds. On its way at once; awaited, it has happened."""
        return self._go("open")

    def close(self) -> Awaitable[object]:
        """Closes it, everywhere, and forgets what was counted."""
        return self._go("closed")

    def isolate(self) -> Awaitable[object]:
        """Refuses all calls, everywhere, until ``open()`` or ``close()``."""
        return self._go("isolated")

    def on_change(self, listener: L) -> L:
        """Calls ``listener`` with a :class:`BreakerChange` when this process hears of a change, whoever caused it.

        Of several changes between two looks it hears the last. An exception of it is logged. Can be a decorator.

        Returns:
            The listener.
        """
        self._listeners = (*self._listeners, listener)
        return listener

    def is_quiescent(self) -> bool:
        """Whether it is closed and remembers no trouble, no call is under way here, and nothing is unsaid."""
        view = self._view
        clean = view is None or (view.state == "closed" and not view.failures and not view.slow)
        return clean and not (self._in_flight or self._batch or self._trips)

    def stats(self) -> SharedCircuitBreakerStats:
        """A frozen :class:`SharedCircuitBreakerStats` of this moment."""
        view = self._view or _View(0.0)
        return SharedCircuitBreakerStats(
            state=view.state,
            window_calls=view.calls,
            window_failures=view.failures,
            window_slow=view.slow,
            in_flight=self._in_flight,
            retry_after=self._left(view),
            successes=self._successes,
            failures=self._failed,
            slow=self._slow,
            ignored=self._ignored,
            refused=self._refused,
            opened=view.opened,
            let_through=self._let_through,
            round_trips=self._round_trips,
            round_trips_failed=self._failures,
        )

    async def fetch(self) -> SharedCircuitBreakerStats:
        """``stats()``, after saying what is unsaid and asking the server."""
        self._bind()
        self._report_now()
        if self._reporter is not None:
            await asyncio.wait([self._reporter])
        await self._look()
        return self.stats()

    async def aclose(self) -> None:
        """Says what is unsaid, and waits until the server knows. It may be used again."""
        self._bind()
        with unheard():
            await self.fetch()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await super().aclose()

    def __repr__(self) -> str:
        view = self._view or _View(0.0)
        of = f"{view.failures} of {view.calls} failed"
        return f"<CircuitBreaker in Redis {self._name!r} {view.state}, {of}>"

    # A call

    async def __aenter__(self) -> None:
        call = await self._begin()
        self._in_flight += 1
        self._calls.setdefault(asyncio.current_task(), []).append(call)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del traceback
        call = self._leave()
        self._in_flight -= 1
        outcome = self._outcome(call, error)
        if call.probe is not None:
            trip = self._spawn(self._finish(call.probe, outcome))
            await settled(trip, self._reply_timeout)  # it goes on if this is cancelled
        elif outcome is not None and call.epoch is not None:
            self._count(call.epoch, outcome)

    def __enter__(self) -> NoReturn:
        raise TypeError("a breaker in Redis has to ask the server: write `async with`")

    def __exit__(self, *_: object) -> None:
        """Never reached."""

    async def _begin(self) -> _Call:
        loop = self._bind()
        now = loop.time()
        try:
            if self._is_quiet():
                raise self._unknown()
            view = self._view
            stale = view is None or now - view.asked > self._refresh
            if view is None or (stale and view.state == "closed"):
                view = await self._look()
                now, stale = loop.time(), False
            if view.state == "closed":
                return _Call(now, view.epoch)
            if self._refuses(view, now):
                if stale:
                    self._ask_anew()  # it may have been closed; nobody waits to hear that
                raise self._refusal(view)
            return await self._ask_for_a_probe()
        except LimitUnavailable:
            if self._fail == "closed":
                raise
            self._let_through += 1
            return _Call(now, None)

    async def _ask_for_a_probe(self) -> _Call:
        self._number += 1
        id = f"{self._client}.{self._number}"
        sent = asyncio.get_running_loop().time()
        trip = self._send("begin", id)
        try:
            passes = self._note(await self._reply(trip), sent)
        except BaseException:
            self._spawn(self._take_back(trip, id))
            raise
        assert self._view is not None
        if passes == AS_PROBE:
            return _Call(asyncio.get_running_loop().time(), self._view.epoch, id)
        if passes == PASSES:
            return _Call(asyncio.get_running_loop().time(), self._view.epoch)
        raise self._refusal(self._view)

    async def _take_back(self, trip: asyncio.Task[Any], id: str) -> None:
        """Nobody waits for its answer any more: if it passed as a probe, another one may have its place."""
        await asyncio.wait([trip])
        await self._finish(id, None)

    async def _finish(self, probe: str, outcome: int | None) -> None:
        sent = asyncio.get_running_loop().time()
        if (reply := await self._tell("finish", probe, "-" if outcome is None else outcome)) is not None:
            self._note(reply, sent)

    def _leave(self) -> _Call:
        """The call that ends: this task's last one; any other where it ends in another task."""
        here = asyncio.current_task()
        task = here if here in self._calls else next(iter(self._calls), here)
        calls = self._calls[task]
        call = calls.pop()
        if not calls:
            del self._calls[task]
        return call

    def _outcome(self, call: _Call, error: BaseException | None) -> int | None:
        failed = False
        if error is not None:
            own = (BreakerOpen, RateLimitExceeded, LimitUnavailable)
            if not isinstance(error, Exception) or isinstance(error, own):
                self._ignored += 1
                return None
            failed = isinstance(error, self._on) if isinstance(self._on, (type, tuple)) else bool(self._on(error))
        took = asyncio.get_running_loop().time() - call.began
        slow = self._slow_call is not None and took > self._slow_call
        self._successes += not failed
        self._failed += failed
        self._slow += slow
        return FAILED * failed + SLOW * slow

    def _refuses(self, view: _View, now: float) -> bool:
        if view.state == "open":
            return view.passes_at is not None and now < view.passes_at
        full = view.state == "half_open" and view.passes_at is None and now - view.asked <= self._refresh
        return full or view.state == "isolated"

    def _left(self, view: _View) -> float | None:
        if view.passes_at is None or self._loop is None:
            return view.passes_at
        return max(0.0, view.passes_at - self._loop.time())

    def _refusal(self, view: _View) -> BreakerOpen:
        self._refused += 1
        left = self._left(view) if view.state == "open" else None
        if left is not None:
            text = f"the breaker {self._name!r} is open for {left:.3f} s more"
        elif view.state == "isolated":
            text = f"the breaker {self._name!r} is isolated: no call passes until its close() or open()"
        else:
            text = f"the breaker {self._name!r} is half open, and its probes are under way"
        return BreakerOpen(text, left)

    def _unknown(self) -> LimitUnavailable:
        return LimitUnavailable(f"{self!r}: Redis could not be asked a moment ago")

    # News

    async def _look(self) -> _View:
        """Asks how things stand; all who want to know at the same time ask once."""
        sent = asyncio.get_running_loop().time()
        if self._looking is None or self._looking.done():
            self._looking = self._send("look")
        self._note(await self._reply(self._looking), sent)
        assert self._view is not None
        return self._view

    def _ask_anew(self) -> None:
        if self._looking is None or self._looking.done():
            self._spawn(self._look_unheard())

    async def _look_unheard(self) -> None:
        with unheard():
            await self._look()

    def _note(self, reply: Any, sent: float) -> int:
        """Keeps what a reply says, tells of a change, and gives whether the call passes."""
        passes, state, epoch, after, calls, failures, slow, why, rate, opened = reply
        old = self._view
        if old is not None and epoch < old.epoch:
            return int(passes)  # overtaken on its way
        new: BreakerState = _word(state)
        passes_at = None if after < 0 else asyncio.get_running_loop().time() + after / _US
        asked = sent if old is None else max(sent, old.asked)
        self._view = _View(asked, new, epoch, passes_at, calls, failures, slow, opened)
        before: BreakerState = "closed" if old is None else old.state
        if new != before:
            self._announce(before, new, _word(why), rate / _US if rate >= 0 else None)
        return int(passes)

    def _announce(self, old: BreakerState, new: BreakerState, why: str, rate: float | None) -> None:
        level = logging.WARNING if new in {"open", "isolated"} else logging.INFO
        part = "" if rate is None else f": {rate:.0%}"
        _log.log(level, "breaker %s: %s -> %s (%s%s)", self._name, old, new, why, part)
        change = BreakerChange(self, old, new, why, rate)  # type: ignore[arg-type]
        for listener in self._listeners:
            try:
                listener(change)
            except Exception:
                _log.exception("breaker %s: its listener %r failed", self._name, listener)

    def _go(self, state: BreakerState) -> Awaitable[object]:
        self._bind()
        return self._spawn(self._say(state))

    async def _say(self, state: BreakerState) -> None:
        sent = asyncio.get_running_loop().time()
        self._note(await self._ask("go", state), sent)

    # Outcomes

    def _count(self, epoch: int, outcome: int) -> None:
        """Keeps an outcome for the next report: soon, or now if it is not a good one."""
        if self._view is None or epoch != self._view.epoch:
            return  # from before the state changed
        if epoch != self._batch_epoch:
            self._batch.clear()
            self._batch_epoch = epoch
        self._batch.append(str(outcome))
        if outcome or len(self._batch) >= MANY:
            self._report_now()
        elif self._timer is None:
            assert self._loop is not None
            self._timer = self._loop.call_later(self._refresh / 2, self._time_to_report)

    def _time_to_report(self) -> None:
        self._timer = None
        self._report_now()

    def _report_now(self) -> None:
        """One report at a time: the next one has all that came meanwhile."""
        if self._batch and (self._reporter is None or self._reporter.done()):
            self._reporter = self._spawn(self._report())

    async def _report(self) -> None:
        """Tells the server how calls went."""
        while self._batch:
            outcomes, epoch = "".join(self._batch), self._batch_epoch
            self._batch.clear()
            sent = asyncio.get_running_loop().time()
            if (reply := await self._tell("report", epoch, outcomes)) is not None:
                self._note(reply, sent)


def _word(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
