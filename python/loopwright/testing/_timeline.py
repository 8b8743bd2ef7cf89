"""A failing schedule as a picture: one HTML page, a column for each task, time going down.

The page stands alone: no script, nothing from elsewhere, readable in light and dark and without colours.

Lives here: the page, and the same as data. Does not live here: the table for terminals (:mod:`._table`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from loopwright.testing._table import places_of

if TYPE_CHECKING:
    from loopwright.testing._explore import Failure, Row

__all__ = ["as_data", "timeline"]

HUES = (210, 30, 150, 280, 90, 340, 185, 55)
"""Of the tasks' columns; with more tasks they come again."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #666d75; --paper: #fdfdfc; --line: #d9dce0; --bad: #b3261e;
  --bad-paper: #fdecea; --light: 92%; --edge: 42%; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6ea; --soft: #9aa1aa; --paper: #16181b; --line: #353a40;
  --bad: #ff8a80; --bad-paper: #3a1f1d; --light: 19%; --edge: 62%; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem; }
h1 { font-size: 1.2rem; margin: 0 0 .5rem; } p { margin: .3rem 0; color: var(--soft); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--bad-paper); color: var(--bad);
  border-left: .3rem solid; padding: .6rem 1rem; }
code, pre, td, th { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 13px; }
p code { color: var(--ink); user-select: all; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin-top: 1.5rem; } table { border-collapse: collapse; }
th { position: sticky; top: 0; background: var(--paper); text-align: left; padding: .4rem .6rem;
  border-bottom: 2px solid var(--line); white-space: nowrap; } th small { display: block; font-weight: normal;
  color: var(--soft); }
td { padding: .15rem .6rem; vertical-align: top; border-left: 1px solid var(--line); min-width: 4rem; }
td.n { border: 0; text-align: right; color: var(--soft); min-width: 0; white-space: nowrap; }
td.on { background: hsl(var(--hue) 60% var(--light)); border-left: .3rem solid hsl(var(--hue) 60% var(--edge)); }
td.on small { display: block; color: var(--soft); } tr.switch td { border-top: 1px dashed var(--soft); }
tr.later td { border-top: 2px solid var(--line); }
tr.last td.on { outline: 2px solid var(--bad); outline-offset: -2px; }
"""


def timeline(failure: Failure, *, title: str, command: str) -> str:
    """The page of a failure: what broke, how to run it again, and every step in its task's column."""
    lanes = _lanes(failure.rows)
    columns = {lane: number for number, (lane, _) in enumerate(lanes)}
    heads = "".join(f"<th>{escape(task)}<small>{escape(lane)}</small></th>" for lane, task in lanes)
    body = "\n".join(_rows(failure.rows, columns))
    error = f"{type(failure.error).__name__}: {failure.error}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<pre>{escape(error)}</pre>
<p>{escape(_facts(failure))}</p>
<p>run it again: <code>{escape(command)}</code></p>
<div class="wide"><table>
<thead><tr><th>step</th><th>time</th>{heads}</tr></thead>
<tbody>
{body}
</tbody>
</table></div>
</body>
</html>
"""


def _rows(rows: Sequence[Row], columns: dict[str, int]) -> Iterator[str]:
    before: Row | None = None
    places = places_of(rows)
    for row in rows:
        kinds = []
        if before is not None and row.time != before.time:
            kinds.append("later")
        elif before is not None and row.lane != before.lane:
            kinds.append("switch")
        if row is rows[-1]:
            kinds.append("last")
        column = columns[row.lane]
        hue = HUES[column % len(HUES)]
        full = f"{row.file}:{row.line}" if row.file else places[row.step]
        said = " ".join(filter(None, [places[row.step], row.what if row.source else ""]))
        step = (
            f'<td class="on" style="--hue:{hue}" title="{escape(full)}">{escape(row.source or row.what)}'
            f"<small>{escape(said)}</small></td>"
        )
        cells = [*["<td></td>"] * column, step, *["<td></td>"] * (len(columns) - column - 1)]
        yield (
            f'<tr class="{" ".join(kinds)}"><td class="n">{row.step}</td><td class="n">{row.time:.6g}</td>'
            f"{''.join(cells)}</tr>"
        )
        before = row


def _lanes(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Lanes and the names of their tasks, in the order of creation: "0.10" comes after "0.2"."""
    names: dict[str, str] = {}
    for row in rows:
        names.setdefault(row.lane, row.task)
    return sorted(names.items(), key=lambda item: _path(item[0]))


def _path(lane: str) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in lane.split(".")]


def _facts(failure: Failure) -> str:
    return (
        f"schedule {failure.schedule} of {failure.strategy}, level {failure.level}; "
        f"{failure.preemptions} decisions away from asyncio's own order"
    )


def as_data(failure: Failure, *, title: str, command: str) -> dict[str, Any]:
    """The same for programs."""
    return {
        "test": title,
        "error": {"type": type(failure.error).__name__, "message": str(failure.error)},
        "replay": failure.replay,
        "command": command,
        "schedule": failure.schedule,
        "strategy": failure.strategy,
        "level": failure.level,
        "preemptions": failure.preemptions,
        "rows": [
            {name: getattr(row, name) for name in ("step", "time", "lane", "task", "file", "line", "source", "what")}
            for row in failure.rows
        ],
    }
