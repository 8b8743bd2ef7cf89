"""Random users, random hooks and random parameters at one pool: the scenario of its random cancels.

Lives here: what is drawn, what users do, what must hold. Does not live here: the server (:mod:`support.pool_gates`),
the cancels (:func:`loopwright.testing.random_cancels`). One run of a seed is repeated with::

    python tests/support/pool_storm.py SEED RUN
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before anything of ours is imported
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "python")]

from loopwright import CallCancelled, KeyedPool, Pool, PoolClosed, PoolFull
from loopwright.testing import Play, SweepFailure, random_cancels
from support.pool_gates import (
    GATES,
    PATIENCE,
    AppError,
    Connection,
    GateError,
    Server,
    at_every_step,
    everybody_at_once,
    expect_all_accounted_for,
    expect_no_stray_cancel,
    expect_quiet,
    look_at,
)
from support.pools import LoopwrightPool

__all__ = ["storm", "under_random_cancels"]


class _Strategy:
    """The server as an object with methods, the way that asyncio-connection-pool and the guides want it."""

    def __init__(self, server: Server, *key: object) -> None:
        self.server = server
        self.key = key

    async def make_connection(self) -> Connection:
        return await self.server.connect(*self.key)

    def connection_is_closed(self, connection: Connection) -> bool:
        return not self.server.is_clean(connection)

    async def close_connection(self, connection: Connection) -> None:
        await self.server.close(connection)


class _Storm:
    """One run."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.rng = rng = play.rng
        wild = rng.choice((0.0, 0.1, 0.3, 0.6))
        self.weights = [1 - wild, *(wild * rng.random() / 2 for _ in GATES[1:])]
        self.server = Server({}, self.gate, self.limit)
        self.parameters = self.drawn()
        self.keys: tuple[str, ...] = ()
        self.pool: Any = self.made()
        self.party = LoopwrightPool(self.pool, *self.keys[:1])
        self.most = self.size
        """Connections that there may be: more than the size while a pool made smaller still shrinks."""
        self.closing = False
        at_every_step(play, self.server, self.look)

    def gate(self, hook: str) -> str:
        return self.rng.choices(GATES, self.weights)[0]

    def made(self) -> Any:
        """The pool."""
        return Pool(self.connect, **self.parameters)

    def key(self) -> tuple[str, ...]:
        """What `acquire` is asked with."""
        return ()

    # The parameters

    def drawn(self) -> dict[str, Any]:
        """Every parameter of a pool."""
        rng, server = self.rng, self.server
        max_size = rng.randint(1, 4)
        drawn: dict[str, Any] = {
            "abort": rng.choice((server.abort, server.abort, server.abort, None)),
            "check": rng.choice((server.check, self.check, None)),
            "is_clean": rng.choice((server.is_clean, server.is_clean, None)),
            "is_closed": rng.choice((lambda connection: not connection.is_open, None)),
            "reset": rng.choice((server.reset, None)),
            "check_after": rng.choice((0.0, 0.5, 1.0, math.inf)),
            "hook_timeout": rng.choice((0.5, 2.0, 5.0)),
            "connect_timeout": rng.choice((None, 0.5, 3.0)),  # None: the longer of timeout and hook_timeout
            "min_size": rng.choice((0, 0, rng.randint(0, max_size))),
            "max_size": max_size,
            "burst": rng.choice((0, 0, 1, 3)),
            "burst_linger": rng.choice((0.0, 0.5, 5.0)),
            "timeout": PATIENCE / 10,
            "max_waiting": rng.choice((None, None, 0, 1, 3)),
            "max_idle": rng.choice((math.inf, 600.0, 1.0, 0.3)),
            "max_lifetime": rng.choice((math.inf, 3600.0, 2.0, 0.5)),
            "jitter": rng.choice((0.0, 0.05, 1.0)),
            "order": rng.choice(("lifo", "fifo")),
            "leak_after": rng.choice((None, None, 0.5)),
            "on_event": rng.choice((None, repr)),
            "name": rng.choice((None, "storm")),
        }
        shape = rng.random()
        if shape < 0.2:
            self.connect: Any = self.context
        elif shape < 0.4:
            self.connect = _Strategy(server)
        else:
            self.connect = server.connect
            drawn["close"] = server.close
        asked = isinstance(self.connect, _Strategy) and drawn["is_closed"] is None
        self.tells = drawn["is_clean"] is not None or asked
        """Whether an interruption that was swallowed can be seen."""
        missing = inspect.signature(Pool).parameters.keys() - drawn.keys() - {"connect", "close"}
        assert not missing, f"never drawn: {missing}"
        return drawn

    def check(self, connection: Connection) -> bool:
        """A check that does not wait."""
        return self.server.is_clean(connection) and self.rng.random() < 0.9

    @contextlib.asynccontextmanager
    async def context(self, *key: object) -> AsyncIterator[Connection]:
        """A connection as an async context manager."""
        connection = await self.server.connect(*key)
        try:
            yield connection
        finally:
            if connection.is_open:
                await self.server.close(connection)

    @property
    def size(self) -> int:
        return int(self.parameters["max_size"] + self.parameters["burst"])

    def limit(self) -> float:
        return self.most

    def together(self) -> int:
        """How many can hold a connection at once."""
        return int(self.parameters["max_size"])

    # What holds at every step

    def look(self) -> None:
        books = self.party.books()
        self.most = max(self.size, min(self.most, books.there))
        look_at(self.server, books, one_line=not self.keys)

    # The users

    async def user(self, name: str) -> None:
        rng = self.rng
        for _ in range(rng.randint(1, 4)):
            await asyncio.sleep(rng.choice((0, 0, 0.01, 0.4, 3)))
            patience = rng.choice((PATIENCE, PATIENCE, 0.0, 0.3, 5.0))
            self.server.began[name] = asyncio.get_running_loop().time()
            with contextlib.suppress(GateError, AppError, CallCancelled, PoolClosed, PoolFull):
                try:
                    await rng.choice((self.inside, self.inside, self.by_hand, self.tries))(name, patience)
                except TimeoutError as error:
                    self.server.woke_late(name, error)

    async def inside(self, name: str, patience: float) -> None:
        async with self.pool.acquire(*self.key(), timeout=patience) as connection:
            with self.server.used(connection, name):
                await self.use(connection)

    async def by_hand(self, name: str, patience: float) -> None:
        await self.give_back(name, await self.pool.acquire(*self.key(), timeout=patience))

    async def tries(self, name: str, patience: float) -> None:
        connection = self.pool.try_acquire(*self.key())
        if connection is not None:
            await self.give_back(name, connection)

    async def give_back(self, name: str, connection: Connection) -> None:
        try:
            with self.server.used(connection, name):
                await self.use(connection)
        finally:
            # By hand nobody sees an error cross: without is_clean, its user has to say so.
            if self.rng.random() < 0.2 or (connection.midway and not self.tells):
                self.pool.discard(connection)
            else:
                self.pool.release(connection)

    async def use(self, connection: Connection) -> None:
        """Some requests; their user is interrupted, fails, or breaks one off without a word."""
        rng = self.rng
        for _ in range(rng.randint(0, 2)):
            seconds = rng.choice((0, 0.1, 0.5))
            if self.tells and rng.random() < 0.15:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds / 2):
                        await connection.request(seconds)
                return
            if rng.random() < 0.1:
                async with asyncio.timeout(seconds / 2):
                    await connection.request(seconds)
            await connection.request(seconds)
            if rng.random() < 0.1:
                raise AppError

    async def manager(self) -> None:
        """Changes the pool while it is used."""
        rng, pool, parameters = self.rng, self.pool, self.parameters
        for _ in range(rng.randint(1, 3)):
            await asyncio.sleep(rng.choice((0, 0.05, 0.5, 2)))
            if rng.random() < 0.3:
                pool.expire_all()
                continue
            parameters["max_size"] = rng.randint(max(1, parameters.get("min_size", 0)), 5)
            parameters["burst"] = rng.randint(0, 2)
            self.most = max(self.most, self.size)
            pool.resize(max_size=parameters["max_size"], burst=parameters["burst"])

    async def saboteur(self) -> None:
        """Cancels what is the pool's own, as a program does that cancels all tasks it finds."""
        rng = self.rng
        ours = ("check", "reset", "close") if self.connect == self.context else ("check", "reset", "close", "connect")
        for _ in range(rng.randint(1, 6)):
            await asyncio.sleep(rng.choice((0, 0, 0.05, 0.5)))
            named = {task.get_name(): task for task in asyncio.all_tasks()}
            found = [named[name] for name in sorted(named) if name.endswith(tuple(f": {hook}" for hook in ours))]
            if found:
                rng.choice(found).cancel()

    async def closer(self) -> None:
        """Closes the pool under its users."""
        await asyncio.sleep(self.rng.choice((0.05, 0.5, 2)))
        self.closing = True
        await self.pool.aclose(grace=self.rng.choice((0, 0.3, 5)))

    async def run(self) -> None:
        play, rng, server, pool = self.play, self.rng, self.server, self.pool
        for number in range(rng.randint(1, 7)):
            play.spawn(self.user(f"user-{number}"), name=f"user-{number}")
        if rng.random() < 0.3:
            play.spawn(self.manager(), name="manager")
        if rng.random() < 0.2 and self.parameters["abort"] is not None:  # else a close that is cancelled is not made up
            play.spawn(self.saboteur(), name="saboteur")
        if rng.random() < 0.3:
            play.spawn(self.closer(), name="closer")
        await play.finished()
        expect_no_stray_cancel(play)
        assert not server.findings, "; ".join(server.findings)
        if not self.closing:
            await asyncio.sleep(20)
            server.heal()
            await asyncio.sleep(20)
            if not parameters_churn(self.parameters):
                expect_quiet(server, self.party.books())
                expect_all_accounted_for(server, self.party.books(), orphans=True)
            await everybody_at_once(server, self.party, self.together())
        server.heal()
        await pool.aclose(grace=0.5)
        await asyncio.sleep(20)  # a connect that was given up brings its connection now
        books = self.party.books()
        expect_quiet(server, books)
        expect_all_accounted_for(server, books, orphans=True)
        assert books.idle == 0, f"a closed pool keeps connections: {books}"
        if self.parameters["abort"] is not None:
            assert not server.open, f"open at the server after the pool's end: {server.open}"


