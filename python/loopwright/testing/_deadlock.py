"""The text of a deadlock: first why, in a line, then every task with its await chain.

Lives here: the order of things and the words. Does not live here: how chains are followed, what is waited for and who
holds it (:mod:`loopwright.testing._chains` and what stands behind it).

A hang has two kinds of cause. A *circle*: tasks that wait for each other, through locks, or through the ends of tasks.
Or a *gap*: somebody waits for an item, an event, a permit that nobody will provide any more. The first line names the
circle, or the gap; the tasks that merely wait for one of these to end are told below it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from loopwright.testing._awaits import Step, is_user, locals_of, module_of
from loopwright.testing._chains import Link, links
from loopwright.testing._holders import Evidence, live_tasks
from loopwright.testing._waits import Waiting, describe, name_of

__all__ = ["explain", "explain_loop", "picture"]

Task = asyncio.Task[Any]

_ADDRESS: Final = re.compile(r" (object )?at 0x[0-9a-fA-F]+")
"""Left out: two runs of one schedule are to say the same."""

MOST_GROUPS: Final = 30
"""Kinds of task that a report shows."""

MOST_NAMES: Final = 4
"""Names in one enumeration."""

MOST_ASKED: Final = 1_000
"""Tasks whose frames are asked for names, and entries of one container."""

MOST_LINKS: Final = 12
"""Links of one chain; of a longer one the ends are shown."""


def explain_loop(loop: asyncio.AbstractEventLoop) -> str:
    """Why nothing moves on a loop: for the message of a :class:`~loopwright.testing.Deadlock`."""
    return explain(live_tasks(loop), loop=loop)


def picture(loop: asyncio.AbstractEventLoop) -> str:
    """Every task of a loop with its chain, and no word on why."""
    live = live_tasks(loop)
    return "\n\n".join(_Report(live, loop).sections()) if live else "no task is left"


def explain(tasks: Iterable[Task], *, main: Task | None = None, loop: asyncio.AbstractEventLoop | None = None) -> str:
    """Why none of these tasks moves.

    Args:
        tasks: those that have not ended, all of one loop.
        main: the one to tell first.
        loop: theirs; a simulated one knows their lanes.
    """
    live = [task for task in tasks if not task.done()]
    if main is not None and main in live:
        live.remove(main)
        live.insert(0, main)
    if not live:
        return "there is no task left, and what the loop runs for has not ended"
    report = _Report(live, loop)
    at = "" if loop is None else f" at {loop.time():g} s"
    alive = f"{_count(live, 'task')} alive{at}:"
    return "\n\n".join([report.headline(), alive, *report.sections()])


@dataclass(slots=True)
class _Stuck:
    """One task of a report."""

    task: Task
    chain: list[Step]
    waiting: Waiting | None
    links: list[Link]
    after: list[Task] = field(default_factory=list)
    """The tasks that have to do something first, as far as that is certain."""
    perhaps: list[Task] = field(default_factory=list)
    """The one that seems to hold what it waits for, certain or not."""


class _Report:
    def __init__(self, tasks: list[Task], loop: asyncio.AbstractEventLoop | None) -> None:
        self.loop = loop
        self.evidence = Evidence(tasks)
        self.known = set(tasks)
        self.stuck = {task: self._stuck(task) for task in tasks}
        self._names = _baptise(list(self.stuck.values()))

    def _stuck(self, task: Task) -> _Stuck:
        chain = self.evidence.chain(task)
        waiting = self.evidence.bare(task)
        after: list[Task] = []
        perhaps: list[Task] = []
        if waiting is not None:
            waiting = replace(waiting, holders=self.evidence.holders(waiting))
            after = [holder.task for holder in waiting.holders if holder.certain]
            after += [one for one in waiting.tasks if one in self.known]
            if len(waiting.holders) == 1:
                perhaps.append(waiting.holders[0].task)
        return _Stuck(task, chain, waiting, links(chain), after, perhaps)

    # ------------------------------------------------------------------------------------------------- the first line

    def headline(self) -> str:
        """Why, in a line or a few."""
        circle = self._circle({task: one.after for task, one in self.stuck.items()})
        if circle is not None:
            return self._tell_circle(circle, "wait")
        circle = self._circle({task: one.perhaps for task, one in self.stuck.items()})
        if circle is not None:
            return self._tell_circle(circle, "seem to wait")
        ready = [one.task for one in self.stuck.values() if one.waiting is None]
        if ready:
            return f"{_count(ready, 'task')} can still run: {_names(ready)}"
        gaps = self._gaps()
        told = [self._tell_gap(gap) for gap in gaps[:MOST_NAMES]]
        if len(gaps) > MOST_NAMES:
            told.append(f"and {len(gaps) - MOST_NAMES} more things are waited for in vain, see below")
        return "\n".join(told)

    def _circle(self, edges: dict[Task, list[Task]]) -> list[Task] | None:
        """Tasks each of which waits for the next, and the last for the first."""
        state: dict[Task, int] = {}
        for start, first in edges.items():
            if start in state:
                continue
            state[start] = 1
            path = [start]
            stack = [(start, iter(first))]
            while stack:
                task, following = stack[-1]
                after = next(following, None)
                if after is None:
                    state[task] = 2
                    stack.pop()
                    path.pop()
                elif after not in edges or state.get(after) == 2:  # noqa: PLR2004 (all that follows is known)
                    continue
                elif state.get(after) == 1:
                    return path[path.index(after) :]
                else:
                    state[after] = 1
                    path.append(after)
                    stack.append((after, iter(edges[after])))
        return None

    def _tell_circle(self, circle: list[Task], wait: str) -> str:
        if len(circle) == 1:
            itself = "waits for itself" if wait == "wait" else "seems to wait for itself"
            return f"{name_of(circle[0])!r} {itself}: {self._edge(circle[0], circle[0], circle[0])}"
        edges = [
            self._edge(task, circle[(index + 1) % len(circle)], circle[index - 1])
            for index, task in enumerate(circle[:MOST_NAMES])
        ]
        more = f"; and so on, {len(circle) - MOST_NAMES} more" if len(circle) > MOST_NAMES else ""
        how = "for each other" if len(circle) == 2 else "for each other in a circle"  # noqa: PLR2004
        return f"{len(circle)} tasks {wait} {how}: {'; '.join(edges)}{more}"

    def _edge(self, task: Task, after: Task, before: Task) -> str:
        """``'a' holds lock1 and waits for lock2, held by 'b'``"""
        mine, theirs = self.stuck[task].waiting, self.stuck[before].waiting
        assert mine is not None and theirs is not None
        mark = next((holder for holder in theirs.holders if holder.task is task), None)
        holds = "" if mark is None else f"{'' if mark.certain else 'perhaps '}holds {self._name(theirs.object)} and "
        mark = next((holder for holder in mine.holders if holder.task is after), None)
        if mark is not None:
            by = "itself" if after is task else repr(name_of(after))
            held = "held by" if mark.certain else "perhaps held by"
            return f"{name_of(task)!r} {holds}waits for {self._name(mine.object)}, {held} {by}"
        return f"{name_of(task)!r} {holds}{mine.text}" + (
            "" if "task '" in mine.text else f", {name_of(after)!r} is one"
        )

    def _gaps(self) -> list[list[_Stuck]]:
        """Who waits for something else than a task that is told, grouped by what that is."""
        groups: dict[tuple[str, int], list[_Stuck]] = {}
        for one in self.stuck.values():
            if one.waiting is not None and not one.after:
                key = (one.waiting.operation, id(one.waiting.object))
                groups.setdefault(key, []).append(one)
        found = sorted(groups.values(), key=lambda group: -len(group))
        told = [group for group in found if group[0].waiting is not None and group[0].waiting.needs != "tasks"]
        return told or found

    def _tell_gap(self, gap: list[_Stuck]) -> str:
        waiting = gap[0].waiting
        assert waiting is not None
        who = f"{_names([one.task for one in gap])} {'waits' if len(gap) == 1 else 'wait'}"
        if waiting.needs == "time":
            return f"{_names([one.task for one in gap])} {waiting.text}"
        what = waiting.text.partition(" ")[2]
        if waiting.needs in ("tasks", "outside"):
            return f"{who} {what}, and nothing is left that could end that"
        name = self._name(waiting.object)
        subject = f"{name} ({waiting.state})" if waiting.state else name
        what = f"for {subject}" if waiting.needs == "future" else f"{what} of {subject}"
        return f"{who} {what}{self._nobody(waiting)}"

    def _nobody(self, waiting: Waiting) -> str:
        """What is known of those who could end this wait."""
        others = self.evidence.others(waiting)
        if waiting.needs == "permit":
            if others:
                return f": who holds it is not certain, perhaps {_names(others)}"
            if others is None:
                return ", and who holds it is not known"
            return ": no other live task refers to it; who took it has ended, or is among those that wait"
        nobody = f", and nobody is left to {waiting.missing}"
        if signals := self.evidence.signals(waiting):
            nobody = f", and nothing but a signal ({', '.join(signals)}) is left to {waiting.missing}"
        if others is None:
            return nobody
        if not others:
            return f"{nobody}: no other live task refers to it"
        why = "; ".join(self._busy(task) for task in others[:MOST_NAMES])
        return f"{nobody}: of the others only {_names(others)} can get at it, and {why}"

    def _busy(self, task: Task) -> str:
        one = self.stuck[task]
        if one.waiting is None:
            return f"{name_of(task)!r} {describe(task, one.chain, None)}"
        if one.waiting.needs == "permit" and one.after:
            return f"{name_of(task)!r} waits for {self._name(one.waiting.object)}, held by {_names(one.after)}"
        return f"{name_of(task)!r} {_text(one.waiting)}"

    # ------------------------------------------------------------------------------------------------------ the tasks

    def sections(self) -> list[str]:
        """Every kind of task, with its chain."""
        groups: dict[tuple[Any, ...], list[_Stuck]] = {}
        for one in self.stuck.values():
            waited = one.waiting
            what = None if waited is None else waited.operation
            own = waited is None or waited.needs in ("tasks", "time", "future")
            key = (tuple(one.links), what, None if own or waited is None else id(waited.object))
            groups.setdefault(key, []).append(one)
        told = [self._section(group) for group in list(groups.values())[:MOST_GROUPS]]
        left = list(groups.values())[MOST_GROUPS:]
        if left:
            told.append(f"... and {sum(map(len, left))} more tasks in {len(left)} other places")
        return told

    def _section(self, group: list[_Stuck]) -> str:
        one = group[0]
        lines = [self._title(one.task)]
        lines += _chain_lines(one.links, one.chain)
        lines += [f"    {line}" for line in self._end(one)]
        if len(group) > 1:
            others = [other.task for other in group[1:]]
            lines.append(f"  and {len(others)} more like it: {_names(others)}")
        return "\n".join(lines)

    def _title(self, task: Task) -> str:
        title = f"task {name_of(task)!r}"
        lane = getattr(self.loop, "lane", None)
        if lane is not None:
            title += f", lane {lane(task)}"
        created = _created(task)
        return f"{title}, created at {created}" if created else title

    def _end(self, one: _Stuck) -> list[str]:
        waiting = one.waiting
        if waiting is None:
            return [describe(one.task, one.chain, None)]
        text = _text(waiting)
        if waiting.object is not None and waiting.needs not in ("tasks", "time"):
            text += f": {self._name(waiting.object)} = {_shorten(_ADDRESS.sub('', waiting.repr))}"
        lines = [text]
        certain = [holder.task for holder in waiting.holders if holder.certain]
        if certain:
            lines.append(f"held by {_names(certain)}")
        elif waiting.holders:
            lines.append(f"perhaps held by {_names([holder.task for holder in waiting.holders])}")
        elif waiting.needs == "permit" and self.evidence.others(waiting) == []:
            lines.append("no other live task refers to it")
        return lines

    # ---------------------------------------------------------------------------------------------------------- names

    def _name(self, subject: Any) -> str:
        kind = type(subject).__name__
        return self._names.get(id(subject)) or f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}"


def _baptise(stuck: list[_Stuck]) -> dict[int, str]:
    """What the program calls the objects that are waited for: ``lock1``, ``Pool.lock``, ``locks['a']``.

    The frames that call it anything are asked from the outside in, since who makes an object knows its proper name: two
    locks may both be somebody's ``lock``. What is still called the same is numbered.
    """
    wanted = {id(one.waiting.object) for one in stuck if one.waiting is not None and one.waiting.object is not None}
    candidates: dict[int, dict[str, None]] = {}
    for one in stuck[:MOST_ASKED]:
        for step in one.chain:
            if step.frame is not None and is_user(step):
                for name, value in _called(locals_of(step.frame), step.frame.f_globals):
                    if id(value) in wanted:
                        candidates.setdefault(id(value), {})[name] = None
    names: dict[int, str] = {}
    taken: set[str] = set()
    for subject, found in candidates.items():
        shared = {name for other, others in candidates.items() if other != subject for name in others}
        name = next((name for name in found if name not in shared), next(iter(found)))
        numbered, number = name, 1
        while numbered in taken:
            number += 1
            numbered = f"{name} ({number})"
        taken.add(numbered)
        names[subject] = numbered
    return names


def _called(local: dict[str, Any], namespace: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What code with these variables can call by a short name."""
    yield from ((name, value) for name, value in local.items() if name != "self")
    for name, value in local.items():
        owner = type(value).__name__ if name == "self" else name
        for attribute, inner in _attributes(value):
            yield f"{owner}.{attribute}", inner
        if isinstance(value, dict):
            yield from (
                (f"{name}[{_shorten(repr(key), 30)}]", inner) for key, inner in list(value.items())[:MOST_ASKED]
            )
        elif isinstance(value, list | tuple):
            yield from ((f"{name}[{index}]", inner) for index, inner in enumerate(value[:MOST_ASKED]))
    yield from namespace.items()


