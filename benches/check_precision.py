"""Draws the findings that are judged by reading, and counts the verdicts.

``python benches/check_precision.py draw WORKSHEET`` takes what our checker found in the runs of check_corpus.py and
writes 100 of them with the code they are about, the verdicts left empty. ``... count WORKSHEET`` says what the filled
worksheet amounts to.

Every finding that is shown by default has the same chance, but no project gives more than ten. The seed was fixed
before anything was read. A round whose findings have led to changes of the checker measures nothing any more: the
figure is that of a later round, over a new run, with none of the findings of the earlier ones.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SEED = 20261122
SIZE = 100
MOST = 10
"""Findings of one project."""
PROJECTS = 15
"""At least so many."""

Finding = dict[str, Any]
PLACE = re.compile(r"^### \d+\. `(\S+?)` `(.+?):(\d+)` (LW\d+)", re.MULTILINE)
VERDICT = re.compile(r"^- (true|worth fixing): *(yes|no)?", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["draw", "count"])
    parser.add_argument("worksheet", type=Path)
    parser.add_argument("--cache", type=Path, default=ROOT / "target" / "check-corpus", help="that of check_corpus.py")
    parser.add_argument("--round", type=int, default=1)
    parser.add_argument("--without", type=Path, action="append", default=[], help="worksheet of an earlier round")
    options = parser.parse_args()
    if options.step == "count":
        print(tally(options.worksheet.read_text()))
        return
    if options.worksheet.exists():
        sys.exit(f"{options.worksheet} exists; verdicts are not overwritten")
    read = {place for earlier in options.without for place in PLACE.findall(earlier.read_text())}
    population = [(project, found) for project, found in findings(options.cache) if place(project, found) not in read]
    sample = drawn(population, options.round)
    options.worksheet.write_text(worksheet(sample, len(population), options.round))


def findings(cache: Path) -> list[tuple[str, Finding]]:
    """All findings with their projects, in an order that does not depend on the run; paths relative to the project."""
    found = []
    for output in sorted((cache / "findings" / "loopwright").glob("*.out")):
        project = output.stem
        (folder,) = (cache / "projects").glob(f"{project}-[0-9]*")
        try:
            entries = json.loads(output.read_text())["findings"]
        except ValueError:
            continue  # a run that failed; check_corpus.py has told of it
        for entry in entries:
            entry["folder"] = folder.resolve()
            entry["path"] = relative(entry["path"], folder)
            found.append((project, entry))
    return sorted(found, key=lambda pair: (*place(*pair), pair[1]["column"]))


def relative(path: str, folder: Path) -> str:
    return str((folder.resolve() / path).relative_to(folder.resolve()))


def place(project: str, finding: Finding) -> tuple[str, str, str, str]:
    return (project, finding["path"], str(finding["line"]), finding["rule"])


def drawn(population: list[tuple[str, Finding]], round_: int) -> list[tuple[str, Finding]]:
    """The sample of this round."""
    order = population.copy()
    random.Random(SEED + round_).shuffle(order)
    taken: Counter[str] = Counter()
    sample = []
    for project, finding in order:
        if taken[project] < MOST and len(sample) < SIZE:
            taken[project] += 1
            sample.append((project, finding))
    if len(taken) < PROJECTS or len(sample) < SIZE:
        print(f"only {len(sample)} findings of {len(taken)} projects", file=sys.stderr)
    return sorted(sample, key=lambda pair: place(*pair))


def worksheet(sample: list[tuple[str, Finding]], population: int, round_: int) -> str:
    projects = len({project for project, _ in sample})
    parts = [
        f"Round {round_}, seed {SEED}: {len(sample)} of {population} findings, from {projects} projects, drawn by "
        "`benches/check_precision.py`.\n"
    ]
    for number, (project, finding) in enumerate(sample, 1):
        tags = ", ".join([finding["level"], *finding.get("tags", [])])
        parts.append(f"### {number}. `{project}` `{finding['path']}:{finding['line']}` {finding['rule']} ({tags})\n")
        parts.append(f"{finding['message']}; {finding['why'] or 'about this one place'}\n")
        frames = finding["frames"] or [{"path": finding["path"], "line": finding["line"], "function": ""}]
        parts += [quoted(frame, finding["folder"]) for frame in frames]
        parts.append("- true:\n- worth fixing:\n- why:\n")
    return "\n".join(parts)


def quoted(frame: Finding, folder: Path) -> str:
    """The line of a frame with those around it; of dependencies, too."""
    path = folder / frame["path"]
    shown = str(path.relative_to(folder)) if path.is_relative_to(folder) else "/".join(path.parts[-4:])
    heading = f"`{shown}:{frame['line']}` {frame.get('function', '')}".rstrip()
    if not path.exists():
        return f"{heading}\n"
    lines = path.read_text(errors="replace").split("\n")
    first, last = max(frame["line"] - 3, 1), min(frame["line"] + 1, len(lines))
    width = len(str(last))
    code = "\n".join(
        f"{number:{width}}{'>' if number == frame['line'] else ' '} {lines[number - 1]}".rstrip()
        for number in range(first, last + 1)
    )
    return f"{heading}\n\n```python notest\n{code}\n```\n"


def tally(text: str) -> str:
    """What the verdicts amount to, for all and for each rule."""
    sections = re.split(r"^(?=### \d+\. )", text, flags=re.MULTILINE)[1:]
    totals: Counter[tuple[str, str]] = Counter()
    for section in sections:
        rule = PLACE.match(section)
        assert rule, section[:200]
        verdicts = dict(VERDICT.findall(section))
        if not verdicts.get("true"):
            sys.exit(f"no verdict: {section.splitlines()[0]}")
        for key in ("all", rule[4]):
            totals[key, "findings"] += 1
            totals[key, "true"] += verdicts["true"] == "yes"
            totals[key, "worth"] += verdicts["worth fixing"] == "yes"
    rows = ["| rule | findings | true | worth fixing |", "|---|---|---|---|"]
    for key in sorted({key for key, _ in totals}, key=lambda key: (key != "all", key)):
        rows.append(
            "| " + " | ".join([key, *(str(totals[key, column]) for column in ("findings", "true", "worth"))]) + " |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
