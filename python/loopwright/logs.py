"""Logs: fields of the context, loggers, where lines go, and the way in for existing log calls.

What renders and writes is the extension's; here is what needs :mod:`logging`, :mod:`traceback` or a process's end.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

from loopwright._loopwright import (
    Logger,
    LogSink,
    _after_fork,
    _before_fork,
    _flush_logs,
    _get_logger,
    _log_record,
    _log_sink,
    _provide_fields,
    _set_log_levels,
    _set_log_sink,
    bind,
    bound,
    unbind,
)

__all__ = [
    "LogFilter",
    "LogHandler",
    "LogSink",
    "LogSinkStats",
    "Logger",
    "add_fields",
    "bind",
    "bound",
    "carry",
    "configure_logging",
    "flush_logs",
    "get_logger",
    "unbind",
]

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds that the end of a process leaves to its sinks.
_LAST = 2.0


@dataclass(frozen=True, slots=True)
class LogSinkStats:
    """What a :class:`LogSink` looks like at one moment."""

    written: int
    """Lines that were written."""
    written_bytes: int
    """Bytes of those."""
    dropped: int
    """Lines for which there was no room, or that came after ``close``."""
    failed: int
    """Lines that could not be written: ``last_error`` says why."""
    waiting: int
    """Lines that wait to be written."""
    waiting_bytes: int
    """Bytes of those."""
    peak_bytes: int
    """The most bytes that ever waited."""
    max_bytes: int
    """The most bytes that may wait."""
    last_error: str | None
    """What went wrong last; None if nothing has."""


# Loggers


def get_logger(name: str | None = None) -> Logger:
    """The logger of a name; of the calling module's without one.

    Two loggers of one name are the same in all but the fields that were bound to them. Names are kept for ever, as
    :mod:`logging` keeps its own: what differs from request to request is a field.

    Parameters:
        name: dotted, as modules are. ``configure_logging(levels=...)`` goes by it.
    """
    if name is None:
        name = str(sys._getframe(1).f_globals.get("__name__", "root"))
    return _get_logger(name)


def configure_logging(
    to: Any = None,
    *,
    format: str = "auto",
    level: str | int = "info",
    levels: Mapping[str, str | int] | None = None,
    max_bytes: int = 8 << 20,
) -> LogSink:
    """Says where the lines of all :class:`Logger`s go, how they look, and which are written.

    Without it they go to standard error, from ``info`` on. Nothing of :mod:`logging` is touched, its root logger least
    of all: see :class:`LogHandler` for its lines.

    Parameters:
        to: a path, an open file, a file descriptor, a function, or a :class:`LogSink` that is there already (which then
            has a format and a bound of its own). None: standard error.
        format: ``"json"``, ``"console"``, or ``"auto"``: console on a terminal, else JSON.
        level: the lowest level that is written: ``"debug"``, ``"info"``, ``"warning"``, ``"error"``, ``"critical"``,
            ``"off"``, or a number of :mod:`logging`.
        levels: the same for single names, and all names below them: ``{"app.db": "debug"}``.
        max_bytes: how many bytes of lines may wait to be written.

    Returns:
        The sink. The one before it writes what it has; it is closed with its last reference.

    Raises:
        OSError: ``to`` cannot be opened.
        TypeError, ValueError: an argument makes no sense.
    """
    sink = to if isinstance(to, LogSink) else LogSink(to, format=format, max_bytes=max_bytes, name="logs")
    _set_log_levels(level, dict(levels or {}))
    _set_log_sink(sink)
    return sink


def flush_logs(timeout: float = _LAST) -> bool:
    """Blocks until what was logged so far is written, at most ``timeout`` seconds; on all sinks of the process.

    Returns:
        Whether it is. The end of the process does this by itself; ``os._exit`` does not.
    """
    return _flush_logs(timeout, False)


def add_fields(provider: Callable[[], Mapping[str, Any] | None]) -> Callable[[], None]:
    """Has ``provider()`` called for each line, in the context of the log call; the dict it returns is added.

    For what is not bound but looked up, such as the trace that is under way. Its fields give way to all others of the
    same name. One that raises costs no line: the error is in the field ``fields_error``.

    Parameters:
        provider: quick, and logs nothing itself. Returns a dict, or None for nothing.

    Returns:
        A function that takes it away again.
    """
    _provide_fields(provider, True)
    return lambda: _provide_fields(provider, False)


# Fields for other threads and processes


class _Carried(Generic[P, T]):
    """A function with fields around it, that can be pickled if the function can."""

    __slots__ = ("__wrapped__", "_fields")

    def __init__(self, function: Callable[P, T], fields: dict[str, Any]) -> None:
        self.__wrapped__ = function
        self._fields = fields

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        with bind(**self._fields):
            return self.__wrapped__(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Carried, (self.__wrapped__, {name: _portable(value) for name, value in self._fields.items()})

    def __repr__(self) -> str:
        return f"<carry of {self.__wrapped__!r} with {', '.join(self._fields) or 'no fields'}>"


def carry(function: Callable[P, T]) -> Callable[P, T]:
    """The function, with the fields that are bound now, wherever it is called.

    Tasks, callbacks, ``asyncio.to_thread`` and :func:`loopwright.offload` need no help. A ``threading.Thread``, an
    ``Executor`` and another process begin with an empty context: ``executor.submit(carry(work), item)``.

    Parameters:
        function: a plain function. For a process it has to be one that can be pickled; a field that cannot goes there
            as its text.
    """
    return _Carried(function, bound())


def _portable(value: Any) -> Any:
    if value is None or type(value) in {str, int, float, bool, bytes}:
        return value
    import pickle  # noqa: PLC0415 (only where fields go to a process)

    try:
        pickle.dumps(value)
    except Exception:
        try:
            return repr(value)
        except Exception:
            return f"<unprintable {type(value).__name__}>"
    return value


# logging

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; the rest is from ``extra``."""


