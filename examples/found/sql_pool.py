"""SQLAlchemy 2.1.9: a waiter that sleeps beside an empty pool.

    python examples/found/sql_pool.py

`AsyncAdaptedQueuePool` lets the second caller wait in its queue while the first one connects. When that connect is
cancelled, the pool has room again, and wakes nobody: the waiter sleeps until `timeout`, 30 seconds by default, beside a
pool without a single connection.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy.pool import AsyncAdaptedQueuePool  # type: ignore[import-not-found,unused-ignore]
from sqlalchemy.util import await_only, greenlet_spawn  # type: ignore[import-not-found,unused-ignore]

from loopwright.testing import Play, SweepFailure, cancel_sweep


class Connection:
    """As much of a DBAPI connection as a pool touches."""

    def rollback(self) -> None:
        pass

    def close(self) -> None:
        pass


async def connect() -> Connection:
    """An async driver's connect: a turn of the loop."""
    await asyncio.sleep(0)
    return Connection()


async def one_connection_for_two(play: Play) -> None:
    """Two callers share a pool of one; whatever is cancelled, the other one gets its connection at once."""
    pool = AsyncAdaptedQueuePool(lambda: await_only(connect()), pool_size=1, max_overflow=0)  # type: ignore[arg-type,return-value,unused-ignore]
    loop = asyncio.get_running_loop()

    async def query() -> None:
        began = loop.time()
        connection: Any = await greenlet_spawn(pool.connect)
        try:
            assert loop.time() - began < 1, f"waited {loop.time() - began:g} s beside: {pool.status()}"
            await asyncio.sleep(0)
        finally:
            await greenlet_spawn(connection.close)

    play.spawn(query(), name="first")
    play.spawn(query(), name="second")
    await play.finished()


def main() -> None:
    try:
        cancel_sweep(one_connection_for_two, waves=["cancel"], show="failing")
    except SweepFailure as failure:
        print(failure)


if __name__ == "__main__":
    main()
