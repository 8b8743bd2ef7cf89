"""Pool: the gate matrix, cancels at random under random parameters, and the proof that both can fail.

What the gates are and what must hold after each run: :mod:`support.pool_gates` and :mod:`support.pool_storm`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
from support.cancels import in_cell
from support.loops import CELLS, PLAIN, Cell, parameters
from support.pool_gates import FACTORS, Row, Server, everything, pairwise, selection, served_in_order, sweep
from support.pool_storm import under_random_cancels
from support.pools import FLAWS, asyncio_connection_pool, loopwright_pool, naive_pool

from loopwright.testing import SweepFailure

STRESS = os.environ.get("LOOPWRIGHT_STRESS") == "1"
CORE = "LOOPWRIGHT_CORE_SUITE" in os.environ

SELECTION = selection()
ROWS = everything() + SELECTION if STRESS else SELECTION[::6] if CORE else SELECTION
"""`make stress` takes the whole matrix, about 4e5 runs; `make test` each pair of values, some 4,000 runs."""
GENTLE = [row for row in SELECTION if "stubborn" not in str(row)]
"""What a pool can bear that has one `wait_for` around each hook."""

EAGER = [cell for cell in CELLS if cell.eager and cell.loop == "asyncio"] or [PLAIN]
"""Those on virtual time. 3.11 has no eager tasks."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What a pool reports of hooks that hang is meant here, some ten thousand times."""
    logger = logging.getLogger("loopwright.pool")
    logger.disabled = True
    yield
    logger.disabled = False


# ----------------------------------------------------------------------------------------------------- the gate matrix


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_nothing_is_lost_whoever_is_cancelled_anywhere(row: Row) -> None:
    """No connection leaks, capacity stays whole, nobody sleeps, no limit is exceeded, nothing is handed on dirty."""
    assert sweep(row, loopwright_pool).count("cancel") > 3


@pytest.mark.default_only
@pytest.mark.parametrize("row", SELECTION[3::9], ids=str)
@pytest.mark.parametrize("wave", ["again", "timeout", "error", "anyio"])
def test_nothing_is_lost_when_cancels_come_twice_or_from_scopes(row: Row, wave: str) -> None:
    options: dict[str, Any] = {"waves": ("cancel", "again") if wave == "again" else (wave,), "victims": None}
    if wave == "anyio":
        # Who breaks a request off by a timeout of its own has seen a cancel, and may end before the scope's comes.
        options["catches"] = None
    sweep(row, loopwright_pool, **options)


@pytest.mark.parametrize("row", SELECTION[5::9], ids=str)
def test_nothing_is_lost_in_a_random_order_of_steps(row: Row) -> None:
    sweep(row, loopwright_pool, seed=11)


@pytest.mark.parametrize("row", SELECTION[7::12], ids=str)
@pytest.mark.parametrize("cell", parameters(EAGER))
def test_nothing_is_lost_with_eager_tasks(cell: Cell, row: Row) -> None:
    sweep(row, loopwright_pool, victims=None, **in_cell(cell))


# ------------------------------------------------------------------------------------ random cancels, random parameters


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_nothing_is_lost_under_random_cancels_with_random_parameters(seed: int) -> None:
    """1e6 cancels in `make stress`, 2e4 in `make test`, all parameters of the constructor."""
    under_random_cancels((1_000_000 if STRESS else 1_000 if CORE else 20_000) // 4, seed)


# ------------------------------------------------------------------------------------------------ the matrix can fail


@pytest.mark.default_only
def test_each_pair_of_values_comes_together() -> None:
    rows = pairwise(FACTORS)
    for (one, values), (two, others) in itertools.combinations(enumerate(FACTORS), 2):
        assert {(row[one], row[two]) for row in rows} == set(itertools.product(values, others))
    assert len(rows) < 2 * 5 * 6
    assert rows == pairwise(FACTORS), "a row has to mean the same tomorrow"


def test_a_row_is_read_as_it_is_written() -> None:
    assert [Row.of(str(row)) for row in SELECTION] == SELECTION


@pytest.mark.default_only
@pytest.mark.parametrize("row", GENTLE[::2], ids=str)
def test_a_sound_pool_passes(row: Row) -> None:
    sweep(row, naive_pool(), victims=None)


@pytest.mark.default_only
@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flawed_pool_is_found_out(flaw: str) -> None:
    for row in GENTLE:
        try:
            sweep(row, naive_pool(flaw), victims=None)
        except SweepFailure as failure:
            if FLAWS[flaw] in str(failure):
                return
    pytest.fail(f"no row tells that a pool {flaw}")


def broken_by_one_cancel(row: Row) -> set[tuple[str, str, str]]:
    """Of asyncio-connection-pool: who was cancelled at its gate, in which moment, and what is wrong afterwards."""
    with pytest.raises(SweepFailure) as caught:
        sweep(row, asyncio_connection_pool, victims=None)
    report = caught.value.report
    assert report is not None, caught.value
    return {
        (point.victim, point.moment, point.verdict)
        for point in report.failures
        if point.chain and point.chain[-1][0] == "ConnectionPool.get_connection"
    }


@pytest.mark.default_only
def test_asyncio_connection_pool_is_found_out() -> None:
    """The failures of its release 1.1.1 that need one cancel: connect not begun, connect just done, hand-over."""
    alone = broken_by_one_cancel(Row.of("connect=ok check=ok reset=ok close=ok size=1 users=1 when=first"))
    assert alone == {("user-0", "waiting", "invariant"), ("user-0", "woken", "invariant")}
    pair = broken_by_one_cancel(Row.of("connect=ok check=ok reset=ok close=ok size=1 users=2 when=first"))
    assert {("user-0", "waiting", "hang"), ("user-0", "woken", "hang"), ("user-1", "woken", "invariant")} <= pair


@pytest.mark.default_only
def test_asyncio_connection_pool_is_found_asleep_after_a_connect_that_failed() -> None:
    """The one that needs no cancel."""
    row = Row.of("connect=raises check=ok reset=ok close=ok size=1 users=2 when=always")
    with pytest.raises(SweepFailure, match=r"(?s)without any cancel: hang.*Queue\.get"):
        sweep(row, asyncio_connection_pool, victims=None)


@pytest.mark.default_only
def test_asyncio_connection_pool_lets_a_releaser_overtake() -> None:
    async def main() -> None:
        server = Server({})
        served = await served_in_order(asyncio_connection_pool(server, 1), "abc")
        assert served[:2] == ["a", "a"], "its first user again, before those who waited"

    asyncio.run(main())
