"""KeyedPool.broadcast: every result and every error, and nobody waits for somebody else's slow host."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
from typing import Any

import pytest
from support.cancels import EVERY_STEP, cancels, in_cell
from support.loops import PLAIN, Cell, parameters, run

from loopwright import CallCancelled, KeyedPool, PoolTimeout
from loopwright.testing import Play, SimLoop, cancel_sweep, random_cancels


class Connection:
    """To a host whose name says how it behaves."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.closed = False

    async def run(self, command: str) -> str:
        await asyncio.sleep(0.01)
        if "slow" in self.host:
            await asyncio.sleep(1e6)
        if "fails" in self.host:
            raise OSError(self.host)
        return f"{self.host}: {command}"

    async def close(self) -> None:
        if "stuck" in self.host:
            await asyncio.sleep(1e6)
        self.closed = True


class Hosts:
    """What is open, and the most there ever were."""

    def __init__(self) -> None:
        self.open: list[Connection] = []
        self.peak = 0

    async def connect(self, host: str) -> Connection:
        await asyncio.sleep(0.01)
        if "down" in host:
            raise ConnectionRefusedError(host)
        if "silent" in host:
            await asyncio.sleep(1e6)
        connection = Connection(host)
        self.open = [each for each in self.open if not each.closed] + [connection]
        self.peak = max(self.peak, len(self.open))
        return connection

    def pool(self, **settings: Any) -> KeyedPool[str, Connection]:
        return KeyedPool(self.connect, **({"max_size": 10, "max_per_key": 1} | settings))


def run_virtual(main: Any) -> None:
    with asyncio.Runner(loop_factory=SimLoop) as runner:
        runner.run(main())


@pytest.mark.parametrize("sharing", [False, True])
def test_every_result_and_every_error_is_kept(sharing: bool) -> None:
    async def main() -> None:
        async with Hosts().pool(sharing=sharing) as pool:
            hosts = ["a", "down1", "b", "fails", "a", "c"]
            answer = await pool.broadcast(hosts, lambda connection: connection.run("uptime"))
            assert answer.results == {"a": "a: uptime", "b": "b: uptime", "c": "c: uptime"}
            assert list(answer.results) == ["a", "b", "c"]
            assert {host: type(error) for host, error in answer.errors.items()} == {
                "down1": ConnectionRefusedError,
                "fails": OSError,
            }
            assert pool.stats().in_use == 0
            assert (await pool.broadcast([], lambda connection: connection.run("x"))).results == {}
            with pytest.raises(dataclasses.FrozenInstanceError):
                answer.results = {}  # type: ignore[misc]

    run_virtual(main)


def test_a_slow_host_costs_the_others_nothing() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Hosts().pool() as pool:
            hosts = [f"host{n}" for n in range(200)] + ["slow", "silent"]
            start = loop.time()
            answer = await pool.broadcast(hosts, lambda connection: connection.run("x"), timeout=5)
            assert len(answer.results) == 200
            assert loop.time() - start < 6
            assert type(answer.errors["slow"]) is TimeoutError
            silent = answer.errors["silent"]
            assert isinstance(silent, PoolTimeout)
            assert silent.phase == "connect"
            await asyncio.sleep(1)
            assert pool.stats().in_use == 0

    run_virtual(main)


def test_never_more_at_a_time_than_the_pool_or_the_limit_allows() -> None:
    async def main() -> None:
        hosts = Hosts()
        running = peak = 0

        async def call(connection: Connection) -> None:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            await asyncio.sleep(0.01)
            running -= 1

        async with hosts.pool() as pool:
            await pool.broadcast(map(str, range(100)), call)
            assert peak == 10
            assert hosts.peak <= 10
            peak = 0
            await pool.broadcast(map(str, range(100)), call, limit=3)
            assert peak == 3

    run_virtual(main)


def test_each_call_has_a_context_of_its_own(cell: Cell) -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    async def main() -> None:
        async def call(connection: Connection) -> str:
            before = variable.get()
            variable.set(connection.host)
            return before

        async with Hosts().pool() as pool:
            answer = await pool.broadcast("abc", call)
        assert set(answer.results.values()) == {"unset"}
        assert variable.get() == "unset"

    run(main, cell)


