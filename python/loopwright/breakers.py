"""CircuitBreaker: stops calling what is down."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar

from loopwright import _loopwright as native
from loopwright.errors import BreakerOpen

__all__ = ["BreakerChange", "BreakerOpen", "BreakerState", "CircuitBreaker", "CircuitBreakerStats"]

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
L = TypeVar("L", bound="Callable[[BreakerChange], object]")

BreakerState = Literal["closed", "open", "half_open", "isolated"]
"""What a :class:`CircuitBreaker` can be."""

_log = logging.getLogger("loopwright.breaker")


@dataclass(frozen=True, slots=True)
class BreakerChange:
    """A change of a :class:`CircuitBreaker`, for the listeners of :meth:`CircuitBreaker.on_change`."""

    breaker: CircuitBreaker
    """Which one."""
    old: BreakerState
    """The state that ended."""
    new: BreakerState
    """The state that began."""
    why: str
    """``"failures"``, ``"slow calls"``: a rate reached its threshold; ``"waited"``: ``open_for`` seconds have passed
    and somebody called; ``"recovered"``: the probes went well; ``"asked"``: ``open()``, ``close()``, ``isolate()``."""
    rate: float | None
    """The share of failures or slow calls that opened it; None otherwise."""


@dataclass(frozen=True, slots=True)
class CircuitBreakerStats:
    """What a :class:`CircuitBreaker` looks like at one moment, and its totals since it was made."""

    state: BreakerState
    """The state that it is in."""
    window_calls: int
    """Calls in the window; half open: probes that have ended. The rates are taken over these."""
    window_failures: int
    """Those of them that failed."""
    window_slow: int
    """Those of them that were slow."""
    in_flight: int
    """Calls under way."""
    retry_after: float | None
    """Seconds until a call may pass, 0.0 where calls pass; None: that is for others to decide."""
    successes: int
    """Calls that passed and succeeded."""
    failures: int
    """Calls that passed and failed."""
    slow: int
    """Calls that passed and took more than ``slow_call`` seconds, whether they succeeded or failed."""
    ignored: int
    """Calls that passed and ended without a verdict: cancelled, interrupted, refused by another limit."""
    refused: int
    """Calls that did not pass."""
    opened: int
    """How often it opened."""


class CircuitBreaker(native._Breaker):
    """Stops calling what is down: fails at once instead, and tries again after a while with a few calls.

    What is down is not helped by more calls, and whoever waits for it holds connections, memory and patience. A breaker
    watches how calls go. When the share of failures (or of slow calls) in its window reaches its threshold it *opens*:
    for ``open_for`` seconds every call fails at once with :class:`BreakerOpen`. The next ``half_open`` calls are its
    probes, all others are still refused. When the last probe has ended it closes, or opens again. The states and the
    windows are those of resilience4j.

    ``async with breaker:``, ``with breaker:`` (any thread), ``await breaker.call(fn, *args)``, or ``@breaker`` on a
    function, async or not. For one breaker per host: ``Keyed(lambda host: CircuitBreaker(name=host))``.

    A call that is cancelled says nothing about who was called: it counts as neither, and a probe that is cancelled
    gives its place to the next. A call counts only in the state in which it began. Give calls a deadline inside of the
    breaker: one that never ends is no failure, and a probe that never ends keeps the breaker half open.

    Args:
        failure_rate: the share of failures at which it opens; more than 0, up to 1.
        window: the rates are taken over so many calls, the last that ended.
        window_time: in its place: over the calls that ended in so many seconds, exact to a 32nd part of it.
        min_calls: over fewer calls than this no rate is taken. With a ``window`` smaller than that: all of it.
        slow_call: a call that takes more seconds than this is slow. None: none is.
        slow_rate: the share of slow calls at which it opens.
        open_for: seconds for which it refuses all calls once it is open.
        half_open: how many probes pass then.
        on: what is a failure: an exception class, a tuple of them, or a function of the exception that answers it.
            Other exceptions are successes: who raised them has answered. What is not an ``Exception`` (a cancel, an
            interrupt), and refusals of Loopwright's own limits (:class:`BreakerOpen`, :class:`RateLimitExceeded`), are
            neither.
        name: for logs, errors and metrics.

    Raises:
        ValueError, TypeError: an argument that makes no sense, named.

    Thread-safe, and bound to no event loop. Time is that of the running loop where that is not the system's (virtual
    time), else the system's.
    """

    name: str | None
    """What it was called."""

    def __init__(  # noqa: PLR0913 (each is a setting of its own)
        self,
        *,
        failure_rate: float = 0.5,
        window: int = 100,
        window_time: float | None = None,
        min_calls: int = 20,
        slow_call: float | None = None,
        slow_rate: float = 1.0,
        open_for: float = 30.0,
        half_open: int = 3,
        on: type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], object] = Exception,
        name: str | None = None,
    ) -> None:
        self._configure(failure_rate, window, window_time, min_calls, slow_call, slow_rate, open_for, half_open, on)
        self.name = name
        self._listeners: tuple[Callable[[BreakerChange], object], ...] = ()

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Awaits ``fn(*args, **kwargs)`` inside of the breaker.

        Returns:
            What it returns.

        Raises:
            BreakerOpen: it is not called, because the breaker is open. ``retry_after`` says for how long, if that is
                known.
        """
        async with self:
            return await fn(*args, **kwargs)

    def __call__(self, fn: F) -> F:
        """As a decorator: every call of ``fn``, async or not, goes through the breaker.

        Raises:
            TypeError: ``fn`` is a generator function: it has not ended when it returns.
        """
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise TypeError(
                f"@breaker cannot tell how a generator goes, got {fn!r}: use `async with breaker:` inside of it, "
                "around what is called"
            )
        if inspect.iscoroutinefunction(fn):

            @functools.wraps(fn)
            async def through(*args: Any, **kwargs: Any) -> Any:
                async with self:
                    return await fn(*args, **kwargs)

            return through  # type: ignore[return-value]

        @functools.wraps(fn)
        def through_in_thread(*args: Any, **kwargs: Any) -> Any:
            with self:
                return fn(*args, **kwargs)

        return through_in_thread  # type: ignore[return-value]

    def on_change(self, listener: L) -> L:
        """Calls ``listener`` with a :class:`BreakerChange` at every change of state.

        In the thread, and before the line, that made the breaker change; so it should not take long. An exception of it
        is logged and changes nothing. Can be used as a decorator.

        Returns:
            The listener.
        """
        self._listeners = (*self._listeners, listener)
        return listener

    def stats(self) -> CircuitBreakerStats:
        """
        Returns:
            A frozen :class:`CircuitBreakerStats` of this moment.
        """
        return CircuitBreakerStats(*self._stats())

    def __repr__(self) -> str:
        stats = self.stats()
        name = "" if self.name is None else f" {self.name!r}"
        of = f"{stats.window_failures} of {stats.window_calls} failed"
        return f"<{type(self).__name__}{name} {stats.state}, {of}>"

    def _changed(self, old: BreakerState, new: BreakerState, why: str, rate: float | None) -> None:
        """Called by the extension."""
        level = logging.WARNING if new in {"open", "isolated"} else logging.INFO
        share = "" if rate is None else f": {rate:.0%}"
        _log.log(level, "breaker %s: %s -> %s (%s%s)", self.name or hex(id(self)), old, new, why, share)
        change = BreakerChange(self, old, new, why, rate)
        for listener in self._listeners:
            try:
                listener(change)
            except Exception:
                _log.exception("breaker %s: its listener %r failed", self.name or hex(id(self)), listener)

    def _refusal(self, retry_after: float | None) -> BreakerOpen:
        """Called by the extension."""
        name = "the breaker" if self.name is None else f"the breaker {self.name!r}"
        state = self.state
        if retry_after is not None:
            text = f"{name} is open for {retry_after:.3f} s more"
        elif state == "isolated":
            text = f"{name} is isolated: no call passes until its close() or open()"
        else:
            text = f"{name} is half open, and its probes are under way"
        return BreakerOpen(text, retry_after)
