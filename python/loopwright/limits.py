"""Limits: how many may do something at a time, and how often."""

from __future__ import annotations

from dataclasses import dataclass

from loopwright._loopwright import AdaptiveLimit, BoundedSemaphore, Event, Lock, Permit, RateLimiter, Semaphore

__all__ = [
    "AdaptiveLimit",
    "AdaptiveLimitStats",
    "BoundedSemaphore",
    "Event",
    "EventStats",
    "Lock",
    "LockStats",
    "Permit",
    "RateLimiter",
    "RateLimiterStats",
    "Semaphore",
    "SemaphoreStats",
]


@dataclass(frozen=True, slots=True)
class SemaphoreStats:
    """What a :class:`Semaphore` or :class:`BoundedSemaphore` looks like at one moment."""

    value: int
    """Permits that are free: neither held nor reserved for a woken waiter."""
    limit: int | None
    """The most permits there can be; None for a plain Semaphore, which has no such number."""
    waiting: int
    """Waiters: those in line, and those woken that have not run yet."""
    acquired: int
    """Acquires that succeeded, since the object was made."""
    waited: int
    """Acquires that had to stand in line, since the object was made."""
    fair: bool
    """Whether waiters are served strictly in order."""


@dataclass(frozen=True, slots=True)
class AdaptiveLimitStats:
    """What an :class:`AdaptiveLimit` looks like at one moment."""

    limit: int
    """The most calls in flight that there may be now."""
    value: int
    """Permits that are free; below 0 when the limit has become smaller than what is in flight."""
    waiting: int
    """Waiters: those in line, and those woken that have not run yet."""
    in_flight: int
    """Calls that have begun and not ended."""
    acquired: int
    """Acquires that succeeded, since the object was made."""
    waited: int
    """Acquires that had to stand in line, since the object was made."""
    delay: float | None
    """The mean delay of a call in the last window, in seconds; None before the first."""
    base: float | None
    """The delay without a queue, in seconds, as far as it is known."""
    windows: int
    """Windows that were judged, since the object was made."""
    overloads: int
    """Calls that said that the server has too much to do, since the object was made."""
    minimum: int
    """The limit is never below that."""
    maximum: int
    """The limit is never above that."""


@dataclass(frozen=True, slots=True)
class LockStats(SemaphoreStats):
    """What a :class:`Lock` looks like at one moment; ``value`` is 1 when it is free."""


@dataclass(frozen=True, slots=True)
class EventStats:
    """What an :class:`Event` looks like at one moment."""

    set: bool
    """Whether the flag is set."""
    waiting: int
    """Waiters: those in line, and those woken that have not run yet."""


@dataclass(frozen=True, slots=True)
class RateLimiterStats:
    """What a :class:`RateLimiter` looks like at one moment, and its totals since it was made."""

    rate: float
    """How many pass per ``per`` seconds."""
    per: float
    """Seconds."""
    burst: int
    """The most that pass at once."""
    available: float
    """How much of the burst is left: a fraction counts up to the next one."""
    waiting: int
    """Waiters: those in line, and those woken that have not run yet."""
    acquired: int
    """Acquires that succeeded."""
    admitted: int
    """What they asked for, summed up: equal to ``acquired`` where nobody asks for more than one."""
    waited: int
    """Acquires that had to stand in line."""
    refused: int
    """``try_acquire`` that answered False, and acquires that would have come too late for their deadline."""
