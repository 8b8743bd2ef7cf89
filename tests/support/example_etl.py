"""Runs ``examples/etl.py`` on a server of its own, interrupts it, and goes on: what ``make example-etl`` does."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import debian

import loopwright
from loopwright import open_process
from loopwright.integrations import asyncpg
from support.servers import Servers

PROGRAM = Path(__file__).parents[2] / "examples" / "etl.py"


async def load(dsn: str, *arguments: str, stop_at: int | None = None) -> None:
    """Runs it, as in a shell; SIGINT, as by Ctrl-C, when so many files are loaded."""
    print(f"$ python examples/etl.py DATABASE {' '.join(arguments)}", flush=True)
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = (sys.executable, str(PROGRAM), dsn, *arguments)
    async with open_process(*command, stderr="merge", env=environment, kill_after=15) as program:
        async for line in program.stdout:
            print("   ", line, flush=True)
            if stop_at is not None and line.startswith(f"{stop_at} of "):
                print("    ^C", flush=True)
                program.send_signal(signal.SIGINT)
        if (code := await program.wait()) and stop_at is None:
            raise SystemExit(f"{PROGRAM.name} ended with exit code {code}")


async def main(dsn: str) -> None:
    await load(dsn, stop_at=12)
    await load(dsn)
    await load(dsn, "--dask", "local", "--files", "80")
    async with asyncpg.pool(dsn) as db, db.acquire() as connection:
        query = """
            SELECT count(*), sum(loaded), (SELECT count(*) FROM readings), (SELECT count(DISTINCT part) FROM readings)
            FROM parts
        """
        files, noted, rows, parts = await connection.fetchrow(query)
    print(f"in the database: {files} files, {rows:,} rows")
    if (files, noted) != (parts, rows) or files != 80:
        raise SystemExit("that is not what was loaded")


if __name__ == "__main__":
    if absent := debian.missing():
        sys.exit(f"this needs {', '.join(absent)}: install {', '.join(absent.values())}")
    with Servers() as servers, servers.one("postgres") as postgres:
        loopwright.run(lambda: main(postgres.dsn))
