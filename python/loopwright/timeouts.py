"""Timeouts: how long something may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from loopwright._loopwright import Timeout, time_left, timeout, timeout_at

__all__ = ["Timeout", "TimeoutStats", "time_left", "timeout", "timeout_at"]


@dataclass(frozen=True, slots=True)
class TimeoutStats:
    """What a :class:`Timeout` looks like at one moment."""

    state: Literal["created", "active", "expiring", "expired", "finished"]
    """``expiring``: the deadline has passed, the task was cancelled, the body has not ended yet."""
    when: float | None
    """The deadline on the event loop's clock; None without one."""
    remaining: float | None
    """Seconds left, with the timeouts around this one taken into account; None without a deadline."""
