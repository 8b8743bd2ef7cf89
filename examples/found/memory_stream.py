"""anyio 4.16.0: an item that a native cancel takes out of a memory stream, and nobody gets.

    python examples/found/memory_stream.py

`receive()` of a memory object stream is safe under anyio's own scopes. A cancel by `Task.cancel()` (which is how
`asyncio.timeout`, `asyncio.wait_for` and `asyncio.TaskGroup` cancel) that comes when the item has been handed over and
the receiver has not resumed yet drops the item.
"""

from __future__ import annotations

import anyio

from loopwright.testing import Play, SweepFailure, cancel_sweep


async def one_item_for_two(play: Play) -> None:
    """Two receivers, two items; what a cancelled receiver does not get, somebody else must."""
    send, receive = anyio.create_memory_object_stream[int](max_buffer_size=10)
    got = []

    async def receiver() -> None:
        got.append(await receive.receive())

    play.spawn(receiver(), name="first")
    play.spawn(receiver(), name="second")
    await anyio.sleep(1)
    for item in (1, 2):
        await send.send(item)
    await play.finished()
    left = receive.statistics().current_buffer_used
    send.close()
    receive.close()
    assert len(got) + left == 2, f"two items sent, {len(got)} received, {left} left in the stream"  # noqa: PLR2004


def main() -> None:
    try:
        cancel_sweep(one_item_for_two, waves=["cancel"], show="failing")
    except SweepFailure as failure:
        print(failure)


if __name__ == "__main__":
    main()
