"""Writes ``docs/corpus.md``: which detector finds which defect, in how many runs and how long; measured here and now.

``PYTHONPATH=tests python -m corpus.table`` from the root of the repository.
"""

from __future__ import annotations

import asyncio
import datetime
import platform
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from corpus import DETECTORS, Program, defects, look_alikes
from corpus.detectors import DELAYS, Found, detect, search, sweep
from corpus.guarantees import guarantees, holds
from loopwright import __version__
from loopwright.testing import SweepFailure

PAGE = Path(__file__).parents[2] / "docs" / "corpus.md"
SEARCHES, RUNS, SYSTEMATIC = 5, 1_000, 2_000
SEEDS, REAL_SEEDS, CHAOS_SEEDS = 1_000, 50, 100
LOOK_ALIKE_RUNS = 300

HEAD = """\
# The corpus: what the proof kit finds

`tests/corpus/` has {defects} small programs with one flaw each, every one of a different kind; {alikes} look-alikes,
which are the same programs done right; and {guarantees} programs that are correct by what asyncio documents. The tests
hold the kit against them: every defect is found by the detector named here, no look-alike is reported by any, and none
of the correct programs ever fails.

Measured on {date} with Loopwright {version} on CPython {python}, {machine}, beside other
work: take the times for their order of magnitude. `PYTHONPATH=tests python -m corpus.table` writes this page.
"""

ORDER = f"""\
## Defects of order

None of them fails when tasks run first in, first out, as in an ordinary test. The numbers are the run in which it was
found: of `random` and `pct` (depth 3) the median and the worst of {SEARCHES} searches; of `delays` (bound {DELAYS}) and
`dpor`, which leave nothing to chance, the one there is. The time is that of one random search with its shrinking and
its report.

| program | the flaw | random | pct | delays | dpor | found in |
|---|---|---|---|---|---|---|"""

CANCELS = """\

## Defects under cancellation

Each passes while nobody is cancelled. A sweep takes one run for each point. Its waves: a cancel, a second one inside
the clean-up (`again`), a timeout, an error of the awaited call, a cancel before the first step (`early`).

| program | the flaw | points that break | runs | waves that show it | took |
|---|---|---|---|---|---|"""

ONE_RUN = """\

## Defects that one run shows

What hangs on a real loop is a `Deadlock` at once; what is left behind, an ordinary test does not look at; what takes
an hour takes milliseconds of virtual time.

| program | the flaw | found by | runs | took |
|---|---|---|---|---|"""

LOOK_ALIKES = """\

## Look-alikes

| detector | look-alikes | runs of each | reported |
|---|---|---|---|"""

GUARANTEES = f"""\

## Programs that are correct by what asyncio documents

{SEEDS:,} seeds each at the levels `timing` and `task` (programs on sockets and threads: {REAL_SEEDS} here, {SEEDS:,} in
`make stress`); a failure would be a false alarm. At `chaos` callbacks overtake each other against what asyncio
promises; the last column has the first of {CHAOS_SEEDS} seeds at which the program fails there. A program that no order
can break proves little.

| program | stands on | seeds | false alarms | at `chaos` |
|---|---|---|---|---|"""


def rows() -> Iterator[str]:
    all_defects, alikes = defects(), look_alikes()
    correct = list(guarantees())
    yield HEAD.format(
        defects=len(all_defects),
        alikes=len(alikes),
        guarantees=len(correct),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        version=__version__,
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
    )
    by = {detector: [program for program in all_defects if program.found_by == detector] for detector in DETECTORS}
    yield ORDER
    yield from map(order_row, by["order"])
    yield CANCELS
    yield from map(sweep_row, by["sweep"])
    yield ONE_RUN
    for detector in ("deadlock", "leaks", "time", "timing"):
        yield from map(single_row, by[detector])
    yield LOOK_ALIKES
    yield from look_alike_rows(alikes)
    yield GUARANTEES
    failing = 0
    for program in correct:
        seeds = REAL_SEEDS if program.real else SEEDS
        alarms = sum(not holds(program, seeds, level) for level in ("timing", "task"))
        chaos = next((seed for seed in range(CHAOS_SEEDS) if not holds(program, 1, "chaos", first_seed=seed)), None)
        failing += chaos is not None
        shown = "holds" if chaos is None else f"fails at {chaos}"
        yield f"| `{program.name}` | {quote(program.main.__doc__ or '')} | 2 x {seeds:,} | {alarms} | {shown} |"
    yield f"\n{failing} of the {len(correct)} fail at `chaos`."


def order_row(program: Program) -> str:
    cells = []
    took = ""
    for strategy in ("random", "pct"):
        found = [search(program, strategy, RUNS, first_seed=10_000 * index) for index in range(SEARCHES)]
        runs = [each.runs for each in found if each is not None]
        cells.append(f"{statistics.median(runs):.0f} ({max(runs)})" if len(runs) == SEARCHES else f"over {RUNS}")
        took = took or milliseconds(found[0])
    for strategy in ("delays", "dpor"):
        one = search(program, strategy, SYSTEMATIC)
        cells.append("not found" if one is None else f"{one.runs}")
    return f"| `{program.name}` | {program.kind} | {' | '.join(cells)} | {took} |"


def sweep_row(program: Program) -> str:
    found = sweep(program)
    assert found is not None and isinstance(found.error, SweepFailure), f"{program} is not found"
    report = found.error.report
    waves = list(dict.fromkeys(point.wave for point in report.failures))
    broken = f"{len(report.failures)} of {len(report.points)}"
    return (
        f"| `{program.name}` | {program.kind} | {broken} | {report.runs} | {', '.join(waves)} | {milliseconds(found)} |"
    )


def single_row(program: Program) -> str:
    assert program.found_by is not None
    found = detect(program, program.found_by, program.within)
    assert found is not None, f"{program} is not found"
    by = f"{program.found_by} (`{type(found.error).__name__}`)"
    return f"| `{program.name}` | {program.kind} | {by} | {found.runs} | {milliseconds(found)} |"


def look_alike_rows(alikes: list[Program]) -> Iterator[str]:
    plain = [program for program in alikes if not program.plays]
    short = [program for program in alikes if program.module != "clocks"]
    for strategy in ("random", "pct", "dpor"):
        reported = sum(search(program, strategy, LOOK_ALIKE_RUNS) is not None for program in plain)
        yield f"| {strategy} | {len(plain)} | up to {LOOK_ALIKE_RUNS} | {reported} |"
    yield f"| sweep | {len(short)} | one for each point | {sum(sweep(program) is not None for program in short)} |"
    for detector in ("deadlock", "leaks"):
        yield f"| {detector} | {len(plain)} | 1 | {sum(detect(program, detector) is not None for program in plain)} |"


def milliseconds(found: Found | None) -> str:
    return "-" if found is None else f"{found.seconds * 1000:.1f} ms"


def quote(docstring: str) -> str:
    """The sentence of the documentation that a docstring quotes."""
    text = " ".join(docstring.split())
    found = re.search(r'"(.+?)"', text)
    return f'"{found[1]}"'.replace("|", "\\|") if found else ""


if __name__ == "__main__":
    asyncio.set_event_loop(None)
    PAGE.write_text("\n".join(rows()) + "\n")
    print(f"wrote {PAGE}", file=sys.stderr)
