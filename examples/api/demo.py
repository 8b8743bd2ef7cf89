"""The rehearsal of a rolling restart: two instances under load, each restarted once, and nobody notices.

    python -m api.demo --database postgresql://... --cache redis://...       # makes a table `items` there, anew

Ends with 1 if any request was answered with 500 or above or was lost, if an instance did not end with 0, if one sale
that was answered is not in the database or the other way round, or if a server still sees a connection in the end.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import socket
import sys
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import asyncpg
from redis.asyncio import Redis
from rich.console import Console

from api.app import prepare
from api.load import OK, Load, Outcome, report, table
from loopwright import CancelToken, TaskGroup, gather, run, timeout

PATIENCE = 30.0
"""Seconds that an instance may take to begin or to end."""


class Instance:
    """One process of the service, which can be started again on the same port."""

    def __init__(self, database: str, cache: str, **settings: object) -> None:
        self.port = _free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        settings |= {"database": database, "cache": cache, "port": self.port}
        self._environment = os.environ | {f"API_{name.upper()}": str(value) for name, value in settings.items()}
        path = [str(Path(__file__).resolve().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._environment["PYTHONPATH"] = os.pathsep.join(path)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts it, and waits until it is ready."""
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "api.service", env=self._environment)
        self._process = process
        async with timeout(PATIENCE), aiohttp.ClientSession() as session:
            while not await self._is_ready(session):
                if process.returncode is not None:
                    raise RuntimeError(f"an instance did not start: exit code {process.returncode}")
                await asyncio.sleep(0.05)

    async def _is_ready(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"{self.address}/readyz") as response:
                return response.status == OK
        except (aiohttp.ClientError, OSError):
            return False

    async def stop(self) -> int:
        """Sends SIGTERM and waits for the end; the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        async with timeout(PATIENCE):
            return await self._process.wait()

    async def __aenter__(self) -> Instance:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()


def _free_port() -> int:
    """Below those that the kernel gives to clients: one of them could have it while an instance is restarted."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass(slots=True)
class Verdict:
    """What the rehearsal has shown."""

    outcome: Outcome
    exit_codes: list[int] = field(default_factory=list)
    sold: int = 0
    """Sales in the database."""
    left: dict[str, int] = field(default_factory=dict)
    """Connections that the servers still see, when all instances have ended."""

    def complaints(self) -> list[str]:
        """What is wrong; empty if all is well."""
        outcome = self.outcome
        found = {
            f"lost, or answered with 500 or above: {outcome.failed()}; {dict(outcome.losses)}": outcome.failed(),
            f"exit codes {self.exit_codes}": any(self.exit_codes),
            f"{outcome.bought} sales were answered, {self.sold} are in the database": outcome.bought != self.sold,
            f"connections left: {self.left}": any(self.left.values()),
        }
        return [complaint for complaint, is_wrong in found.items() if is_wrong]


class Rehearsal:
    """Instances under load; each is restarted once, one after the other.

    Args:
        database: a PostgreSQL, in which the table ``items`` is made anew.
        cache: a Redis.
        instances: how many; while the only one is restarted, requests wait at the balancer.
        rate: requests a second.
        pause: seconds before, between and after the restarts.
        console: where to tell how it goes.
        settings: of the instances.
    """

    def __init__(  # noqa: PLR0913 (each is a setting of its own)
        self,
        database: str,
        cache: str,
        *,
        instances: int = 2,
        rate: float,
        pause: float,
        console: Console,
        **settings: object,
    ) -> None:
        self._database = database
        self._cache = cache
        self._pause = pause
        self._console = console
        self._instances = [Instance(database, cache, **settings) for _ in range(instances)]
        self._load = Load([instance.address for instance in self._instances], rate=rate)
        self._verdict = Verdict(self._load.outcome)

    async def run(self) -> Verdict:
        """From an empty table to no connection left."""
        await prepare(self._database)
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            for instance in self._instances:
                stack.push_async_exit(instance)
            await gather(*(instance.start() for instance in self._instances))
            self._console.print(f"{len(self._instances)} instances are ready after {time.monotonic() - began:.1f} s")
            stop = CancelToken()
            async with TaskGroup() as group:
                loading = group.create_task(self._load.run(stop))
                lines = group.create_task(report(self._load, self._console))
                await asyncio.sleep(self._pause)
                for number, instance in enumerate(self._instances, 1):
                    await self._restart(number, instance)
                stop.cancel()
                await loading
                lines.cancel()
            self._verdict.exit_codes += await gather(*(instance.stop() for instance in self._instances))
        self._verdict.sold, self._verdict.left = await _servers_view(self._database, self._cache)
        return self._verdict

    async def _restart(self, number: int, instance: Instance) -> None:
        began = time.monotonic()
        self._console.print(f"SIGTERM to instance {number}")
        self._verdict.exit_codes.append(await instance.stop())
        self._console.print(f"instance {number} has ended, {time.monotonic() - began:.1f} s after SIGTERM")
        await instance.start()
        self._console.print(f"instance {number} is ready again, after {time.monotonic() - began:.1f} s")
        await asyncio.sleep(self._pause)


async def _servers_view(database: str, cache: str) -> tuple[int, dict[str, int]]:
    """Sales in the database, and the connections of ours that each server still has."""
    connection = await asyncpg.connect(database)
    client = Redis.from_url(cache)
    try:
        sold = await connection.fetchval("SELECT sum(bought) FROM items")
        # PostgreSQL ends a session a moment after its client has hung up.
        left = {"PostgreSQL": 0, "Redis": 0}
        for _ in range(50):
            left["PostgreSQL"] = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'example-api'"
            )
            left["Redis"] = sum(each["name"] == "example-api" for each in await client.client_list())
            if not any(left.values()):
                break
            await asyncio.sleep(0.1)
        return sold, left
    finally:
        await connection.close()
        await client.aclose()


async def main(database: str, cache: str, *, rate: float, pause: float) -> int:
    """Rehearses, and prints what came of it; the exit code."""
    console = Console(highlight=False)
    verdict = await Rehearsal(database, cache, rate=rate, pause=pause, console=console).run()
    result = table(verdict.outcome, "A rolling restart of two instances, as their clients saw it")
    result.add_row("sales, answered / in the database", f"{verdict.outcome.bought:,} / {verdict.sold:,}")
    result.add_row("exit codes", " ".join(map(str, verdict.exit_codes)))
    result.add_row("connections left", ", ".join(f"{server}: {number}" for server, number in verdict.left.items()))
    console.print(result)
    for complaint in verdict.complaints():
        console.print(f"[red]wrong:[/red] {complaint}")
    return 1 if verdict.complaints() else 0


def command() -> int:
    parser = argparse.ArgumentParser(description="Rehearses a rolling restart under load.")
    parser.add_argument("--database", required=True, metavar="postgresql://...", help="its table `items` is made anew")
    parser.add_argument("--cache", required=True, metavar="redis://...")
    parser.add_argument("--rate", type=float, default=200, help="requests a second")
    parser.add_argument("--pause", type=float, default=4, help="seconds before, between and after the restarts")
    options = parser.parse_args()
    exit_code: int = run(lambda: main(options.database, options.cache, rate=options.rate, pause=options.pause))
    return exit_code


if __name__ == "__main__":
    sys.exit(command())
