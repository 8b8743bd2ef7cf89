"""Points: where in a run a cancel arrived, what came of it, and the report of a whole sweep.

Lives here: data and text. Does not live here: how a point is reached (:mod:`._stages`) and judged (:mod:`._sweep`).
"""

from __future__ import annotations

import linecache
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from loopwright.testing.errors import ReplayError

__all__ = ["MOMENTS", "VERDICTS", "WAVES", "Frame", "Point", "Spot", "SweepReport", "format_point", "parse_point"]

WAVES = ("cancel", "again", "timeout", "error", "early", "anyio")
MOMENTS = ("waiting", "woken", "step", "start")
VERDICTS = ("hang", "swallowed", "error", "invariant", "unreported", "leaked", "missed", "ok")
"""The worst first."""

Frame = tuple[str, str, int]
"""Function, file, line."""


@dataclass(frozen=True, slots=True)
class Spot:
    """The address of a point: what the end of a replay string says."""

    lane: str
    """The victim, by the path of its creation: "0" is the scenario itself, "0.2" the third task that it created."""
    nth: int
    """The victim's step after which (``waiting``) or after whose successor's wake-up (``woken``) the cancel arrives; at
    ``step``, the step of the whole run."""
    moment: str = "waiting"
    wave: str = "cancel"
    again: int = 0
    """The second cancel comes so many steps later."""


_SPOT = re.compile(
    r"(?:^|:)(?P<lane>[\w.~-]+)@(?P<nth>\d+)/(?P<moment>waiting|woken|step|start)"
    r"(?:\+(?:again:(?P<again>[1-9]\d*)|(?P<wave>timeout|error|anyio)))?$"
)


def format_point(spot: Spot) -> str:
    """A point as text: ``0.1@3/waiting``, ``0.1@3/woken+again:2``, ``0.1@3/waiting+timeout``."""
    suffix = {"cancel": "", "early": "", "again": f"+again:{spot.again}"}.get(spot.wave, f"+{spot.wave}")
    return f"{spot.lane}@{spot.nth}/{spot.moment}{suffix}"


def parse_point(text: str) -> Spot:
    """The point at the end of a replay string, or a point alone.

    Raises:
        ReplayError: there is none.
    """
    match = _SPOT.search(text)
    if match is None:
        raise ReplayError(
            f"{text!r} does not end in a cancel point: one looks like 0.1@3/waiting (lane, step, moment; moments are "
            f"{', '.join(MOMENTS)}), with +again:2, +timeout, +error or +anyio behind it for the other waves"
        )
    moment = match["moment"]
    wave = "again" if match["again"] else match["wave"] or ("early" if moment == "start" else "cancel")
    return Spot(match["lane"], int(match["nth"]), moment, wave, int(match["again"] or 0))


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a sweep, and what came of it."""

    victim: str
    """The task's name."""
    nth: int
    """See :attr:`Spot.nth`."""
    moment: str
    """``waiting``: it had just suspended; ``woken``: it was about to resume; ``start``: before its first step;
    ``step``: at a step of the whole run."""
    wave: str
    file: str
    line: int
    """The innermost line of the tested code at which the victim stood."""
    source: str
    chain: tuple[Frame, ...]
    """What the victim awaited, outermost first: function, file, line."""
    verdict: str
    """``ok``, or what went wrong: see :data:`VERDICTS`."""
    detail: str
    replay: str
    """Repeats this one run: ``cancel_sweep(scenario, only=...)``, ``pytest --loopwright-replay=...``."""

    @property
    def failed(self) -> bool:
        """Whether it broke a promise."""
        return self.verdict not in ("ok", "missed")


