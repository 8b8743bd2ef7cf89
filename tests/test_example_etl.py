"""The ETL example, ``examples/etl.py``: interrupted in every way it loads each file once, by processes and by Dask."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import requires

import loopwright
from loopwright import CancelToken

if TYPE_CHECKING:
    from support.servers import Postgres

requires.module("aiohttp")

import aiohttp  # noqa: E402
import etl  # noqa: E402
from etl_source import BROKEN_EACH, day, served  # noqa: E402

from loopwright.integrations import asyncpg  # noqa: E402
from loopwright.testing import run as simulated  # noqa: E402

pytestmark = pytest.mark.default_only


@pytest.fixture(autouse=True)
def driver() -> None:
    requires.module("asyncpg")


FILES, ROWS = 8, 500
SANE = ROWS - ROWS // BROKEN_EACH
PATIENCE = 100.0
"""Seconds for a program that does what it should, on any machine."""


@asynccontextmanager
async def database(dsn: str, max_size: int = 4) -> AsyncIterator[Any]:
    """A pool at a server that has no tables yet."""
    async with asyncpg.pool(dsn, max_size=max_size) as db:
        async with db.acquire() as connection:
            await connection.execute("DROP TABLE IF EXISTS parts, readings")
            await connection.execute(etl.SCHEMA)
        yield db


async def loaded(db: Any) -> dict[str, tuple[int, int]]:
    """By file: rows that were noted, and rows that are there."""
    query = """
        SELECT name, loaded, (SELECT count(*) FROM readings WHERE part = name) AS there FROM parts
        UNION ALL
        SELECT part, 0, count(*) FROM readings WHERE part NOT IN (SELECT name FROM parts) GROUP BY part
    """
    async with db.acquire() as connection:
        return {row["name"]: (row["loaded"], row["there"]) for row in await connection.fetch(query)}


def whole(files: int, rows: int = SANE) -> dict[str, tuple[int, int]]:
    return {f"day-{number:04}.csv.gz": (rows, rows) for number in range(files)}


def options(**changes: Any) -> argparse.Namespace:
    return argparse.Namespace(**({"quiet": True, "limit": 4, "rate": 500.0} | changes))


async def once(db: Any, token: CancelToken, *, on: Any = "process", files: int = FILES, **changes: Any) -> etl.Report:
    """One run, in this process."""
    async with served(files, ROWS, failing=0.2) as url, aiohttp.ClientSession() as session:
        settings = options(**changes)
        return await etl.run(etl.Source(session, url, settings.rate), db, on, settings, token)


def test_what_makes_no_sense_is_counted_and_not_loaded() -> None:
    parsed = etl.parse("a", day(1, ROWS))
    assert (parsed.loaded, parsed.rejected) == (SANE, ROWS // BROKEN_EACH)
    assert parsed.copy.count(b"\n") == SANE
    assert parsed.copy.startswith(b"a,S")


def test_every_file_is_loaded_once_and_a_second_run_has_nothing_to_do(postgres: Postgres) -> None:
    async def main() -> None:
        async with database(postgres.dsn) as db:
            report = await once(db, CancelToken())
            assert (report.files, report.rows, report.left, report.errors) == (FILES, FILES * SANE, 0, {})
            assert await loaded(db) == whole(FILES)
            again = await once(db, CancelToken())
            assert (again.files, again.skipped, again.left) == (0, FILES, 0)
            assert await loaded(db) == whole(FILES)

    asyncio.run(main())


def test_a_token_that_is_cancelled_ends_it_between_two_files(postgres: Postgres) -> None:
    async def main() -> None:
        async with database(postgres.dsn) as db:
            token = CancelToken()
            task = asyncio.create_task(once(db, token, limit=2))
            await until(lambda: started(db))
            token.cancel("enough")
            report = await task
            assert report.errors == {}
            assert report.files + report.left == FILES
            assert len(await loaded(db)) == report.files
            await once(db, CancelToken())
            assert await loaded(db) == whole(FILES)

    asyncio.run(main())


async def until(what: Callable[[], Awaitable[bool]]) -> None:
    """Waits for what another program does."""
    end = time.monotonic() + PATIENCE
    while not await what():
        assert time.monotonic() < end, f"never: {what}"
        await asyncio.sleep(0.005)


async def started(db: Any) -> bool:
    """Whether a file has been loaded."""
    async with db.acquire() as connection:
        return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM parts)"))


def test_cancels_at_any_moment_lose_and_double_nothing(postgres: Postgres) -> None:
    async def main() -> None:
        rng = random.Random(1)
        async with database(postgres.dsn) as db:
            for _ in range(6):
                task = asyncio.create_task(once(db, CancelToken()))
                await asyncio.wait([task], timeout=rng.uniform(0, 0.15))
                task.cancel()
                await asyncio.wait([task])
                assert all(noted == there == SANE for noted, there in (await loaded(db)).values())
            await once(db, CancelToken())
            assert await loaded(db) == whole(FILES)

    asyncio.run(main())


def test_one_file_that_fails_keeps_no_other_from_being_loaded(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = etl.store

    async def fails_once(db: Any, name: str, parsed: etl.Parsed) -> None:
        if name == "day-0003.csv.gz":
            parsed = etl.Parsed(parsed.copy + b"garbage\n", parsed.loaded, parsed.rejected)
        await store(db, name, parsed)

    async def main() -> None:
        async with database(postgres.dsn) as db:
            monkeypatch.setattr(etl, "store", fails_once)
            report = await once(db, CancelToken())
            assert list(report.errors) == ["day-0003.csv.gz"]
            assert (report.files, report.left) == (FILES - 1, 1)
            assert "day-0003.csv.gz" not in await loaded(db)
            monkeypatch.undo()
            assert (await once(db, CancelToken())).files == 1
            assert await loaded(db) == whole(FILES)

    asyncio.run(main())


class Server:
    """Answers every request in no time."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def get(self, url: str) -> Server:
        self.times.append(asyncio.get_running_loop().time())
        return self

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def raise_for_status(self) -> None:
        if len(self.times) % 3 == 0:
            raise ConnectionError("refused")

    async def read(self) -> bytes:
        return b"data"


