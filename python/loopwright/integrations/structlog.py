"""structlog: its log calls carry the fields of the context, and may be rendered in Rust and written by our thread.

Each piece stands alone. structlog itself is not imported.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

from loopwright._loopwright import _log_sink, _render_json
from loopwright.logs import LogSink, _traceback, bound

__all__ = ["JSONRenderer", "LoggerFactory", "merge_bound"]


def merge_bound(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor: adds what :func:`loopwright.bind` has bound. What the call or the logger has already stays.

    Put it where ``structlog.contextvars.merge_contextvars`` stands, or beside it.
    """
    for field, value in bound().items():
        event.setdefault(field, value)
    return event


class JSONRenderer:
    """The last processor, in place of ``structlog.processors.JSONRenderer()``: one line of JSON, rendered in Rust.

    No value makes it fail, see :func:`loopwright.get_logger`. ``exc_info`` becomes ``exception``, a traceback's text,
    so ``format_exc_info`` is not needed.
    """

    __slots__ = ()

    def __call__(self, logger: Any, name: str, event: Mapping[str, Any]) -> str:
        """The line, without its line break."""
        fields = dict(event)
        given = fields.pop("exc_info", None)
        if given:
            error = given[1] if isinstance(given, tuple) else given
            error = error if isinstance(error, BaseException) else sys.exception()
            if error is not None:
                fields["exception"] = _traceback(error)
        return _render_json(fields)


class LoggerFactory:
    """For ``structlog.configure(logger_factory=...)``: lines go to a :class:`loopwright.LogSink`, which never blocks.

    Parameters:
        sink: where to; without one, where :func:`loopwright.configure_logging` says.
    """

    __slots__ = ("_sink",)

    def __init__(self, sink: LogSink | None = None) -> None:
        self._sink = sink

    def __call__(self, *args: Any) -> _SinkLogger:
        """What structlog's loggers write to."""
        return _SinkLogger(self._sink)


class _SinkLogger:
    __slots__ = ("_sink",)

    def __init__(self, sink: LogSink | None) -> None:
        self._sink = sink

    def msg(self, message: str) -> None:
        (self._sink or _log_sink()).write(message)

    def warning(self, message: str) -> None:
        (self._sink or _log_sink()).write(message, matters=True)

    log = debug = info = msg
    warn = error = err = exception = failure = critical = fatal = warning
