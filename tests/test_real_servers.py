"""Our pools with real drivers and real servers, in the storm of ``support/load.py``: nothing lost, nothing dirty.

8 s each here; 30 s, with longer faults, under ``LOOPWRIGHT_STRESS=1``. ``docs/pools-peers.md`` has the drivers' own
pools in the same storm.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from support import drivers, requires
from support.load import Disturbance, Plan, ServerSite, Subject, storm
from support.ours import OURS
from support.proxy import Proxy
from support.servers import Postgres, Servers
from support.storms import in_storm

pytestmark = [pytest.mark.default_only, pytest.mark.timeout(180)]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Drivers log each connection that is lost; the verdict counts them."""
    before = logging.root.manager.disable
    logging.disable()
    yield
    logging.disable(before)


@pytest.mark.parametrize("driver", OURS)
def test_the_storm_leaves_the_pool_whole_and_every_answer_right(driver: str, servers: Servers) -> None:
    verdict = in_storm(OURS[driver](), servers, Plan.of_today())
    assert verdict.faults() == [], verdict
    assert verdict.cancels > 100, verdict
    assert verdict.answered > 200, verdict


class Calm(ServerSite):
    """Nothing happens to the server."""

    def disturbances(self, plan: Plan) -> Sequence[Disturbance]:
        return []


class Careless(Subject):
    """Loses the connections of the first three users who are cancelled, and cleans none."""

    name, server, packages = "careless", "postgres", ("asyncpg",)
    driver = drivers.Asyncpg()

    async def open(self, site: Any, plan: Plan) -> None:
        asyncpg = requires.module("asyncpg")
        dsn = site.server.dsn_at(site.host, site.port, application_name=site.application)
        self.size, self.cancels, self.plan = plan.max_size, 0, plan
        self.idle: asyncio.Queue[Any] = asyncio.Queue()
        for _ in range(plan.max_size):
            self.idle.put_nowait(await asyncpg.connect(dsn))

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[Any]:
        async with asyncio.timeout(self.plan.timeout):
            connection = await self.idle.get()
        lost = False
        try:
            yield connection
        except asyncio.CancelledError:
            self.cancels += 1
            lost = self.cancels <= 3
            raise
        finally:
            if not lost:
                self.idle.put_nowait(connection)

    def counts(self) -> tuple[int, int]:
        return self.size, self.size - self.idle.qsize()

    async def close(self) -> None:
        while not self.idle.empty():
            self.idle.get_nowait().terminate()


def test_the_storm_finds_what_a_careless_pool_does(postgres: Postgres) -> None:
    with Proxy(postgres.host, postgres.port) as proxy:
        plan = Plan(seconds=2, timeout=1)
        faults = " and ".join(asyncio.run(storm(Careless(), Calm(postgres, proxy), plan)).faults())
    for fault in (
        "wrong answers",
        "innocent operations failed",
        "3 connections in use by nobody",
        "shrunk by",
    ):
        assert fault in faults
