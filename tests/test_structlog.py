"""structlog with our fields, renderer and sink."""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest
from support import requires

from loopwright import LogSink, bind
from loopwright.integrations.structlog import JSONRenderer, LoggerFactory, merge_bound

structlog = requires.module("structlog")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_existing_log_calls_carry_the_fields() -> None:
    out = io.StringIO()
    structlog.configure(
        processors=[merge_bound, structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(out),
    )
    with bind(user=1, kind="bound"):
        structlog.get_logger().bind(kind="own").info("hello", rows=2)
    structlog.get_logger().info("after")
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"event": "hello", "level": "info", "user": 1, "kind": "own", "rows": 2},
        {"event": "after", "level": "info"},
    ]


def test_lines_are_rendered_and_written_by_us() -> None:
    lines: list[str] = []
    sink = LogSink(lines.append)
    structlog.configure(
        processors=[merge_bound, structlog.processors.add_log_level, JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=LoggerFactory(sink),
    )
    log: Any = structlog.get_logger()
    with bind(user=1):
        log.info("hello", odd=math.nan, cycle=[])
        try:
            raise ExceptionGroup("several", [ValueError("inner")])
        except ExceptionGroup:
            log.exception("failed")
        log.warning("w")
        log.debug("filtered")
    assert sink.flush(30)
    first, second, third = map(json.loads, lines)
    assert first == {"odd": "NaN", "cycle": [], "event": "hello", "user": 1, "level": "info"}
    assert "ValueError: inner" in second["exception"]
    assert "exc_info" not in second
    assert third["level"] == "warning"
    assert all(line.endswith("}\n") and line.count("\n") == 1 for line in lines)
