"""Runs one of CPython's own test modules against our objects: ``python -m support.cpython_suite test_locks``.

Our classes take the place of asyncio's in the namespaces that the tests look them up in, before the module is imported.
Prints one line of JSON: see :class:`Outcome`. A process of its own, so that the substitution leaks nowhere.
"""

from __future__ import annotations

import asyncio
import asyncio.locks
import asyncio.queues
import asyncio.taskgroups
import asyncio.timeouts
import dataclasses
import faulthandler
import importlib
import io
import json
import sys
import time
import unittest
from collections.abc import Callable
from types import ModuleType
from typing import Any

import loopwright

__all__ = ["EXCLUDED", "MODULES", "Outcome"]

MODULES = ("test_locks", "test_queues", "test_taskgroups", "test_timeouts")

HANGS_AFTER = 60
"""Seconds that a single test may take: none of them takes 5."""

_REPR = "asserts a repr after appending a mock to the private list of waiters"

EXCLUDED: dict[str, str] = {
    # Reasons: a private attribute, a repr, a rule that a later CPython changed. At most 15 on each version.
    "test_locks.ConditionTests.test_ambiguous_loops": "sets the private _loop of a lock",
    "test_locks.LockTests.test_cancel_race": "reads the futures in the private _waiters",
    "test_locks.EventTests.test_repr": _REPR,
    "test_locks.SemaphoreTests.test_repr": _REPR,
    "test_queues.QueueGetTests.test_get_with_putters": "appends a future to the private _putters",
    "test_queues.QueueJoinTests.test_format": "sets the private _unfinished_tasks",
    "test_queues.LifoQueueJoinTests.test_format": "sets the private _unfinished_tasks",
    "test_queues.PriorityQueueJoinTests.test_format": "sets the private _unfinished_tasks",
}
"""What cannot hold for another implementation, and why."""

if sys.version_info >= (3, 13):
    EXCLUDED["test_locks.SemaphoreTests.test_acquire_fifo_order_4"] = (
        "reads the private _value and _waiters between two turns, while asyncio has yet to wake all it can"
    )
else:
    _CLOSED = "awaits the coroutine that create_task refused; since 3.13 that closes it, and ours does on every version"
    EXCLUDED |= {
        f"test_taskgroups.TestTaskGroup.test_taskgroup_{name}": _CLOSED
        for name in ("finished", "no_create_task_after_failure", "not_entered", "without_parent_task")
    }


@dataclasses.dataclass
class Outcome:
    """What a run came to."""

    ran: int = 0
    excluded: list[str] = dataclasses.field(default_factory=list)
    """Tests of this module that were left out."""
    constructed: int = 0
    """Tests that ran and made at least one of our objects."""
    without: list[str] = dataclasses.field(default_factory=list)
    """Tests that ran and made none."""
    skipped: list[str] = dataclasses.field(default_factory=list)
    failures: dict[str, str] = dataclasses.field(default_factory=dict)
    """Test to traceback."""
    seconds: float = 0.0


_made = 0
"""Objects of ours made so far."""


def _count() -> None:
    global _made  # noqa: PLW0603 (this process does nothing else)
    _made += 1


def _counting(base: Any, private: Callable[[Any], dict[str, Any]] = lambda _: {}) -> Any:
    """A subclass that is called as its base, counts what it makes, and offers private attributes for reading."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        _count()
        base.__init__(self, *args, **kwargs)

    def __getattr__(self: Any, name: str) -> Any:
        try:
            return private(self)[name]
        except KeyError:
            raise AttributeError(f"{base.__name__!r} object has no attribute {name!r}") from None

    namespace = {"__init__": __init__, "__getattr__": __getattr__, "__module__": base.__module__}
    return type(base.__name__, (base,), namespace)


def _waiters(limit: Any) -> dict[str, Any]:
    return {"_waiters": range(limit.waiting)}


def _permits(limit: Any) -> dict[str, Any]:
    return {"_waiters": range(limit.waiting), "_value": limit.value}


def _lines(queue: Any) -> dict[str, Any]:
    stats = queue.stats()
    return {"_getters": range(stats.getters), "_putters": range(stats.putters)}


def _tasks(group: Any) -> dict[str, Any]:
    return {"_tasks": range(group.alive)}


def _replace(name: str, ours: Any, *modules: ModuleType) -> None:
    for module in (asyncio, *modules):
        if hasattr(module, name):
            setattr(module, name, ours)


def substitute(module: str) -> None:
    """Puts our objects where the tests of ``module`` find asyncio's."""
    match module:
        case "test_locks":  # in asyncio.locks too: Condition and Barrier are then built on our Lock
            _replace("Lock", _counting(loopwright.Lock, _waiters), asyncio.locks)
            _replace("Event", _counting(loopwright.Event, _waiters), asyncio.locks)
            _replace("Semaphore", _counting(loopwright.Semaphore, _permits), asyncio.locks)
            _replace("BoundedSemaphore", _counting(loopwright.BoundedSemaphore, _permits), asyncio.locks)
        case "test_queues":
            for ours in (loopwright.Queue, loopwright.PriorityQueue, loopwright.LifoQueue):
                _replace(ours.__name__, _counting(ours, _lines), asyncio.queues)
        case "test_taskgroups":
            _replace("TaskGroup", _counting(loopwright.TaskGroup, _tasks), asyncio.taskgroups)
        case "test_timeouts":

            def counted(make: Callable[[float | None], Any]) -> Callable[[float | None], Any]:
                def timeout(seconds: float | None) -> Any:
                    _count()
                    return make(seconds)

                return timeout

            _replace("timeout", counted(loopwright.timeout), asyncio.timeouts)
            _replace("timeout_at", counted(loopwright.timeout_at), asyncio.timeouts)
            _replace("Timeout", loopwright.Timeout, asyncio.timeouts)
        case _:
            raise SystemExit(f"no such module: {module}; there are {', '.join(MODULES)}")


class _Result(unittest.TestResult):
    """Notes what each test came to, and whether it made an object of ours."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(io.StringIO(), False, 0)
        self.outcome = outcome
        self.made_before = 0

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        print(_name(test), file=sys.stderr, flush=True)  # the last one named is the one that hangs
        faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
        self.made_before = _made

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self.outcome.skipped.append(f"{_name(test)}: {reason}")

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        faulthandler.cancel_dump_traceback_later()
        if any(skipped is test for skipped, _ in self.skipped):
            return
        self.outcome.ran += 1
        if _made > self.made_before:
            self.outcome.constructed += 1
        else:
            self.outcome.without.append(_name(test))


def _name(test: unittest.TestCase) -> str:
    return test.id().removeprefix("test.test_asyncio.")


def run(module: str) -> Outcome:
    """Runs all of a module but :data:`EXCLUDED`."""
    substitute(module)
    tests = unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(f"test.test_asyncio.{module}"))
    outcome = Outcome()

    def keep(suite: unittest.TestSuite) -> unittest.TestSuite:
        kept = unittest.TestSuite()
        for test in suite:
            if isinstance(test, unittest.TestSuite):
                kept.addTest(keep(test))
            elif _name(test) in EXCLUDED:
                outcome.excluded.append(_name(test))
            else:
                kept.addTest(test)
        return kept

    result = _Result(outcome)
    started = time.perf_counter()
    keep(tests).run(result)
    outcome.seconds = round(time.perf_counter() - started, 1)
    for test, trace in [*result.failures, *result.errors]:
        outcome.failures[_name(test)] = trace
    for test in result.unexpectedSuccesses:
        outcome.failures[_name(test)] = "unexpected success"
    return outcome


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(run(sys.argv[1]))))
