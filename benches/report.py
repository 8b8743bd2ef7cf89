"""Turns the results of ``make bench`` into docs/benchmarks.md. ``python benches/report.py RESULTS_DIRECTORY``

A row that misses its target says so. ``benches/notes.md``, written by hand, is appended: what the missed rows cost, and
why. So are the pages that the benchmarks of the analyser write for themselves, ``benches/check_*.md``.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))

import debian  # noqa: E402 (of tools/)

HEADER = """# Benchmarks

Written by `make bench`; do not edit. Each figure is a ratio of CPU time: how many times less than the baseline's,
median over the rounds of one interleaved run in one process, with the 10th and 90th percentiles. Nanoseconds are the
median CPU time of one operation on this machine, and good for little else. **Missed** marks a ratio below our target.
Rows that say "wall time" or "p99" are of time that passed, on a server that shares the machine.
"""


def main() -> None:
    rows = [row for path in sorted(Path(sys.argv[1]).glob("*.json")) for row in json.loads(path.read_text())]
    if not rows:
        sys.exit(f"{sys.argv[1]} has no results")
    by_operation: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_operation[row["operation"]].append(row)
    parts = [HEADER, surroundings(rows), summary(by_operation)]
    parts += [section(operation, found) for operation, found in by_operation.items()]
    notes = ROOT / "benches" / "notes.md"
    if notes.exists():
        parts.append(notes.read_text())
    parts += [path.read_text() for path in sorted((ROOT / "benches").glob("check_*.md"))]
    (ROOT / "docs" / "benchmarks.md").write_text("\n".join(parts))


def order(row: dict[str, Any]) -> tuple[int, str]:
    return int(row["python"].split(".")[1]), row["loop"]


def ours(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(result for result in row["results"] if result["case"] == row["ours"])
    return found


def missed(row: dict[str, Any]) -> bool:
    return row["target"] is not None and ours(row)["ratio"] < row["target"]


def ratio(result: dict[str, Any]) -> str:
    return f"{result['ratio']:.2f} ({result['low']:.2f}-{result['high']:.2f})"


def surroundings(rows: list[dict[str, Any]]) -> str:
    pythons = sorted({row["python"] for row in rows}, key=lambda version: [int(part) for part in version.split(".")])
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    peers = [pin.replace("==", " ") for group in ("bench", "servers") for pin in groups[group]]
    return (
        f"{date.today().isoformat()}: CPython {', '.join(pythons)} on {platform.system()} {platform.machine()}; "
        f"{', '.join([*sorted(peers), *servers()])}.\n"
    )


def servers() -> list[str]:
    """The servers that some rows are measured on, where they are installed."""
    found = []
    for name, program in {"PostgreSQL": "postgres", "Redis": "redis-server"}.items():
        if path := debian.find(program):
            said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
            version = re.search(r"\d[\d.]*", said)
            found.append(f"{name} {version[0] if version else said.strip()}")
    return found


def summary(by_operation: dict[str, list[dict[str, Any]]]) -> str:
    """One line an operation: our ratio on each interpreter and loop."""
    columns = sorted({order(row) for rows in by_operation.values() for row in rows}, key=lambda key: (key[1], key[0]))
    lines = [
        "## Summary\n",
        f"| operation, against | target | {' | '.join(f'3.{minor} {loop}' for minor, loop in columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for operation, rows in by_operation.items():
        cells = {order(row): f"{ours(row)['ratio']:.2f}{' **missed**' if missed(row) else ''}" for row in rows}
        targets = sorted({row["target"] for row in rows if row["target"] is not None})
        target = f">= {' or '.join(f'{target:.3g}' for target in targets)}" if targets else ""
        shown = " | ".join(cells.get(column, "") for column in columns)
        lines.append(f"| {operation}, {rows[0]['baseline']} | {target} | {shown} |")
    return "\n".join(lines) + "\n"


def section(operation: str, rows: list[dict[str, Any]]) -> str:
    """Every case of one operation."""
    lines = [f"## {operation}\n", "| case | CPython | loop | ns | times less (p10-p90) |", "|---|---|---|---|---|"]
    for row in sorted(rows, key=order):
        for result in row["results"]:
            name = f"**{result['case']}**" if result["case"] == row["ours"] else result["case"]
            mark = f" **missed: target {row['target']:.3g}**" if result["case"] == row["ours"] and missed(row) else ""
            lines.append(f"| {name} | {row['python']} | {row['loop']} | {result['ns']:,.0f} | {ratio(result)}{mark} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
