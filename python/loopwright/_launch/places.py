"""Where things are, for people: ``file.py:12 in serve``."""

from __future__ import annotations

import asyncio
import os
import sys
from types import CodeType, FrameType, TracebackType
from typing import Any

__all__ = ["INSIDE", "raised_at", "stack_of_thread", "task_rows", "waiting_at"]

#: Directories whose code runs on behalf of others.
INSIDE = [
    os.path.dirname(asyncio.__file__) + os.sep,
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,
]
_DEPTH = 20


def _place(code: CodeType, line: int | None) -> str:
    return f"{code.co_filename}:{line or code.co_firstlineno} in {code.co_qualname}"


def _is_inside(code: CodeType) -> bool:
    return code.co_filename.startswith(tuple(INSIDE))


def waiting_at(task: asyncio.Task[Any]) -> str | None:
    """The innermost line that ``task`` is suspended at, as far as the await chain can be followed."""
    awaited: Any = task.get_coro()
    place = None
    for _ in range(1000):
        for frame, code, following in (
            ("cr_frame", "cr_code", "cr_await"),
            ("gi_frame", "gi_code", "gi_yieldfrom"),
            ("ag_frame", "ag_code", "ag_await"),
        ):
            here = getattr(awaited, frame, None)
            if here is not None:
                if place is None or not _is_inside(getattr(awaited, code)):
                    place = _place(getattr(awaited, code), here.f_lineno)
                awaited = getattr(awaited, following, None)
                break
        else:
            break
    return place


def task_rows(tasks: list[asyncio.Task[Any]]) -> list[dict[str, Any]]:
    """``tasks`` grouped by the line that created each, most first."""
    rows: dict[str | None, dict[str, Any]] = {}
    for task in tasks:
        site = getattr(task, "_loopwright_site", None)
        row = rows.get(site)
        if row is None:
            rows[site] = {"created": site, "count": 1, "name": task.get_name(), "waiting_at": waiting_at(task)}
        else:
            row["count"] += 1
    return sorted(rows.values(), key=lambda row: -row["count"])


def raised_at(traceback: TracebackType | None) -> str | None:
    """The innermost line of ``traceback``."""
    if traceback is None:
        return None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return _place(traceback.tb_frame.f_code, traceback.tb_lineno)


def stack_of_thread(ident: int) -> list[str]:
    """The stack of a thread down to the event loop, innermost first."""
    frame: FrameType | None = sys._current_frames().get(ident)
    places: list[str] = []
    while frame is not None and len(places) < _DEPTH:
        if frame.f_code.co_filename == "<frozen runpy>":
            break
        if _is_inside(frame.f_code):
            if frame.f_code.co_name in {"_run", "_run_once", "run_forever", "run_until_complete"}:
                break
        else:
            places.append(_place(frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return places
