"""What tracing plugs into: the hooks that retries, offloads, processes, HTTP calls and log lines look at.

Nothing here knows a tracing library; `integrations/otel.py` sets the hooks. Whoever does something worth a span asks
for it as late as possible, so that a program without tracing pays one attribute look-up::

    if _trace.hook is None:
        result = await call()
    else:
        with _trace.hook("loopwright.retry", {"loopwright.name": name, "loopwright.retry.attempt": attempt}):
            result = await call()

Read them at each use (``_trace.hook``), never import them by name: they change.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["hook", "ids"]

hook: Callable[[str, dict[str, object]], AbstractContextManager[Any]] | None = None
"""``hook(name, attributes)`` makes a span, entered around the work: an exception that leaves it marks it as failed.

The name begins with ``loopwright.``. Attributes are dotted and lower-case, their values strings, numbers and bools; an
object that was given a name says it as ``loopwright.name``.
"""

ids: Callable[[], dict[str, str] | None] | None = None
"""``ids()`` tells the ``trace_id`` and ``span_id`` of the span that the caller is in, in hexadecimal, for log lines;
None outside of any.
"""