class LogHandler(logging.Handler):
    """A :mod:`logging` handler whose lines look like a :class:`Logger`'s and carry the fields of the context.

    Fields are read where the record is handled: behind a ``QueueHandler``, which hands records to another thread, use a
    :class:`LogFilter` on that one. What was passed as ``extra=`` is added, and so are exception and stack.

    It is attached to nothing by itself: ``logging.getLogger("app").addHandler(LogHandler())``.

    Parameters:
        sink: where lines go; without one, where :func:`configure_logging` says.
        level: as of any handler.
    """

    def __init__(self, sink: LogSink | None = None, level: int | str = logging.NOTSET) -> None:
        super().__init__(level)
        self.sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        """Hands the record to the sink. Never waits, and reports its own errors as every handler does."""
        try:
            try:
                event = record.getMessage()
            except Exception:
                event = f"{record.msg!r} {record.args!r}"
            texts = []
            if record.exc_info and record.exc_info[1] is not None:
                texts.append(_traceback(record.exc_info[1]))
            elif record.exc_text:
                texts.append(record.exc_text)
            if record.stack_info:
                texts.append(record.stack_info)
            _log_record(
                self.sink,
                record.created,
                max(0, record.levelno),
                record.levelname.lower(),
                record.name,
                event,
                {name: value for name, value in vars(record).items() if name not in _PLAIN} or None,
                "\n".join(texts) or None,
            )
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """As :meth:`LogSink.flush`."""
        (self.sink or _log_sink()).flush()

    def __repr__(self) -> str:
        return f"<LogHandler {logging.getLevelName(self.level)} {self.sink or 'of configure_logging'!r}>"


class LogFilter(logging.Filter):
    """A :mod:`logging` filter that puts the fields of the context on each record, for the formatters that are there.

    ``%(request_id)s`` in a format then works, a JSON formatter that writes a record's attributes has them all, and
    ``%(bound)s`` is ``request_id=7 user=1``. An attribute that the record has already is left alone.

    Put it on handlers: a filter on a logger is not asked about the records of the loggers below it.

    Parameters:
        defaults: for fields that are not bound, so that a format that names them does not fail.
    """

    def __init__(self, **defaults: Any) -> None:
        super().__init__()
        self.defaults = defaults

    def filter(self, record: logging.LogRecord) -> bool:
        """Adds the fields; every record passes."""
        fields = bound()
        attributes = vars(record)
        for name, value in (self.defaults | fields).items():
            attributes.setdefault(name, value)
        attributes.setdefault("bound", " ".join(f"{name}={value}" for name, value in fields.items()))
        return True


def _traceback(exception: BaseException) -> str:
    """The text of an exception, its causes and the members of its groups. Called by the extension too."""
    try:
        return "".join(traceback.format_exception(exception)).rstrip("\n")
    except Exception as error:
        return f"<unprintable {type(exception).__name__}: {type(error).__name__}>"


# The process


def _at_exit() -> None:
    _flush_logs(_LAST, True)


def _finalize(_: object = None) -> None:
    sys.modules["multiprocessing.util"].Finalize(None, _at_exit, exitpriority=0)


def _tell_multiprocessing() -> None:
    """A child of ``multiprocessing`` may end without :mod:`atexit`; it asks a list of its own, which it begins anew."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.register_after_fork(_at_exit, _finalize)


def _is_begun_child() -> bool:
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None


atexit.register(_at_exit)
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_tell_multiprocessing)
_tell_multiprocessing()
if _is_begun_child():  # imported by the function that it runs
    _finalize()
