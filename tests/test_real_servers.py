"""Our pools with real drivers and real servers, in the storm of ``support/load.py``: nothing lost, nothing dirty.

8 s each here; 30 s, with longer faults, under ``LOOPWRIGHT_STRESS=1``. ``docs/pools-peers.md`` has the drivers' own
pools in the same storm.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence

import pytest
from support.load import Disturbance, Plan, ServerSite, storm
from support.ours import OURS
from support.peers import OverRedis
from support.proxy import Proxy
from support.servers import Redis, Servers
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


def test_the_storm_finds_a_pool_that_loses_connections(redis_server: Redis) -> None:
    """asyncio-connection-pool loses the connection of a waiter that is cancelled as it is handed over."""
    with Proxy(redis_server.host, redis_server.port) as proxy:
        verdict = asyncio.run(storm(OverRedis(), Calm(redis_server, proxy), Plan(seconds=3, timeout=1)))
    assert any("in use by nobody" in fault for fault in verdict.faults()), verdict