def test_the_server_is_not_asked_more_often_than_promised_retries_included() -> None:
    async def main() -> None:
        server = Server()
        source = etl.Source(server, "http://host", rate=10.0)  # type: ignore[arg-type]
        await loopwright.amap(source.download, map(str, range(60)), limit=60)
        assert len(server.times) > 80
        assert max(sum(start <= at < start + 1.0 for at in server.times) for start in server.times) <= 20
        assert server.times[-1] - server.times[0] >= (len(server.times) - 11) / 10

    simulated(main)


# As a program


def program(dsn: str, *arguments: str) -> subprocess.Popen[str]:
    paths = [str(Path(loopwright.__file__).parent.parent), str(Path(etl.__file__).parent)]
    return subprocess.Popen(
        [sys.executable, str(Path(etl.__file__)), dsn, "--quiet", *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


SMALL = ("--files", str(FILES), "--rows", str(ROWS))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_in_the_middle_and_the_next_run_goes_on(number: signal.Signals, postgres: Postgres) -> None:
    async def main() -> None:
        async with database(postgres.dsn, max_size=1) as db:
            process = program(postgres.dsn, *SMALL, "--limit", "1")
            await until(lambda: started(db))
            process.send_signal(number)
            out, err = await asyncio.to_thread(process.communicate, None, PATIENCE)
            if number == signal.SIGKILL:
                assert process.returncode == -signal.SIGKILL
            elif process.returncode == 0:  # else what was under way was not done in time, and was rolled back
                assert "left for the next run" in out or "complete" in out
            await until(lambda: alone(db))
            assert all(noted == there == SANE for noted, there in (await loaded(db)).values())
            process = program(postgres.dsn, *SMALL)
            out, err = await asyncio.to_thread(process.communicate, None, PATIENCE)
            assert process.returncode == 0, err
            assert "complete" in out
            assert await loaded(db) == whole(FILES)

    asyncio.run(main())


async def alone(db: Any) -> bool:
    """Whether the server has noticed that its other client is gone."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    async with db.acquire() as connection:
        return bool(await connection.fetchval(query) == 1)


def test_the_same_file_on_a_dask_cluster(postgres: Postgres) -> None:
    requires.module("distributed")

    async def main() -> None:
        async with database(postgres.dsn) as db:
            process = program(postgres.dsn, *SMALL, "--dask", "local")
            _, err = await asyncio.to_thread(process.communicate, None, PATIENCE)
            assert process.returncode == 0, err
            assert await loaded(db) == whole(FILES)

    asyncio.run(main())
