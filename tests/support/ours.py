"""The pools of ``loopwright.integrations`` as subjects of the storm of ``load.py``."""

from __future__ import annotations

import abc
import dataclasses
import importlib
from contextlib import AbstractAsyncContextManager
from typing import Any

from support import drivers, requires
from support.load import Plan, Subject

__all__ = ["OURS"]


class Ours(Subject):
    """One ``pool(...)``, with its driver's hooks as they come."""

    integration: str
    pool: Any

    @abc.abstractmethod
    def make(self, integration: Any, site: Any, plan: Plan, options: dict[str, Any]) -> Any: ...

    async def open(self, site: Any, plan: Plan) -> None:
        requires.module(self.packages[0])
        times = {"check_after": plan.check_after, "hook_timeout": plan.hook_timeout, "timeout": plan.timeout}
        options = {"max_size": plan.max_size, "burst": plan.burst, "connect_timeout": plan.deadline, **times}
        module = importlib.import_module(f"loopwright.integrations.{self.integration}")
        self.pool = self.make(module, site, plan, options)

    def use(self) -> AbstractAsyncContextManager[Any]:
        lease: AbstractAsyncContextManager[Any] = self.pool.acquire()
        return lease

    def counts(self) -> tuple[int, int]:
        stats = self.pool.stats()
        return stats.size, stats.in_use

    async def close(self) -> None:
        await self.pool.aclose(grace=1)


class Asyncpg(Ours):
    name, integration, server, packages = "loopwright + asyncpg", "asyncpg", "postgres", ("asyncpg",)
    driver = drivers.Asyncpg()

    def make(self, integration: Any, site: Any, plan: Plan, options: dict[str, Any]) -> Any:
        return integration.pool(site.server.dsn_at(site.host, site.port, application_name=site.application), **options)


class Psycopg(Ours):
    name, integration, server, packages = "loopwright + psycopg", "psycopg", "postgres", ("psycopg",)
    driver = drivers.Psycopg()

    def make(self, integration: Any, site: Any, plan: Plan, options: dict[str, Any]) -> Any:
        return integration.pool(site.server.dsn_at(site.host, site.port, application_name=site.application), **options)


class Redis(Ours):
    name, integration, server, packages = "loopwright + redis-py", "redis", "redis", ("redis",)
    driver = drivers.Redis()

    def make(self, integration: Any, site: Any, plan: Plan, options: dict[str, Any]) -> Any:
        return integration.pool(site.server.url_at(site.host, site.port), **options)


class AsyncSSH(Ours):
    """One host, its connections shared by five users each; commands by the integration's ``run``."""

    name, integration, server, packages = "loopwright + asyncssh", "asyncssh", "openssh", ("asyncssh",)

    def adapted(self, plan: Plan) -> Plan:
        return plan.for_ssh()

    def make(self, integration: Any, site: Any, plan: Plan, options: dict[str, Any]) -> Any:
        server = site.server
        self.driver = drivers.SharedSSH(integration.run)
        self.limit = plan.max_size
        login = {"username": server.user, "client_keys": [server.client_key], "known_hosts": server.known_hosts}
        address = {"host": site.host, "port": site.port, "config": None, "agent_path": None, "keepalive_interval": 0.5}
        del options["burst"]
        sizes = {"max_per_key": plan.max_size, "max_shares": 5}
        return integration.pool(driver_options={**login, **address}, **sizes, **options)

    def use(self) -> AbstractAsyncContextManager[Any]:
        lease: AbstractAsyncContextManager[Any] = self.pool.acquire("host")
        return lease


class Aiosqlite(Ours):
    name, integration, server, packages = "loopwright + aiosqlite", "aiosqlite", "file", ("aiosqlite",)
    driver = drivers.Aiosqlite()

    def adapted(self, plan: Plan) -> Plan:
        """Whoever is kept out by a lock keeps a thread, which no hook can end before the lock is given up."""
        return dataclasses.replace(plan, hook_timeout=2 * plan.stopped)

    def make(self, integration: Any, site: Any, plan: Plan, options: dict[str, Any]) -> Any:
        return integration.pool(site.path, driver_options={"timeout": 0.2, "isolation_level": None}, **options)


OURS: dict[str, type[Ours]] = {
    "asyncpg": Asyncpg,
    "psycopg": Psycopg,
    "redis": Redis,
    "asyncssh": AsyncSSH,
    "aiosqlite": Aiosqlite,
}