def test_a_call_that_somebody_else_cancelled_is_that_keys_error(cell: Cell) -> None:
    async def main() -> None:
        async def call(connection: Connection) -> str:
            if connection.host == "b":
                raise asyncio.CancelledError
            return connection.host

        async with Hosts().pool() as pool:
            answer = await pool.broadcast("abc", call)
        assert answer.results == {"a": "a", "c": "c"}
        assert type(answer.errors["b"]) is CallCancelled

    run(main, cell)


def test_misuse_is_refused_by_name() -> None:
    async def main() -> None:
        async with Hosts().pool() as pool:
            for arguments, error, message in [
                ({"fn": 5}, TypeError, r"fn=...\) must be a function of a connection, got 5"),
                ({"limit": 0}, ValueError, r"limit=...\) must be 1 or more, got 0"),
                ({"timeout": -1}, ValueError, r"timeout=...\) must be 0 or more"),
            ]:
                settings: dict[str, Any] = {"fn": Connection.close} | arguments
                with pytest.raises(error, match=message):
                    await pool.broadcast("a", **settings)

    run(main)


# ------------------------------------------------------------------------------- idle ones, and slow hosts


def test_idle_clean_up_never_waits_for_a_slow_host() -> None:
    """A hundred idle connections; some of their hosts never answer a close: the rest are closed on time."""

    async def main() -> None:
        hosts = Hosts()
        names = [f"host{n}" for n in range(90)] + [f"stuck{n}" for n in range(10)]
        pool = hosts.pool(max_size=100, max_idle=60, hook_timeout=5)
        await pool.broadcast(names, lambda connection: connection.run("x"))
        assert pool.stats().idle == 100
        connections = list(hosts.open)
        await asyncio.sleep(61)
        assert sum(connection.closed for connection in connections) == 90
        stats = pool.stats()
        assert (stats.idle, stats.closing) == (0, 10)
        await asyncio.sleep(5)
        stats = pool.stats()
        assert (stats.size, stats.closed, stats.abandoned) == (0, 90, 10)
        # A host that is asked for meanwhile does not wait for them either.
        assert (await pool.broadcast(["host1"], lambda connection: connection.run("x"))).results
        await pool.aclose()

    run_virtual(main)


# ------------------------------------------------------------------------------- sweep


async def scenario(play: Play) -> None:
    """Whoever is cancelled, nothing is left in use and every connection is closed or idle."""
    opened: list[Closable] = []

    class Closable:
        closed = False

        def __init__(self, key: str) -> None:
            self.key = key
            opened.append(self)

        async def close(self) -> None:
            await asyncio.sleep(0)
            self.closed = True

    async def connect(key: str) -> Closable:
        await asyncio.sleep(0)
        play.step()
        if key == "down":
            raise OSError(key)
        return Closable(key)

    async def call(connection: Closable) -> str:
        await play.pause()
        if connection.key == "fails":
            raise LookupError
        return connection.key

    pool = KeyedPool(connect, max_size=2, max_per_key=1)

    async def cast() -> None:
        answer = await pool.broadcast(["a", "down", "fails", "b"], call)
        assert answer.results == {"a": "a", "b": "b"}
        assert list(answer.errors) == ["down", "fails"]

    play.spawn(cast(), name="cast")
    play.spawn(cast(), name="other")
    await play.finished()
    stats = pool.stats()
    assert (stats.in_use, stats.waiting) == (0, 0)
    assert stats.size + stats.opening <= 2
    await pool.aclose(0)
    stats = pool.stats()
    assert (stats.size, stats.opened - stats.closed - stats.abandoned) == (0, 0)
    assert all(connection.closed for connection in opened)


@pytest.mark.parametrize("cell", parameters([PLAIN, Cell("uvloop")]))
def test_sweep(cell: Cell) -> None:
    assert cancel_sweep(scenario, **EVERY_STEP, **in_cell(cell)).count("cancel") > 5


def test_random_cancels(cell: Cell) -> None:
    random_cancels(scenario, cancels(cell=cell, share=0.02), **in_cell(cell))
