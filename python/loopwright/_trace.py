"""What tracing plugs into: the one hook that retries, offloads, processes and HTTP calls look at.

Nothing here knows a tracing library; `integrations/otel.py` sets the hook. Whoever does something worth a span asks
for it as late as possible, so that a program without tracing pays one attribute look-up::

    if _trace.hook is None:
        result = await call()
    else:
        with _trace.hook("loopwright.retry", {"loopwright.name": name, "loopwright.retry.attempt": attempt}):
            result = await call()

Read it at each use (``_trace.hook``), never import it by name: it changes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["hook"]

hook: Callable[[str, dict[str, object]], AbstractContextManager[Any]] | None = None
"""``hook(name, attributes)`` makes a span, entered around the work: an exception that leaves it marks it as failed.

The name begins with ``loopwright.``. Attributes are dotted and lower-case, their values strings, numbers and bools; an
object that was given a name says it as ``loopwright.name``.
"""
