"""The interleaving of a failing schedule as a small table: task, line, what it did.

Lives here: the text for terminals and for the note on the error. Does not live here: the picture (:mod:`._timeline`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopwright.testing._explore import Row

__all__ = ["place", "places_of", "table", "without_note"]

MOST = 40
"""Rows that are shown; of a longer schedule the beginning is left out, for it ends where it broke."""

_HEAD = 5
_SOURCE = 60
_NAME = 24


def table(rows: Sequence[Row], *, most: int = MOST) -> str:
    """The steps of a schedule, one line each. ``*`` marks where another task took over that was not its turn."""
    if not rows:
        return "(no step of the test was recorded)"
    left_out = len(rows) - most
    shown = list(rows) if left_out <= 0 else [*rows[:_HEAD], *rows[_HEAD + left_out :]]
    places = places_of(rows)
    cells = [_cells(row, places[row.step]) for row in shown]
    header = ("step", "time", "task", "line", "what it did")
    widths = [max(len(header[column]), *(len(row[column]) for row in cells)) for column in range(len(header))]
    lines = [_line(header, widths), *(_line(row, widths) for row in cells)]
    if left_out > 0:
        lines.insert(1 + _HEAD, f"{'...':>{widths[0]}}  {left_out} steps are left out")
    return "\n".join(lines)


def places_of(rows: Sequence[Row]) -> dict[int, str]:
    """Where each step ended; of one that ended its task, where it began."""
    places: dict[int, str] = {}
    last: dict[str, str] = {}
    for row in rows:
        here = place(row)
        places[row.step] = here or (f"after {last[row.lane]}" if row.lane in last else "")
        last[row.lane] = here
    return places


def _cells(row: Row, where: str) -> tuple[str, str, str, str, str]:
    source = _short(row.source, _SOURCE)
    done = f"{source}  [{row.what}]" if source and row.what else source or row.what
    return str(row.step), f"{row.time:.6g}", _short(row.task, _NAME), where, done


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    step, time, *texts = cells
    left = [f"{text:{width}}" for text, width in zip(texts, widths[2:], strict=True)]
    return "  ".join([f"{step:>{widths[0]}}", f"{time:>{widths[1]}}", *left]).rstrip()


def place(row: Row) -> str:
    """``file.py:12``, by the file's name alone."""
    return f"{os.path.basename(row.file)}:{row.line}" if row.file else ""


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


@contextmanager
def without_note(error: BaseException) -> Iterator[None]:
    """While the error is shown by somebody who shows the schedule too: leaves out the note that has it."""
    notes = getattr(error, "__notes__", None)
    kept = [note for note in notes or () if not note.startswith("loopwright: ")]
    if notes is None or len(kept) == len(notes):
        yield
        return
    error.__notes__ = kept
    try:
        yield
    finally:
        error.__notes__ = notes
