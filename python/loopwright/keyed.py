"""Keyed: one value for each key, given up when it rests."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Protocol

from loopwright._loopwright import Keyed

__all__ = ["Keyed", "KeyedStats", "Quiescent"]

_log = logging.getLogger("loopwright")


class Quiescent(Protocol):
    """What the values of a :class:`Keyed` can do: say whether they are in use."""

    def is_quiescent(self) -> bool:
        """Whether it is as good as new: to put a new one in its place changes nothing for anybody."""
        ...


@dataclass(frozen=True, slots=True)
class KeyedStats:
    """What a :class:`Keyed` looks like at one moment."""

    keys: int
    """Values that are there. More than ``max_keys`` of them: all were in use when it last looked."""
    max_keys: int
    """The most there are while some of them rest."""
    idle: float
    """Seconds without use after which one that rests is given up."""
    hits: int
    """How often a key that was there was asked for."""
    made: int
    """Values that the factory made."""
    evicted: int
    """Values that rested and were given up to make room."""
    expired: int
    """Values that rested and were given up because nobody had asked for them in ``idle`` seconds."""
    full: int
    """How often it looked for room and found everything in use."""
    peak: int
    """The most values there ever were."""


def _it_grows(keyed: Keyed[Any, Any]) -> None:
    """Called by the extension: the one warning, and another one whenever it has doubled."""
    stats = keyed.stats()
    _log.warning(
        "%r holds %d values, max_keys=%d: every one of them is in use, or somebody refers to it. "
        "Raise max_keys if that is meant; else look for values that are never released, or shared by the factory",
        keyed,
        stats.keys,
        stats.max_keys,
    )
