"""A load at a fixed rate, as a balancer would pass it on; counts what became of every request.

    python -m api.load http://127.0.0.1:8001 http://127.0.0.1:8002 --rate 200 --seconds 30

The rate is fixed, whatever the answers: a client that waits for slow answers hides how many would have been slow
meanwhile. So each time is counted from the moment at which the request was *due*.

What became of a request is one of:

- **a status**;
- **refused**: nobody listened. Nothing was accepted, nothing is lost, and a balancer asks another instance;
- **lost**: a connection was made or kept, and no whole answer came on it. A service that ends well has none of these.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import aiohttp
from rich.console import Console
from rich.table import Table

from loopwright import Background, CancelToken, Event, Semaphore, TaskGroup, run, timeout

PROBE_EVERY = 0.2
"""Seconds between two health checks of an instance."""
PATIENCE = 30.0
"""Seconds after which a client gives up."""
AT_ONCE = 16
"""Requests that the balancer passes on at a time; the rest waits there, where waiting costs nobody a connection. It is
twice what the pool of one instance has: overload makes answers late then, and turns nobody away.
"""
OK, SERVER_ERROR = 200, 500


@dataclass(slots=True)
class Outcome:
    """What became of the requests so far."""

    results: Counter[str] = field(default_factory=Counter)
    """By status, or "lost"."""
    seconds: list[float] = field(default_factory=list)
    """Of those that were answered."""
    losses: Counter[str] = field(default_factory=Counter)
    """How they were lost."""
    refused: int = 0
    """Connects that nobody took; the requests went to another instance."""
    bought: int = 0
    """Answers that said: sold."""
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None

    def failed(self) -> int:
        """Answers of 500 and above, and requests that were lost."""
        return sum(
            number
            for result, number in self.results.items()
            if result == "lost" or (result.isdigit() and int(result) >= SERVER_ERROR)
        )

    def requests(self) -> int:
        return sum(self.results.values())

    def rate(self) -> float:
        return self.requests() / max((self.ended or time.monotonic()) - self.began, 1e-9)

    def percentile(self, percent: int) -> float:
        """Seconds; 0.0 before there are two."""
        enough = len(self.seconds) > 1
        return statistics.quantiles(self.seconds, n=100, method="inclusive")[percent - 1] if enough else 0.0

    def line(self) -> str:
        """All of it, on one line."""
        results = "  ".join(f"{result}: {number}" for result, number in sorted(self.results.items()))
        return (
            f"{self.rate():5.0f}/s  p50 {self.percentile(50) * 1e3:6.1f} ms  p99 {self.percentile(99) * 1e3:6.1f} ms"
            f"  {results}"
        )


class Instances:
    """A balancer's view: every instance is asked again and again whether it is ready; those that are get requests."""

    def __init__(self, session: aiohttp.ClientSession, addresses: list[str]) -> None:
        self._session = session
        self.ready = dict.fromkeys(addresses, False)
        self._under_way = dict.fromkeys(addresses, 0)
        self._any = Event()

    async def probe(self, address: str) -> None:
        """One health check."""
        try:
            async with timeout(PROBE_EVERY * 5), self._session.get(f"{address}/readyz") as response:
                ready = response.status == OK
        except (aiohttp.ClientError, OSError, TimeoutError):
            ready = False
        self._note(address, ready)

    def failed(self, address: str) -> None:
        """A connect was refused: not this one, until the next health check."""
        self._note(address, False)

    def _note(self, address: str, ready: bool) -> None:
        self.ready[address] = ready
        if any(self.ready.values()):
            self._any.set()
        else:
            self._any.clear()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[str]:
        """The ready instance with the fewest requests under way. Waits while none is ready."""
        while not any(self.ready.values()):
            await self._any.wait()
        address = min((each for each, ready in self.ready.items() if ready), key=self._under_way.__getitem__)
        self._under_way[address] += 1
        try:
            yield address
        finally:
            self._under_way[address] -= 1

    def __str__(self) -> str:
        return " ".join("ready" if ready else "-----" for ready in self.ready.values())


