"""What the middlewares for ASGI and aiohttp share: request ids, deadlines, and the access line."""

from __future__ import annotations

import asyncio
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from loopwright.logs import Logger, get_logger

__all__ = ["Access", "FieldsOf", "Outcome", "access_logger", "deadline", "request_id"]

#: What is taken from a client as an id: it goes into every line and back out in a header.
_ID = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}\Z")

FieldsOf = Callable[[Any], Mapping[str, Any]]
"""More fields from a request."""

Outcome = str
"""``ok``, ``error``, ``timeout``, ``cancelled`` or ``disconnected``."""

_SERVER_ERROR = 500


def request_id(given: str | None) -> str:
    """The id that came with the request, if it is harmless; else a new one of 128 random bits."""
    if given is not None and _ID.match(given):
        return given
    return os.urandom(16).hex()


def deadline(value: float | None, what: str) -> float | None:
    """Seconds, checked at the door; None for no deadline."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value) or value <= 0:
        raise ValueError(f"{what} must be a number of seconds above 0, or None for no deadline, got {value!r}")
    return None if math.isinf(value) else float(value)


class Access:
    """The one line of a request, written when its outcome is known."""

    __slots__ = ("_event", "_log", "_start", "fields", "outcome", "size", "status", "written")

    def __init__(self, logger: Logger | None, event: str, fields: Mapping[str, Any]) -> None:
        self._log = logger
        self._event = event
        self._start = time.perf_counter()
        self.fields = dict(fields)
        self.status: int | None = None
        self.size: int | None = 0
        self.outcome: Outcome = "ok"
        self.written = False

    def grows(self, bytes_sent: int) -> None:
        """So much more of the body was sent."""
        self.size = (self.size or 0) + bytes_sent

    def end(self, error: BaseException | None = None) -> None:
        """Writes the line, unless it is written. ``error``: what the application raised."""
        if self.written:
            return
        self.written = True
        if error is not None and self.outcome == "ok":
            self.outcome = "cancelled" if isinstance(error, asyncio.CancelledError) else "error"
        if self._log is None:
            return
        failed = self.outcome in {"error", "timeout"} or (self.status or 0) >= _SERVER_ERROR
        fields = self.fields | {
            "status": self.status,
            "outcome": self.outcome,
            "duration": round(time.perf_counter() - self._start, 6),
            "size": self.size,
        }
        if error is not None and self.outcome == "error":
            fields["exc_info"] = error
        self._log.log("error" if failed else "info", self._event, **fields)


def access_logger(access: bool | str) -> Logger | None:
    """The logger that ``access=`` means."""
    if access is False:
        return None
    return get_logger("loopwright.access" if access is True else access)
