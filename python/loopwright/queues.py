"""Queues between tasks, and between threads and tasks."""

from __future__ import annotations

from dataclasses import dataclass

from loopwright._loopwright import LifoQueue, PriorityQueue, Queue

__all__ = ["LifoQueue", "PriorityQueue", "Queue", "QueueStats"]


@dataclass(frozen=True, slots=True)
class QueueStats:
    """What a :class:`Queue` looks like at one moment."""

    maxsize: int | None
    """The most items it holds; None: no limit."""
    size: int
    """Items in it, and places reserved for putters that were woken: ``qsize()``."""
    available: int
    """Items that a newcomer can get: in it, and not reserved for getters that were woken."""
    unfinished: int
    """Items put whose work was not reported done; ``join`` waits for 0."""
    getters: int
    """Getters in line, tasks and threads."""
    putters: int
    """Putters in line, tasks and threads."""
    joiners: int
    """Callers of ``join`` that wait."""
    put: int
    """Items put since it was made."""
    got: int
    """Items got since it was made."""
    shut_down: bool
    """Whether ``shutdown`` was called."""
