"""asyncio-connection-pool 1.1.1: four ways to lose the pool's only connection.

    python examples/found/connection_pool.py

One cancel is enough, where it comes does the rest; a connect that fails needs none. Each leaves a pool that counts a
connection nobody has, so that whoever asks next waits for ever.
"""

from __future__ import annotations

import asyncio

from asyncio_connection_pool import ConnectionPool, ConnectionStrategy  # type: ignore[import-not-found,unused-ignore]

from loopwright.testing import Deadlock, Play, SweepFailure, cancel_sweep, run


class Connections(ConnectionStrategy[object]):  # type: ignore[misc,unused-ignore]
    """Connecting takes a turn of the loop, and fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures

    async def make_connection(self) -> object:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the server says no")
        return object()

    def connection_is_closed(self, conn: object) -> bool:
        return False

    async def close_connection(self, conn: object) -> None:
        await asyncio.sleep(0)


async def one_connection_for_two(play: Play) -> None:
    """Two clients share a pool of one; whatever is cancelled, a third has to get the connection afterwards."""
    pool = ConnectionPool(strategy=Connections(), max_size=1)

    async def client() -> None:
        async with pool.get_connection():
            await asyncio.sleep(0)

    play.spawn(client(), name="first")
    play.spawn(client(), name="second")
    await play.finished()
    await asyncio.sleep(1)  # what the pool does in tasks of its own is over
    assert pool.in_use == 0, f"the pool counts {pool.in_use} connection in use by nobody"
    assert pool.currently_allocating == 0, f"the pool counts {pool.currently_allocating} connect that nobody makes"


async def connect_fails_once() -> None:
    """The first client's connect fails; the second one, which waits behind it, has to try itself."""
    pool = ConnectionPool(strategy=Connections(failures=1), max_size=1)

    async def client() -> None:
        async with pool.get_connection():
            await asyncio.sleep(0)

    first, second = await asyncio.gather(client(), client(), return_exceptions=True)
    assert isinstance(first, ConnectionError)
    assert second is None


def main() -> None:
    try:
        cancel_sweep(one_connection_for_two, waves=["cancel"], show="failing")
    except SweepFailure as failure:
        print(failure)
    try:
        run(connect_fails_once)
    except Deadlock as deadlock:
        print(f"\na connect that fails, without any cancel: {deadlock}")


if __name__ == "__main__":
    main()
