"""Cancellation: asking work to stop."""

from __future__ import annotations

from dataclasses import dataclass

from loopwright._loopwright import CancelToken

__all__ = ["CancelToken", "CancelTokenStats"]


@dataclass(frozen=True, slots=True)
class CancelTokenStats:
    """What a :class:`CancelToken` looks like at one moment."""

    cancelled: bool
    """Whether it is cancelled."""
    reason: str | None
    """What the cancel was told."""
    waiting: int
    """Who waits for this token itself: in line, or woken and not run yet."""
    children: int
    """Tokens made from this one that are still in use."""
