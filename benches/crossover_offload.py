"""Where work outside the loop begins to pay: a job of N steps of Python, by each way, and what the loop notices of it.

``python benches/crossover_offload.py`` prints the tables of docs/offload.md. Wall-clock times, unlike everywhere else
here: how long the caller waits, and the longest time for which the loop stood still meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median

from crossover_work import keys, objects, steps

from loopwright import offload

ROUNDS = 5
JOBS = 2
"""At once: as many as this machine has processors."""

Way = Callable[..., Awaitable[object]]


async def directly(fn: Callable[..., object], *args: object) -> object:
    return fn(*args)


WAYS: dict[str, Way] = {
    "direct": directly,
    "thread": offload,
    "process": lambda fn, *args: offload(fn, *args, on="process"),
}
if sys.version_info >= (3, 14):
    WAYS["interpreter"] = lambda fn, *args: offload(fn, *args, on="interpreter")


async def measured(way: Way, fn: Callable[..., object], args: tuple[object, ...], jobs: int) -> tuple[float, float]:
    """Seconds that so many jobs took at once, and the longest time between two turns of the loop."""
    worst = 0.0

    async def beat() -> None:
        nonlocal worst
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.0005)
            now = time.perf_counter()
            worst, last = max(worst, now - last), now

    heart = asyncio.create_task(beat())
    await asyncio.sleep(0.01)
    worst = 0.0
    began = time.perf_counter()
    await asyncio.gather(*(way(fn, *args) for _ in range(jobs)))
    took = time.perf_counter() - began
    await asyncio.sleep(0)
    heart.cancel()
    await asyncio.gather(heart, return_exceptions=True)
    return took, worst


async def row(name: str, fn: Callable[..., object], *args: object, jobs: int = JOBS) -> None:
    cells = []
    for way in WAYS.values():
        await measured(way, fn, args, jobs)  # Threads, processes and interpreters are there.
        rounds = [await measured(way, fn, args, jobs) for _ in range(ROUNDS)]
        took, worst = median(r[0] for r in rounds), median(r[1] for r in rounds)
        cells.append(f"{took * 1e3:,.1f} / {worst * 1e3:,.1f}")
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


async def main() -> None:
    print(f"| ms: until the end / longest gap | {' | '.join(WAYS)} |")
    print("|---" * (len(WAYS) + 1) + "|")
    for exponent in range(3, 8):
        await row(f"{JOBS} jobs of {10**exponent:,} steps", steps, 10**exponent)
    text = json.dumps([{"id": i, "name": f"name {i}", "tags": ["a", "b"], "x": i / 7} for i in range(500_000)])
    print(f"({len(text) / 2**20:.0f} MiB of JSON)")
    await row("json.loads, the number of objects comes back", keys, text, jobs=1)
    await row("json.loads, all of it comes back", objects, text, jobs=1)


if __name__ == "__main__":
    asyncio.run(main())
