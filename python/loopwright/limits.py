"""Limits: how many may do something at a time, and how often."""

from __future__ import annotations

from dataclasses import dataclass

from loopwright._loopwright import BoundedSemaphore, Event, Lock, Permit, RateLimiter, Semaphore

__all__ = [
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
