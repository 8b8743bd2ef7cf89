"""What the proof kit raises when it has found something, or cannot go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from loopwright.errors import LoopwrightError

if TYPE_CHECKING:
    from loopwright.testing._leaks import Leak
    from loopwright.testing._points import SweepReport

__all__ = ["Deadlock", "LeakError", "Livelock", "Nondeterministic", "ReplayError", "ScriptExhausted", "SweepFailure"]


class Deadlock(LoopwrightError, RuntimeError):
    """Nothing is runnable, no timer is set, and nothing outside of the loop can wake anybody: the program hangs.

    The message has the await chain of every task, what it waits for, and who holds that.
    """


class Livelock(LoopwrightError, RuntimeError):
    """Step after step was run without time passing: tasks keep each other awake and get nowhere."""


class Nondeterministic(LoopwrightError, RuntimeError):
    """Two runs under the same schedule took different courses: the test depends on something that the kit does not
    control, such as the order of a set of objects, ``id()``, real randomness or real time.
    """


class ReplayError(LoopwrightError, ValueError):
    """A replay string cannot be used here: it is not one, or comes from another version, or the test has changed."""


class SweepFailure(LoopwrightError, AssertionError):
    """A cancel sweep found a point at which a cancel breaks something; the message has the table of the points."""

    def __init__(self, message: str = "", report: SweepReport | None = None) -> None:
        super().__init__(message)
        self.report = report
        """Every point; None when the scenario failed without any cancel, or under random ones."""


class LeakError(LoopwrightError, AssertionError):
    """A test left something behind: a task, a socket, an exception that nobody retrieved.

    Attributes:
        leaks: what, as a list of :class:`~loopwright.testing.Leak`.
    """

    def __init__(self, message: str = "", leaks: Sequence[Leak] = ()) -> None:
        super().__init__(message)
        self.leaks = list(leaks)


class ScriptExhausted(LoopwrightError, AssertionError):
    """A fake was called more often than its script has steps (see :mod:`.fakes`)."""