@dataclass(frozen=True)
class SweepReport:
    """What a sweep did and found. ``str()`` is a table of the points as source lines, the failing ones first."""

    scenario: str
    points: tuple[Point, ...]
    runs: int
    """How often the scenario ran, the run that was recorded included."""
    seconds: float
    steps: int = 0
    """Steps of the recorded run."""
    show: str = field(default="all", repr=False)

    @property
    def failures(self) -> tuple[Point, ...]:
        """The points at which something broke."""
        return tuple(point for point in self.points if point.failed)

    def count(self, wave: str) -> int:
        """How many points of a wave were reached."""
        return sum(point.wave == wave and point.verdict != "missed" for point in self.points)

    def to_json(self) -> dict[str, Any]:
        """The report as what ``json.dumps`` takes."""
        return {
            "scenario": self.scenario,
            "runs": self.runs,
            "steps": self.steps,
            "seconds": self.seconds,
            "failures": len(self.failures),
            "points": [asdict(point) for point in self.points],
        }

    def __str__(self) -> str:
        reached = [point for point in self.points if point.verdict != "missed"]
        broken = len(self.failures)
        head = f"cancel sweep of {self.scenario}: {broken or 'none'} of {len(reached)} points broken"
        lines = [f"{head}; {self.runs} runs, {self.seconds:.2f} s"]
        for group in _grouped(self.failures):
            lines += _failing(group)
        if self.show == "all":
            lines += _passing(point for point in self.points if not point.failed)
        verdicts = Counter(point.verdict for point in self.points)
        lines.append("  " + ", ".join(f"{verdict} {verdicts[verdict]}" for verdict in VERDICTS if verdicts[verdict]))
        if verdicts["missed"]:
            lines.append(
                "  missed: the run took another course before the point was reached; something other than the schedule"
                " decides it (real time, other processes, randomness)"
            )
        return "\n".join(lines)


def source_line(file: str, line: int) -> str:
    """A line of source, stripped; empty when there is none to be had."""
    return linecache.getline(file, line).strip()


def chain_text(chain: Iterable[Frame]) -> str:
    """``outer:12 > inner:30``, outermost first."""
    return " > ".join(f"{function}:{line}" for function, _, line in chain)


def _when(point: Point) -> str:
    spot = parse_point(point.replay)
    at = {"waiting": "while it waited", "woken": "when it was just woken", "start": "before its first step"}
    moment = at.get(point.moment, f"at step {point.nth}")
    what = {
        "cancel": "cancelled",
        "early": "cancelled",
        "again": "cancelled",
        "timeout": "timed out",
        "error": "the awaited call failed",
        "anyio": "cancelled by an anyio scope",
    }[point.wave]
    again = f" and again {spot.again} step{'s' if spot.again > 1 else ''} later" if spot.again else ""
    return f"{what} {moment}{again}"


def _grouped(points: Iterable[Point]) -> list[list[Point]]:
    """Points at one line that went wrong in one way, together; the worst first."""
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        steps = re.sub(r"\d+ steps", "", point.detail)
        groups.setdefault((point.verdict, point.victim, point.file, point.line, steps), []).append(point)
    return sorted(groups.values(), key=lambda group: VERDICTS.index(group[0].verdict))


def _failing(group: list[Point]) -> list[str]:
    first = group[0]
    more = f" (and {len(group) - 1} more ways)" if len(group) > 1 else ""
    detail = first.detail.replace("\n", "\n      ").replace("\n      \n", "\n\n")
    lines = [
        f"  {first.verdict.upper()}  {first.file}:{first.line}  {first.source}",
        f"      {first.victim}, {_when(first)}{more}: {detail}",
    ]
    if len(first.chain) > 1:
        lines.append(f"      awaiting: {chain_text(first.chain)}")
    lines.append(f"      replay: {first.replay}")
    return lines


def _passing(points: Iterable[Point]) -> list[str]:
    table: dict[tuple[str, int, str], tuple[str, Counter[str]]] = {}
    for point in points:
        key = (point.file, point.line, point.victim)
        label = point.moment if point.wave in ("cancel", "early") else point.wave
        label = f"{label} ({point.verdict})" if point.verdict != "ok" else label
        table.setdefault(key, (point.source, Counter()))[1][label] += 1
    rows = [
        (f"{file}:{line}", source, victim, ", ".join(f"{label} {n}" if n > 1 else label for label, n in counts.items()))
        for (file, line, victim), (source, counts) in table.items()
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    return [
        "  ok  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, [*widths, 0], strict=True)).rstrip()
        for row in rows
    ]
