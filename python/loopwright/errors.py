"""Every error Loopwright raises on purpose.

One root, :class:`LoopwrightError`; each leaf also subclasses the built-in that callers already catch, so that adopting
one piece at a time changes no ``except`` clause. Instances pickle, and each waiter gets an instance of its own.
"""

from __future__ import annotations

import asyncio
import sys

__all__ = ["GroupFull", "LoopMismatch", "LoopwrightError", "QueueShutDown", "TokenCancelled"]


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


class TokenCancelled(LoopwrightError, RuntimeError):
    """``CancelToken.raise_if_cancelled`` found the token cancelled; ``reason`` is what its ``cancel`` was told."""

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return "the token was cancelled" if self.reason is None else f"the token was cancelled: {self.reason}"
