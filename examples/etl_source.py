"""The server that the ETL example loads from when it is given none: a file a day of readings, as CSV, gzipped.

Deterministic: file ``n`` is the same each time. One row in a hundred is broken, as in real life.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
from collections.abc import AsyncIterator

from aiohttp import web

__all__ = ["BROKEN_EACH", "day", "served"]

BROKEN_EACH = 100
STATIONS = 50


def day(number: int, rows: int) -> bytes:
    """The file of one day."""
    rng = random.Random(number)
    lines = ["station,second,celsius"]
    for row in range(rows):
        value = "n/a" if row % BROKEN_EACH == BROKEN_EACH - 1 else f"{rng.gauss(12, 8):.2f}"
        lines.append(f"S{rng.randrange(STATIONS):02},{row * 86400 // rows},{value}")
    return gzip.compress("\n".join(lines).encode(), compresslevel=1, mtime=0)


@contextlib.asynccontextmanager
async def served(days: int, rows: int, *, failing: float = 0.1) -> AsyncIterator[str]:
    """Serves an index and so many files; gives the address. A share of the answers is a 503."""
    rng = random.Random(0)

    async def index(_request: web.Request) -> web.Response:
        return web.json_response([f"day-{number:04}.csv.gz" for number in range(days)])

    async def file(request: web.Request) -> web.Response:
        if rng.random() < failing:
            return web.Response(status=503, headers={"Retry-After": "0"})
        number = int(request.match_info["number"])
        return web.Response(body=await asyncio.to_thread(day, number, rows))

    app = web.Application()
    app.router.add_get("/", index)
    app.router.add_get("/day-{number}.csv.gz", file)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        yield f"http://127.0.0.1:{port}/"
    finally:
        await runner.cleanup()
