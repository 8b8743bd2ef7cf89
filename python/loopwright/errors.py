"""Every error Loopwright raises on purpose.

One root, :class:`LoopwrightError`; each leaf also subclasses the built-in that callers already catch, so that adopting
one piece at a time changes no ``except`` clause. Instances pickle, and each waiter gets an instance of its own.
"""

from __future__ import annotations

import asyncio
import sys

__all__ = ["GroupFull", "LoopMismatch", "LoopwrightError", "QueueShutDown"]


class LoopwrightError(Exception):
    """Root of every error that Loopwright raises on purpose."""


class LoopMismatch(LoopwrightError, RuntimeError):
    """An object with waiters on one event loop was awaited from another."""


class GroupFull(LoopwrightError, RuntimeError):
    """``TaskGroup.create_task`` was called while ``limit`` tasks are alive; ``spawn`` waits instead."""


if sys.version_info >= (3, 13):

    class QueueShutDown(LoopwrightError, asyncio.QueueShutDown):
        """The queue was shut down: it takes no more items and, once drained, gives none."""

else:

    class QueueShutDown(LoopwrightError):
        """The queue was shut down: it takes no more items and, once drained, gives none."""