def parameters_churn(parameters: dict[str, Any]) -> bool:
    """Whether a pool that nobody uses still opens and closes: what is to be kept warm grows old."""
    return parameters.get("min_size", 0) > 0 and min(parameters["max_idle"], parameters["max_lifetime"]) < 10


class _KeyedStorm(_Storm):
    """One run at a KeyedPool, shared connections or not."""

    def made(self) -> Any:
        rng, parameters, server = self.rng, self.parameters, self.server
        self.keys = ("a", "b", "c", "d")[: rng.randint(1, 4)]
        del parameters["min_size"]
        parameters["max_per_key"] = rng.randint(1, 3)
        server.per_key = parameters["max_per_key"]
        self.tells = parameters["is_clean"] is not None
        if rng.random() < 0.4:
            server.shares = rng.choice((2, math.inf))
            parameters |= {"sharing": True, "max_shares": None if server.shares == math.inf else 2}
            parameters |= {"reset": None, "is_clean": None, "leak_after": None}
            self.tells = True  # of a connection that many use there is nothing to tell
        connect = self.connect
        if isinstance(connect, _Strategy):
            self.connect = lambda key: _Strategy(server, key)
        return KeyedPool(self.connect, **parameters)

    def key(self) -> tuple[str, ...]:
        return (self.rng.choice(self.keys),)

    def together(self) -> int:
        most = min(self.parameters["max_size"], self.parameters["max_per_key"])
        # One that is past its lifetime takes no new users, and keeps its room for those that it has.
        lasts = self.parameters["max_lifetime"] > 100
        return most * (2 if self.server.shares and lasts else 1)


async def storm(play: Play) -> None:
    """A pool with random parameters under random use."""
    await (_KeyedStorm if play.rng.random() < 0.3 else _Storm)(play).run()


def under_random_cancels(cancels: int, seed: int, **options: Any) -> int:
    """Delivers so many; a failure says how to repeat its run, and with which parameters that was."""
    try:
        return random_cancels(storm, cancels, seed=seed, level="task", **options)
    except SweepFailure as failure:
        failure.add_note(f"from the shell: python tests/support/pool_storm.py {seed} RUN (only=RUN above)")
        raise


def main(seed: str, run: str) -> None:
    """Repeats one run."""
    shown: Callable[[Play], Any] = storm

    async def told(play: Play) -> None:
        one = (_KeyedStorm if play.rng.random() < 0.3 else _Storm)(play)
        print({name: getattr(value, "__name__", value) for name, value in one.parameters.items()})
        await one.run()

    shown = told
    print(random_cancels(shown, 1, seed=int(seed), only=int(run), level="task"), "cancels")


if __name__ == "__main__":
    main(*sys.argv[1:])
