"""Defects of real, released libraries, unmodified, that the kit finds: ``examples/found`` and ``docs/found.md``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from support import requires

from loopwright.testing import Deadlock, Play, Point, SweepFailure, cancel_sweep, run

FOUND = Path(__file__).parent.parent / "examples" / "found"


def broken(scenario: Callable[[Play], Coroutine[Any, Any, None]]) -> dict[tuple[str, str, str], Point]:
    """The points at which one cancel breaks a scenario: by victim, moment and the innermost awaiting function."""
    with pytest.raises(SweepFailure) as caught:
        cancel_sweep(scenario, waves=["cancel"])
    report = caught.value.report
    assert report is not None, caught.value
    return {(point.victim, point.moment, point.chain[-1][0]): point for point in report.failures}


def test_connection_pool_counts_a_connect_that_was_cancelled_before_it_began() -> None:
    """asyncio-connection-pool, the first of four: cancelled right after `get_connection()` has started."""
    requires.module("asyncio_connection_pool")
    from found import connection_pool  # noqa: PLC0415 (it imports what may be missing)

    points = broken(connection_pool.one_connection_for_two)
    assert points["first", "waiting", "ConnectionPool.get_connection"].verdict == "hang"


def test_connection_pool_loses_a_connection_cancelled_when_it_became_ready() -> None:
    """The second: cancelled when the connection is there and its client has not resumed."""
    requires.module("asyncio_connection_pool")
    from found import connection_pool  # noqa: PLC0415

    points = broken(connection_pool.one_connection_for_two)
    assert points["first", "woken", "ConnectionPool.get_connection"].verdict == "hang"


def test_connection_pool_loses_a_connection_handed_over_to_a_cancelled_waiter() -> None:
    """The third: the waiter is cancelled when it was handed the connection."""
    requires.module("asyncio_connection_pool")
    from found import connection_pool  # noqa: PLC0415

    points = broken(connection_pool.one_connection_for_two)
    point = points["second", "woken", "ConnectionPool.get_connection"]
    assert point.verdict == "invariant"
    assert "in use by nobody" in point.detail


def test_connection_pool_wakes_nobody_when_a_connect_fails() -> None:
    """The fourth, without any cancel."""
    requires.module("asyncio_connection_pool")
    from found import connection_pool  # noqa: PLC0415

    with pytest.raises(Deadlock, match=r"Queue\.get"):
        run(connection_pool.connect_fails_once)


def test_httpcore_shrinks_its_pool() -> None:
    """A pool of one has none left for the next request; somebody who waits already waits for ever."""
    requires.module("httpcore")
    from found import http_pool  # noqa: PLC0415

    points = broken(http_pool.one_connection_for_two).values()
    assert any(point.verdict == "hang" for point in points)
    assert any("no connection for the third request" in point.detail for point in points)


def test_sqlalchemy_leaves_a_waiter_asleep_beside_an_empty_pool() -> None:
    """For the 30 seconds of its `timeout`, which pass in no time here."""
    requires.module("sqlalchemy")
    requires.module("greenlet")
    from found import sql_pool  # noqa: PLC0415

    points = broken(sql_pool.one_connection_for_two)
    assert {point.victim for point in points.values()} == {"first"}
    assert all("waited 30 s" in point.detail for point in points.values())


def test_anyio_loses_an_item_under_a_native_cancel() -> None:
    """When the item is handed over and the receiver has not resumed; and at no other point."""
    requires.module("anyio")
    from found import memory_stream  # noqa: PLC0415

    points = broken(memory_stream.one_item_for_two)
    assert {(victim, moment) for victim, moment, _ in points} == {("first", "woken"), ("second", "woken")}
    assert all("1 received, 0 left" in point.detail for point in points.values())


@pytest.mark.default_only
@pytest.mark.parametrize(
    ("example", "library"),
    [
        ("connection_pool", "asyncio_connection_pool"),
        ("http_pool", "httpcore"),
        ("memory_stream", "anyio"),
        ("sql_pool", "sqlalchemy"),
    ],
)
def test_an_example_prints_what_it_found(example: str, library: str) -> None:
    """As a program of its own, which is how the page shows it."""
    requires.module(library)
    done = subprocess.run(
        [sys.executable, FOUND / f"{example}.py"],
        env=os.environ | {"PYTHONWARNINGS": "error::RuntimeWarning"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "points broken" in done.stdout
