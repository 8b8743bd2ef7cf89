"""Who waits for what, and who holds it: the await chain of a task, and what is at its end.

Works for suspended tasks and for the running one, on any asyncio loop, and changes nothing in the program that it
looks at. How the chain is followed through objects that hide theirs is told in :mod:`loopwright.testing._awaits`.

Measured (CPU time for one suspended task, CPython 3.11 to 3.15, a machine under load): :func:`chain` 5-10, 10-26 and
25-62 us at a depth of 3, 7 and 22 links; :func:`where` 10-15, 18-32 and 22-48 us. The text of a deadlock of three tasks
takes 1 ms, of 5,000 alike 0.2-0.4 s.
"""

from __future__ import annotations

import asyncio
import linecache
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import CodeType
from typing import Any, NamedTuple

from loopwright.testing._awaits import Kind, Step, follow, is_user, steps
from loopwright.testing._holders import Evidence, live_tasks
from loopwright.testing._waits import Holder, Waiting, describe, recognise

__all__ = ["Holder", "Link", "Place", "Waiting", "chain", "links", "source_line", "waits_for", "where"]


class Link(NamedTuple):
    """One link of an await chain."""

    function: str
    """Its qualified name, or the type's name of an awaitable that is not a Python function."""
    file: str | None
    line: int | None
    kind: Kind

    @property
    def source(self) -> str:
        """The line of code, without its indentation; empty when there is none to be had."""
        return source_line(self.file, self.line)

    def __str__(self) -> str:
        place = self.function if self.file is None else f"{self.file}:{self.line} in {self.function}"
        return f"{place}  {self.source}".rstrip()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a task is, in the program's own code, and what it does there."""

    function: str
    file: str | None
    line: int | None
    what: str
    """``waits in Queue.get()``, ``sleeps 1.0 s``, ``waits for task 'x'``, ``runs``, ``has ended``."""

    @property
    def source(self) -> str:
        """The line of code, without its indentation; empty when there is none to be had."""
        return source_line(self.file, self.line)


def chain(awaited: Any) -> list[Link]:
    """The await chain of a task, coroutine or async generator, from the outermost link to the innermost.

    It goes through async generators, ``anext(it, default)``, objects with a custom ``__await__`` and coroutines that
    are wrapped in objects. An awaitable that is not Python code is a link without a line. A task that has ended has no
    chain; that of a running one ends with the function that it is in.
    """
    if isinstance(awaited, asyncio.Task):
        return links(steps(awaited)[0])
    return links(follow(awaited, None)[0])


def links(chain: Iterable[Step]) -> list[Link]:
    """The lasting form of a walk: without the live objects."""
    return [_link(step) for step in chain]


def waits_for(task: asyncio.Task[Any]) -> Waiting | None:
    """What a task waits for, and who holds it; None when it runs, is about to run, or has ended.

    A holder is ``certain`` only if it is in the body of an ``async with`` on the very lock or semaphore, or if the
    object itself names it: asyncio's do not record who acquired them.
    """
    evidence = Evidence([task])
    waiting = evidence.bare(task)
    if waiting is None or waiting.needs != "permit":
        return waiting
    evidence = Evidence(live_tasks(task.get_loop()))
    return replace(waiting, holders=evidence.holders(waiting))


def where(task: asyncio.Task[Any]) -> Place:
    """The innermost line of the program's own code that a task is in, and what it does there."""
    found, leaf = steps(task)
    what = describe(task, found, recognise(task, found, leaf))
    framed = [step for step in reversed(found) if step.frame is not None]
    step = next(filter(is_user, framed), framed[0] if framed else None)
    if step is None:
        return Place(task.get_name(), None, None, what)
    link = _link(step)
    return Place(link.function, link.file, link.line, what)


def source_line(file: str | None, line: int | None) -> str:
    """One line of a source file, without its indentation; empty when there is none to be had."""
    return "" if file is None or line is None else linecache.getline(file, line).strip()


def _link(step: Step) -> Link:
    if step.code is None:
        return Link(type(step.awaited).__qualname__, None, None, step.kind)
    return Link(step.code.co_qualname, step.code.co_filename, _line(step, step.code), step.kind)


def _line(step: Step, code: CodeType) -> int:
    return (step.frame.f_lineno if step.frame is not None else None) or code.co_firstlineno
