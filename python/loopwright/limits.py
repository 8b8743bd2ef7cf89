"""Limits: how many may do something at a time."""

from __future__ import annotations

from dataclasses import dataclass

from loopwright._loopwright import BoundedSemaphore, Event, Lock, Permit, Semaphore

__all__ = [
    "BoundedSemaphore",
    "Event",
    "EventStats",
    "Lock",
    "LockStats",
    "Permit",
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