def _attributes(value: Any) -> list[tuple[str, Any]]:
    try:
        return list(object.__getattribute__(value, "__dict__").items())
    except (AttributeError, TypeError):
        return []


def _text(waiting: Waiting) -> str:
    """What is waited for; with the names of the tasks where it is several."""
    tasks = waiting.tasks
    if len(tasks) > 1:
        return f"{waiting.text}: {_names(tasks)}"
    return waiting.text


def _count(things: list[Any], noun: str) -> str:
    return f"{len(things)} {noun}" if len(things) == 1 else f"{len(things)} {noun}s"


def _names(tasks: Iterable[Any]) -> str:
    names = [repr(name_of(task)) for task in tasks]
    if len(names) > MOST_NAMES:
        return f"{', '.join(names[: MOST_NAMES - 1])} and {len(names) - MOST_NAMES + 1} more"
    return " and ".join(", ".join(names).rsplit(", ", 1)) if len(names) > 1 else "".join(names)


def _shorten(text: str, most: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _created(task: Task) -> str:
    """Where a task was made, if anybody wrote that down: `loopwright run`, or asyncio's debug mode."""
    site = getattr(task, "_loopwright_site", None)
    if site:
        return _relative(str(site))
    for frame in reversed(getattr(task, "_source_traceback", None) or ()):
        if f"{os.sep}asyncio{os.sep}" not in frame.filename and f"{os.sep}loopwright{os.sep}" not in frame.filename:
            return f"{_relative(frame.filename)}:{frame.lineno} in {frame.name}"
    return ""


def _relative(path: str) -> str:
    """Shorter where that is possible: below the current directory."""
    here = os.getcwd() + os.sep
    return path.removeprefix(here)


def _chain_lines(chain: list[Link], steps: list[Step]) -> list[str]:
    kit = sum(1 for _ in itertools.takewhile(_is_kit, steps))
    if kit < len(steps):  # what runs the test is no part of it
        chain, steps = chain[kit:], steps[kit:]
    rows = [(_place(link), link.function, link.source, is_user(step)) for link, step in zip(chain, steps, strict=True)]
    last = max((index for index, row in enumerate(rows) if row[3]), default=len(rows) - 1)
    rows = rows[: last + 1]  # what a library does inside is told in words
    if len(rows) > MOST_LINKS:
        half = MOST_LINKS // 2
        rows = [*rows[:half], ("...", f"{len(rows) - MOST_LINKS} more", "", True), *rows[-half:]]
    wide = max((len(row[0]) for row in rows), default=0)
    long = max((len(row[1]) for row in rows), default=0)
    return [f"    {place:{wide}}  {function:{long}}  {source}".rstrip() for place, function, source, _ in rows]


def _is_kit(step: Step) -> bool:
    module = type(step.awaited).__module__ if step.frame is None else module_of(step.frame)
    return module.startswith("loopwright.testing")


def _place(link: Link) -> str:
    return "-" if link.file is None else f"{_relative(link.file)}:{link.line}"
