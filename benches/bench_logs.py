"""A log line with bound fields, against structlog's and logging's JSON; and a call below its logger's level.

``python benches/bench_logs.py [FILE.json]``. All write one line a call to the same kind of file; ours from its thread,
whose time is counted.
"""

from __future__ import annotations

import contextvars
import json
import logging
import tempfile
from collections.abc import Callable
from typing import IO, Any

import structlog
from harness import Row, compare_calls, save

from loopwright import LogSink, bind, configure_logging, flush_logs, get_logger

FIELDS = {"request_id": "0123456789abcdef0123456789abcdef", "user": 7, "path": "/orders"}
request = contextvars.ContextVar("request", default=FIELDS)


def by_structlog(file: IO[str]) -> Any:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(**FIELDS)
    return structlog.get_logger("app")


class JSONFormatter(logging.Formatter):
    """What one writes by hand for logging."""

    def format(self, record: logging.LogRecord) -> str:
        """A line."""
        line = {"timestamp": self.formatTime(record), "level": record.levelname, "event": record.getMessage()}
        return json.dumps(line | request.get() | record.fields)  # type: ignore[attr-defined]


def by_logging(file: IO[str]) -> logging.Logger:
    logger = logging.Logger("app", logging.INFO)
    handler = logging.StreamHandler(file)
    handler.setFormatter(JSONFormatter())
    logger.addHandler(handler)
    return logger


def line(log: Any) -> Callable[[int], None]:
    def case(n: int) -> None:
        info = log.info
        for number in range(n):
            info("order placed", order=number, total=12.5, currency="EUR")

    return case


def ours(log: Any) -> Callable[[int], None]:
    """As `line`; what is written behind is waited for, and so measured."""
    lines = line(log)

    def case(n: int) -> None:
        with bind(**FIELDS):
            lines(n)
        assert flush_logs(30)

    return case


def std_line(log: logging.Logger) -> Callable[[int], None]:
    def case(n: int) -> None:
        for number in range(n):
            log.info("order placed", extra={"fields": {"order": number, "total": 12.5, "currency": "EUR"}})

    return case


def filtered(log: Any) -> Callable[[int], None]:
    def case(n: int) -> None:
        for number in range(n):
            log.debug("order placed", order=number, total=12.5)

    return case


def nothing(n: int) -> None:
    for number in range(n):
        _nothing("order placed", order=number, total=12.5)


def _nothing(event: str, **fields: Any) -> None:
    del event, fields


def blocks(n: int) -> None:
    for number in range(n):
        with bind(user=number):
            pass


def structlog_blocks(n: int) -> None:
    for number in range(n):
        with structlog.contextvars.bound_contextvars(user=number):
            pass


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        files = {name: open(f"{directory}/{name}", "a", buffering=1) for name in ("structlog", "logging")}  # noqa: SIM115
        theirs, std = by_structlog(files["structlog"]), by_logging(files["logging"])
        sink = LogSink(f"{directory}/loopwright", format="json", max_bytes=256 << 20)
        configure_logging(sink)
        log = get_logger("app")
        rows: list[Row] = [
            compare_calls(
                "structured log line",
                {"structlog": line(theirs), "logging": std_line(std), "loopwright": ours(log)},
                n=20_000,
                baseline="structlog",
                ours="loopwright",
                target=10,
            ),
            compare_calls(
                "log call below its level",
                {"structlog": filtered(theirs), "Python function": nothing, "loopwright": filtered(log)},
                n=200_000,
                baseline="structlog",
                ours="loopwright",
            ),
            compare_calls(
                "with bind(field)",
                {"structlog": structlog_blocks, "loopwright": blocks},
                n=50_000,
                baseline="structlog",
                ours="loopwright",
            ),
        ]
        assert sink.stats().dropped == 0
        sink.close(30)
        for file in files.values():
            file.close()
    save(rows)


if __name__ == "__main__":
    main()
