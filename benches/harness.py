"""How every benchmark here measures: ratios of CPU time, in one interleaved run.

The machines these run on are noisy, so no absolute figure is worth much. A *row* compares cases that do the same work;
every round runs each case once, in turn, in one process and one event loop, and the ratio to the baseline is taken
round by round. What is reported is the median of those ratios and their 10th and 90th percentiles.
"""

from __future__ import annotations

import asyncio
import gc
import json
import platform
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from statistics import median

Case = Callable[[int], Awaitable[object]]
"""``await case(n)`` does the measured operation ``n`` times."""


@dataclass(frozen=True, slots=True)
class Result:
    """One case of one row."""

    case: str
    ns: float
    """Nanoseconds of CPU time per operation, median over the rounds."""
    ratio: float
    """How many times less than the baseline's, median over the rounds."""
    low: float
    """10th percentile of the ratio."""
    high: float
    """90th percentile of the ratio."""


@dataclass(slots=True)
class Row:
    """One operation: a baseline, our case, other peers."""

    operation: str
    baseline: str
    ours: str
    target: float | None
    """The ratio DESIGN section 7 asks of our case; None when it asks nothing."""
    python: str = field(default_factory=platform.python_version)
    loop: str = "asyncio"
    results: list[Result] = field(default_factory=list)

    def reached(self) -> bool | None:
        """Whether our case meets the target; None without one."""
        if self.target is None:
            return None
        return next(result.ratio for result in self.results if result.case == self.ours) >= self.target


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def compare(  # noqa: PLR0913 (each is a setting of its own)
    operation: str,
    cases: dict[str, Case],
    *,
    n: int,
    rounds: int = 15,
    baseline: str = "asyncio",
    ours: str = "loopwright",
    target: float | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    loop_name: str = "asyncio",
) -> Row:
    """Measures one row and prints it."""
    spent: dict[str, list[float]] = {name: [] for name in cases}
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        for name, case in cases.items():  # warm up: caches, specialised bytecode, free lists
            runner.run(_measure(case, max(1, n // 10)))
            del name
        for _ in range(rounds):
            for name, case in cases.items():
                spent[name].append(runner.run(_measure(case, n)))
    return rated(Row(operation, baseline, ours, target, loop=loop_name), spent, n)


async def compare_here(  # noqa: PLR0913 (each is a setting of its own)
    operation: str,
    cases: dict[str, Case],
    *,
    n: int,
    rounds: int = 15,
    baseline: str,
    ours: str,
    target: float | None = None,
    loop_name: str = "asyncio",
) -> Row:
    """The same for cases that share what lives in the running loop: connections to a server."""
    spent: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        await _measure(case, max(1, n // 10))
    for _ in range(rounds):
        for name, case in cases.items():
            spent[name].append(await _measure(case, n))
    return rated(Row(operation, baseline, ours, target, loop=loop_name), spent, n)


def compare_calls(  # noqa: PLR0913 (each is a setting of its own)
    operation: str,
    cases: dict[str, Callable[[int], object]],
    *,
    n: int,
    rounds: int = 15,
    baseline: str,
    ours: str,
    target: float | None = None,
) -> Row:
    """The same for cases that bring loops of their own: ``case(n)`` is a plain call."""
    spent: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case(max(1, n // 10))
    for _ in range(rounds):
        for name, case in cases.items():
            gc.collect()
            start = time.process_time()
            case(n)
            spent[name].append(time.process_time() - start)
    return rated(Row(operation, baseline, ours, target), spent, n)


def rated(row: Row, spent: dict[str, list[float]], n: int = 1) -> Row:
    """The row of what was measured: seconds for ``n`` operations of each case, round by round."""
    for name, times in spent.items():
        ratios = [base / own for base, own in zip(spent[row.baseline], times, strict=True)]
        row.results.append(
            Result(name, median(times) / n * 1e9, median(ratios), percentile(ratios, 0.1), percentile(ratios, 0.9))
        )
    print_row(row)
    return row


async def _measure(case: Case, n: int) -> float:
    gc.collect()
    gc.disable()
    try:
        start = time.process_time()
        await case(n)
        return time.process_time() - start
    finally:
        gc.enable()


def print_row(row: Row) -> None:
    """One row for people."""
    verdict = {None: "", True: f"  target {row.target}x: reached", False: f"  target {row.target}x: MISSED"}
    print(f"{row.operation} ({row.python}, {row.loop}){verdict[row.reached()]}")
    for result in row.results:
        print(
            f"    {result.case:<28} {result.ns:>12,.0f} ns   {result.ratio:6.2f}x"
            f"  ({result.low:.2f}-{result.high:.2f})",
            flush=True,
        )


def loops() -> dict[str, Callable[[], asyncio.AbstractEventLoop] | None]:
    """The loops to measure on: asyncio's own and, where installed, uvloop."""
    found: dict[str, Callable[[], asyncio.AbstractEventLoop] | None] = {"asyncio": None}
    try:
        import uvloop  # noqa: PLC0415 (optional)
    except ImportError:
        return found
    found["uvloop"] = uvloop.new_event_loop
    return found


def save(rows: list[Row]) -> None:
    """Writes the rows as JSON to the file named by the first argument, if that is one."""
    if len(sys.argv) > 1 and sys.argv[1].endswith(".json"):
        with open(sys.argv[1], "w", encoding="utf-8") as file:
            json.dump([asdict(row) for row in rows], file, indent=1)
