"""Loads files from a web server into PostgreSQL: rate-limited, parsed in processes, resumable, all or nothing per file.

    python examples/etl.py postgresql://localhost/scratch                      # generated files, from a server of ours
    python examples/etl.py postgresql://localhost/scratch --source https://data.example.org/readings/ --rate 2
    python examples/etl.py postgresql://localhost/scratch --dask local         # parsed by a Dask cluster instead

Press Ctrl-C, or send SIGTERM: files under way are finished, or rolled back if that takes too long, and the same command
goes on from there. So it does after ``kill -9``: a file's rows, and the note that it was loaded, are one transaction.

The source answers ``GET /`` with a JSON list of names; each is a gzipped CSV of station, second and temperature.
Needs ``aiohttp`` and ``asyncpg``; ``--dask`` needs ``distributed``.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
from etl_source import served

import loopwright
from loopwright import CancelToken, Pool, RateLimiter, Retry, amap, http_errors, offload
from loopwright.integrations import asyncpg

SCHEMA = """
    CREATE TABLE IF NOT EXISTS parts (
        name     text PRIMARY KEY,
        loaded   bigint NOT NULL,
        rejected bigint NOT NULL
    );
    CREATE TABLE IF NOT EXISTS readings (
        part    text NOT NULL,
        station text NOT NULL,
        second  integer NOT NULL,
        celsius double precision NOT NULL
    );
"""
DAY = 86400
COLDEST, HOTTEST = -90.0, 60.0


# Extract


class Source:
    """The server that has the files. It is never asked more often than was promised, retries included."""

    def __init__(self, session: aiohttp.ClientSession, url: str, rate: float) -> None:
        self._session = session
        self._url = url if url.endswith("/") else url + "/"
        self._limiter = RateLimiter(rate)
        self._retry = Retry(http_errors, attempts=8, timeout=60, base=0.05)

    async def names(self) -> list[str]:
        """The files that there are."""
        return sorted(json.loads(await self._retry(self._get, "")))

    async def download(self, name: str) -> bytes:
        """One of them."""
        return await self._retry(self._get, name)

    async def _get(self, path: str) -> bytes:
        await self._limiter.acquire()
        async with self._session.get(self._url + path) as response:
            response.raise_for_status()
            return await response.read()


# Transform: plain functions, for another process


@dataclass(frozen=True, slots=True)
class Parsed:
    """A file as PostgreSQL's COPY takes it: bytes, so that nobody on the way has to look at a row again."""

    copy: bytes
    loaded: int
    rejected: int