class Load:
    """Clients of the service, behind a balancer."""

    def __init__(self, addresses: list[str], *, rate: float, items: int = 200, seed: int = 1) -> None:
        self.addresses = addresses
        self.rate = rate
        self.outcome = Outcome()
        self.instances: Instances | None = None
        self._permits = Semaphore(AT_ONCE)
        self._items = items
        self._random = random.Random(seed)

    async def run(self, stop: CancelToken) -> Outcome:
        """Sends until it is told to stop, and waits for all answers."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        client_timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with aiohttp.ClientSession(connector=connector, timeout=client_timeout) as session:
            # aiohttp sends a GET again when the kept connection turns out to be closed: a loss that nobody would see.
            session._retry_connection = False
            self.instances = instances = Instances(session, self.addresses)
            async with Background() as probes, TaskGroup() as requests:
                for address in self.addresses:
                    await instances.probe(address)
                    probes.every(PROBE_EVERY, partial(instances.probe, address))
                self.outcome.began = began = time.monotonic()
                for number in count():
                    due = began + number / self.rate
                    if await stop.sleep(max(0.0, due - time.monotonic())):
                        break
                    requests.create_task(self._request(session, instances, due))
        self.outcome.ended = time.monotonic()
        return self.outcome

    async def _request(self, session: aiohttp.ClientSession, instances: Instances, due: float) -> None:
        method, path = self._choose()
        outcome = self.outcome
        try:
            status = await self._status(session, instances, method, path)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            outcome.results["lost"] += 1
            outcome.losses[f"{method} {path.partition('?')[0].rstrip('0123456789')}: {error!r}"] += 1
            return
        outcome.results[str(status)] += 1
        outcome.seconds.append(time.monotonic() - due)
        if path.endswith("/buy") and status == OK:
            outcome.bought += 1

    async def _status(self, session: aiohttp.ClientSession, instances: Instances, method: str, path: str) -> int:
        while True:
            async with self._permits, instances.one() as address:
                try:
                    async with session.request(method, address + path) as response:
                        await response.read()
                        return response.status
                except aiohttp.ClientConnectorError:
                    self.outcome.refused += 1
                    instances.failed(address)

    def _choose(self) -> tuple[str, str]:
        """Mostly reads, some sales, now and then something slow."""
        kind, item = self._random.random(), self._random.randint(1, self._items)
        if kind < 0.70:  # noqa: PLR2004 (the mix)
            return "GET", f"/items/{item}"
        if kind < 0.90:  # noqa: PLR2004
            return "POST", f"/items/{item}/buy"
        if kind < 0.95:  # noqa: PLR2004
            return "GET", "/best"
        return "GET", f"/report?seconds={self._random.uniform(0.02, 0.2):.3f}"


async def report(load: Load, console: Console) -> None:
    """A line a second, for as long as it is not cancelled."""
    while True:
        await asyncio.sleep(1)
        seconds = time.monotonic() - load.outcome.began
        line = f"{seconds:5.1f} s {load.outcome.line()}  {load.instances or ''}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def table(outcome: Outcome, title: str) -> Table:
    """The outcome, to print."""
    seconds = (outcome.ended or time.monotonic()) - outcome.began
    result = Table(title=title, show_header=False)
    result.add_row("requests", f"{outcome.requests():,} in {seconds:.1f} s, {outcome.rate():.0f} a second")
    for percent in (50, 90, 99):
        result.add_row(f"time, p{percent}", f"{outcome.percentile(percent) * 1e3:.1f} ms")
    result.add_row("time, longest", f"{max(outcome.seconds, default=0) * 1e3:.1f} ms")
    for status, number in sorted(outcome.results.items()):
        result.add_row(f"status {status}" if status.isdigit() else status, f"{number:,}")
    for how, number in outcome.losses.most_common(5):
        result.add_row(f"  {how}", f"{number:,}")
    result.add_row("refused, sent elsewhere", f"{outcome.refused:,}")
    return result


async def main(token: CancelToken) -> int:
    parser = argparse.ArgumentParser(description="Sends requests at a fixed rate to whichever instances are ready.")
    parser.add_argument("addresses", nargs="+", metavar="http://HOST:PORT")
    parser.add_argument("--rate", type=float, default=100, help="requests a second")
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()

    console, load, stop = Console(), Load(options.addresses, rate=options.rate), token.child()
    async with TaskGroup() as group:
        progress = group.create_task(report(load, console))
        ended = group.create_task(load.run(stop))
        await stop.sleep(options.seconds)
        stop.cancel()
        await ended
        progress.cancel()
    console.print(table(load.outcome, " ".join(options.addresses)))
    return 1 if load.outcome.failed() else 0


if __name__ == "__main__":
    sys.exit(run(main))
