"""A client that retries, against a cluster of three that is partitioned, crashes and heals: a minute in a moment.

    python examples/partitioned_cluster.py          # one timeline
    python examples/partitioned_cluster.py 7        # another seed: other latencies, the same promise

Each write has to be acknowledged by two of three nodes, or is tried again after a pause. The promise that is checked
at the end: what was acknowledged is on a majority, and nothing is on any node twice. Nothing here but ``play()`` knows
that the network is simulated: the nodes are asyncio servers, the client opens connections.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Callable
from contextlib import suppress

from loopwright import timeout
from loopwright.testing import run
from loopwright.testing.net import SimNet, exponential

NODES = ("db1", "db2", "db3")
MAJORITY = 2
PORT = 5432
PATIENCE = 1.0
"""Seconds for one node to answer. Without it a write to a node that lost power takes a quarter of an hour."""

Say = Callable[[str], None]


class Node:
    """Keeps its log over a crash, as a disk does."""

    def __init__(self) -> None:
        self.log: list[int] = []

    async def main(self) -> None:
        async with await asyncio.start_server(self._serve, port=PORT) as server:
            await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # the client has gone
            while line := await reader.readline():
                number = json.loads(line)["write"]
                if number not in self.log:  # the answer to an earlier try may have been lost
                    self.log.append(number)
                writer.write(b'{"ok": true}\n')
        writer.close()


async def ask(node: str, number: int) -> str:
    """One node's answer: "ok", or why there is none."""
    writer = None
    try:
        async with timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(node, PORT)
            writer.write(json.dumps({"write": number}).encode() + b"\n")
            return "ok" if await reader.readline() else "closed"
    except TimeoutError:
        return "silent"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "broken"
    finally:
        if writer is not None:
            writer.close()


async def write(number: int, dice: random.Random, say: Say) -> int:
    """Writes until a majority has acknowledged; returns how many tries it took."""
    attempt = 0
    while True:
        attempt += 1
        answers = await asyncio.gather(*(ask(node, number) for node in NODES))
        said = ", ".join(f"{node} {answer}" for node, answer in zip(NODES, answers, strict=True) if answer != "ok")
        if answers.count("ok") >= MAJORITY:
            tries = "" if attempt == 1 else f" at try {attempt}"
            say(f"write {number} acknowledged{tries}" + (f" ({said})" if said else ""))
            return attempt
        pause = dice.uniform(0.5, 1.0) * min(8.0, 0.5 * 2**attempt)
        say(f"write {number} has no majority ({said}); again in {pause:.1f} s")
        await asyncio.sleep(pause)


async def play(seed: int) -> list[str]:
    """The minute; returns its timeline."""
    timeline: list[tuple[float, str]] = []
    nodes = {name: Node() for name in NODES}
    dice = random.Random(seed)
    async with SimNet(seed=seed, latency=exponential(0.005, 0.02), loss=0.01) as net:
        for name, node in nodes.items():
            net.host(name).run(node.main)
        net.at(8, net.partition, "db3")
        net.at(16, net.partition, {"db2", "db3"}, {"main"})
        net.at(28, net.heal)
        net.at(36, net.crash, "db1", silent=True)
        net.at(40, net.crash, "db2")
        net.at(48, net.restart, "db2")
        net.at(52, net.restart, "db1")

        def say(what: str) -> None:
            timeline.append((net.now(), f"          {what}"))

        tries = 0
        for number in range(1, 13):
            await asyncio.sleep(max(0.0, 4 * number - net.now()))
            tries += await write(number, dice, say)
        await asyncio.sleep(60 - net.now())
        for event in net.trace():
            if event.what in {"partition", "heal", "crash", "power cut", "restart"}:
                timeline.append((event.time, f"{event.what} {event.where}"))
        stats = net.stats()

    for number in range(1, 13):
        having = [name for name, node in nodes.items() if node.log.count(number) == 1]
        assert len(having) >= MAJORITY, f"write {number} was acknowledged and is only on {having}"
    say(f"every write is on a majority: 12 writes, {tries} tries, {stats.connects} connections")
    return [f"{when:6.2f}  {what}" for when, what in sorted(timeline, key=lambda entry: entry[0])]


if __name__ == "__main__":
    chosen = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    print("\n".join(run(lambda: play(chosen))))