def parse(name: str, data: bytes) -> Parsed:
    """Reads a file; what makes no sense is counted, not loaded. Pure Python: in a thread it would hold the GIL."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    loaded = rejected = 0
    with gzip.open(io.BytesIO(data), "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                second, celsius = int(row["second"]), float(row["celsius"])
                sane = 0 <= second < DAY and COLDEST <= celsius <= HOTTEST
            except (TypeError, ValueError):
                sane = False
            if sane:
                writer.writerow((name, row["station"], second, celsius))
                loaded += 1
            else:
                rejected += 1
    return Parsed(out.getvalue().encode(), loaded, rejected)


# Load


async def loaded_before(db: Pool[Any]) -> set[str]:
    """The files that an earlier run has loaded."""
    async with db.acquire() as connection:
        await connection.execute(SCHEMA)
        return {row["name"] for row in await connection.fetch("SELECT name FROM parts")}


async def store(db: Pool[Any], name: str, parsed: Parsed) -> None:
    """All of a file, or nothing: a cancel in the middle rolls it back, and the pool resets the connection."""

    async def rows() -> AsyncIterator[bytes]:
        yield parsed.copy

    async with db.acquire() as connection, connection.transaction():
        # First the note: who runs this a second time at the same moment waits here, then fails, and has copied nothing.
        await connection.execute("INSERT INTO parts VALUES ($1, $2, $3)", name, parsed.loaded, parsed.rejected)
        await connection.copy_to_table("readings", source=rows(), format="csv")


# All of it


@dataclass(slots=True)
class Report:
    """What came of a run."""

    skipped: int = 0
    """Files that an earlier run has loaded."""
    files: int = 0
    rows: int = 0
    rejected: int = 0
    left: int = 0
    """Files that are left for the next run."""
    errors: dict[str, Exception] = field(default_factory=dict)
    seconds: float = 0.0

    def __str__(self) -> str:
        state = f"{self.left} left for the next run" if self.left else "complete"
        return (
            f"{self.files} files, {self.rows:,} rows ({self.rejected:,} rejected) in {self.seconds:.1f} s; "
            f"{self.skipped} loaded before, {len(self.errors)} failed, {state}"
        )


async def run(
    source: Source, db: Pool[Any], on: Literal["process"] | Executor, options: argparse.Namespace, token: CancelToken
) -> Report:
    """Loads every file that is not loaded yet, so many at a time, until there is none or the token is cancelled."""
    report, started = Report(), time.monotonic()
    before = await loaded_before(db)
    names = await source.names()
    todo = [name for name in names if name not in before]
    report.skipped = len(names) - len(todo)

    def until_told() -> Iterator[str]:
        for name in todo:
            if token.cancelled:
                return
            yield name

    async def one(name: str) -> Parsed:
        parsed = await offload(parse, name, await source.download(name), on=on)
        await store(db, name, parsed)
        return parsed

    # One file that fails keeps no other from being loaded: its error takes the place of its result.
    progress = None if options.quiet else show(len(todo))
    results = await amap(one, until_told(), limit=options.limit, errors="return", progress=progress)
    for name, result in zip(todo, results, strict=False):
        if isinstance(result, Exception):
            report.errors[name] = result
        else:
            report.files += 1
            report.rows += result.loaded
            report.rejected += result.rejected
    report.left = len(todo) - report.files
    report.seconds = time.monotonic() - started
    return report


def show(total: int) -> Any:
    """A line that is written over, on a terminal; else one for each tenth."""
    end, step = ("\r", 1) if sys.stderr.isatty() else ("\n", max(1, total // 10))

    def line(done: int, _total: int | None) -> None:
        if done % step == 0 or done == total:
            print(f"{done} of {total} files", end=end if done < total else "\n", file=sys.stderr, flush=True)

    return line


@asynccontextmanager
async def workers(dask: str | None) -> AsyncIterator[Literal["process"] | Executor]:
    """Where files are parsed: in processes of this machine, or by a Dask cluster. Nothing else knows the difference."""
    if dask is None:
        yield "process"
        return
    from distributed import Client, LocalCluster  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    def connect() -> tuple[Any, Any]:
        cluster = LocalCluster(threads_per_worker=1, dashboard_address=None) if dask == "local" else None
        return cluster, Client(cluster or dask)

    cluster, client = await offload(connect)  # it blocks while processes start
    try:
        yield client.get_executor()
    finally:
        await offload(client.close)
        if cluster is not None:
            await offload(cluster.close)


async def main(token: CancelToken, options: argparse.Namespace) -> Report:
    """The program, once its arguments are read."""
    async with AsyncExitStack() as stack:
        url = options.source or await stack.enter_async_context(served(options.files, options.rows))
        db = await stack.enter_async_context(asyncpg.pool(options.database, max_size=options.limit))
        on = await stack.enter_async_context(workers(options.dask))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        source = Source(session, url, options.rate)
        report = await run(source, db, on, options, token)
    print(report)
    for name, error in report.errors.items():
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    return report


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", help="postgresql://...; its tables parts and readings are made where they are not")
    parser.add_argument(
        "--source", metavar="URL", help="default: a server of generated files, which fails now and then"
    )
    parser.add_argument("--files", type=int, default=60, help="of that server (default: 60)")
    parser.add_argument("--rows", type=int, default=20_000, help="in each of them (default: 20,000)")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second, retries included (default: 50)")
    parser.add_argument("--limit", type=int, default=4, help="files at a time (default: 4)")
    parser.add_argument("--dask", metavar="ADDRESS", help="parse on this Dask cluster; `local`: on one of our own")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser.parse_args()


if __name__ == "__main__":
    options = arguments()
    try:
        outcome = loopwright.run(lambda token: main(token, options))
    except KeyboardInterrupt:
        sys.exit("interrupted; files under way were rolled back, the same command goes on")
    sys.exit(1 if outcome.errors else 0)
