"""The gate matrix of pools: each hook answers, fails, is slow or hangs, and everybody is cancelled everywhere.

Lives here: the server whose hooks are gates, the parties, what must hold whatever is cancelled, the rows of the matrix.
Does not live here: the tests (``test_pool_gates.py``), the cancels (:func:`loopwright.testing.cancel_sweep`).

In the manner of deadpool's ``managed_cancellation``, with two more kinds of gate for what a task can do and a dropped
future cannot: hang, and hang on after having been cancelled. One row, or one point of it, is repeated with::

    python tests/support/pool_gates.py "connect=hangs check=ok reset=slow close=raises size=1 users=3 when=always" POINT
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol

if __name__ == "__main__":  # before anything of ours is imported
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "python")]

from loopwright import CallCancelled, LoopwrightError
from loopwright.testing import Play, SweepFailure, SweepReport, cancel_sweep

__all__ = [
    "FACTORS",
    "GATES",
    "HOOK_TIMEOUT",
    "PATIENCE",
    "AppError",
    "Books",
    "Connection",
    "GateError",
    "Party",
    "Row",
    "Server",
    "at_every_step",
    "everybody_at_once",
    "everything",
    "expect_all_accounted_for",
    "expect_no_stray_cancel",
    "expect_quiet",
    "gates",
    "look_at",
    "pairwise",
    "selection",
    "served_in_order",
    "sweep",
]

GATES = ("ok", "raises", "slow", "hangs", "stubborn")
"""What a hook does: it ends in one turn, raises, takes a second, hangs until it is cancelled, hangs on after that."""
WHEN = ("always", "first", "every-other")
"""Which calls of a hook meet its gate; the others go well."""
HOOKS = ("connect", "check", "reset", "close")
SLOW, CONNECT_TIMEOUT, HOOK_TIMEOUT, PATIENCE = 1.0, 3.0, 5.0, 1000.0
"""Seconds. Nobody has reason to wait as long as ``PATIENCE`` in any row: who does was asleep."""


class GateError(ConnectionError):
    """What the server's hooks raise."""


class AppError(Exception):
    """An error of the application, which is no fault of its connection."""


# The server


class Connection:
    """A connection of :class:`Server`: one request at a time, and one that was broken off leaves it ``midway``."""

    def __init__(self, server: Server, number: int, key: object = None) -> None:
        self.server = server
        self.number = number
        self.key = key
        self.midway = False
        """The answer to an earlier request is still on its way: the next one would read it."""
        self.users: list[str] = []
        self.hook: asyncio.Task[Any] | None = None
        """What runs a hook on it at the moment."""
        self.written_off = False

    def __repr__(self) -> str:
        return f"<connection {self.number}>"

    @property
    def is_open(self) -> bool:
        return self in self.server.open

    async def request(self, seconds: float) -> None:
        """Sends a request and reads the answer."""
        if self.midway and not self.server.shares:
            self.server.found(f"{self} got a request in the middle of another one's answer")
        self.midway = True
        await asyncio.sleep(seconds)
        self.midway = False
        if not self.is_open:
            raise GateError(f"{self} was closed meanwhile")


class Server:
    """Makes connections, and knows what a server knows: how many there are, and what each of them is used for.

    A hook meets the gate that ``gates`` says for the calls of it that ``when`` says, until :meth:`heal`.

    Args:
        gates: the gate of each hook.
        when: one of :data:`WHEN`, or a function of the hook's name that draws a gate.
        limit: connections that there may be.
        per_key: connections of one key that there may be.
        shares: users of one connection that there may be at a time; 0: it multiplexes not, and has one.
    """

    def __init__(
        self,
        gates: dict[str, str],
        when: str | Callable[[str], str] = "always",
        limit: Callable[[], float] | None = None,
        *,
        per_key: float = math.inf,
        shares: float = 0,
    ) -> None:
        self.gates = gates
        self.when = when
        self.limit = limit
        self.per_key = per_key
        self.shares = shares
        self.calls: Counter[str] = Counter()
        self.attempts: dict[asyncio.Task[Any] | None, object] = {}
        """The tasks that are connecting, each to which key."""
        self.open: set[Connection] = set()
        self.opened = 0
        self.late = 0
        """Connects that were told to stop and brought a connection all the same."""
        self.peak = 0
        self.findings: list[str] = []
        self.began: dict[str, float] = {}
        """Since when a user asks for a connection."""
        self.healed = False
        self.look: Callable[[], object] | None = None
        """Called whenever the server is."""
        self._hung: set[asyncio.Future[None]] = set()
        self._ended: set[Connection] = set()
        """Those whose close raised: to abort them as well is right."""

    # The hooks

    async def connect(self, key: object = None) -> Connection:
        task = asyncio.current_task()
        self.attempts[task] = key
        self._grew(key)
        try:
            await self._gate("connect")
            self.opened += 1
            connection = Connection(self, self.opened, key)
            # A connect that was told to stop and went on: what it brings is nobody's, until it is closed.
            connection.written_off = task is not None and task.cancelling() > 0
            self.late += connection.written_off
            self.open.add(connection)
            return connection
        finally:
            self.attempts.pop(task, None)

    async def check(self, connection: Connection) -> bool:
        with self._hooked(connection, "check"):
            if await self._gate("check", raises=self.calls["check"] % 2 == 0) is False:
                return False
        return True

    async def reset(self, connection: Connection) -> None:
        with self._hooked(connection, "reset"):
            await self._gate("reset")
            connection.midway = False

    async def close(self, connection: Connection) -> None:
        with self._hooked(connection, "close"):
            try:
                await self._gate("close")
            except GateError:
                self._ended.add(connection)  # the goodbye failed, the socket is gone all the same
                self.open.discard(connection)
                raise
            self.open.discard(connection)

    def abort(self, connection: Connection) -> None:
        """Ends it without a goodbye."""
        if not connection.is_open and connection not in self._ended:
            self.found(f"{connection} was aborted after its end")
        self.open.discard(connection)
        self._looked()

    def is_clean(self, connection: Connection) -> bool:
        return connection.is_open and not connection.midway

    # Those who use it

    @contextlib.contextmanager
    def used(self, connection: Connection, user: str) -> Iterator[None]:
        """A user has it."""
        if connection.midway and not self.shares:
            self.found(f"{connection} was handed to {user} dirty")
        if not connection.is_open:
            self.found(f"{connection} was handed to {user} after its end")
        if len(connection.users) >= max(1, self.shares):
            self.found(f"{connection} was handed to {user} while {', '.join(connection.users)} has it")
        if connection.hook is not None:
            self.found(f"{connection} was handed to {user} while a hook runs on it")
        connection.users.append(user)
        self._looked()
        try:
            yield
        finally:
            connection.users.remove(user)
            self._looked()

    # What is found

    def found(self, finding: str) -> None:
        """Something is wrong; noted, for an error here would be taken for the gate's."""
        if finding not in self.findings:
            self.findings.append(finding)

    def woke_late(self, user: str, error: TimeoutError) -> None:
        """A wait came to nothing. No hook and no use takes ``PATIENCE``: who waited for that long was asleep."""
        if asyncio.get_running_loop().time() - self.began[user] >= PATIENCE:
            self.found(f"{user} slept: {error}")

    def heal(self) -> None:
        """Every gate is open from now on, and what hangs goes on."""
        self.healed = True
        for hung in self._hung:
            if not hung.done():
                hung.set_result(None)

    def live(self) -> list[object]:
        """The keys of connections that there are or are to be; not of what was given up: told to stop, and has not."""
        connecting = [key for task, key in self.attempts.items() if task is None or not task.cancelling()]
        return connecting + [connection.key for connection in self.open if not self._given_up(connection)]

    def _given_up(self, connection: Connection) -> bool:
        return connection.written_off or (connection.hook is not None and connection.hook.cancelling() > 0)

    def _grew(self, key: object) -> None:
        live = self.live()
        self.peak = max(self.peak, len(live))
        if self.limit is not None and len(live) > self.limit():
            self.found(f"{len(live)} connections, and the limit is {self.limit()}")
        if live.count(key) > self.per_key:
            self.found(f"{live.count(key)} connections of {key!r}, and the limit is {self.per_key}")
        self._looked()

    def _looked(self) -> None:
        if self.look is not None:
            self.look()

    @contextlib.contextmanager
    def _hooked(self, connection: Connection, hook: str) -> Iterator[None]:
        task = asyncio.current_task()
        if task is None or not task.cancelling():  # a context manager that is told to stop closes what it has
            self._look_at_hook(connection, hook)
        connection.hook = task
        self._looked()
        try:
            yield
        finally:
            # Told to stop, whether it did or not: nobody waits for what comes of it.
            connection.written_off = connection.written_off or self._given_up(connection)
            connection.hook = None
            self._looked()

    def _look_at_hook(self, connection: Connection, hook: str) -> None:
        if not connection.is_open:
            self.found(f"{hook} of {connection} after its end")
        if connection.users:
            self.found(f"{hook} of {connection} while {', '.join(connection.users)} has it")
        if connection.hook is not None and not connection.hook.cancelling():
            self.found(f"{hook} of {connection} while another hook runs on it")

    async def _gate(self, hook: str, *, raises: bool = True) -> bool | None:
        number = self.calls[hook]
        self.calls[hook] += 1
        gate = "ok"
        if not self.healed:
            if callable(self.when):
                gate = self.when(hook)
            elif self.when == "always" or number == 0 or (self.when == "every-other" and number % 2 == 0):
                gate = self.gates.get(hook, "ok")
        if gate == "ok":
            await asyncio.sleep(0)
        elif gate == "slow":
            await asyncio.sleep(SLOW)
        elif gate == "raises":
            await asyncio.sleep(0)
            if not raises:
                return False
            raise GateError(f"{hook} refuses, as its gate says")
        else:
            await self._hang(stubborn=gate == "stubborn")
        return None

    async def _hang(self, *, stubborn: bool) -> None:
        while not self.healed:
            hung = asyncio.get_running_loop().create_future()
            self._hung.add(hung)
            try:
                await hung
            except asyncio.CancelledError:
                if not stubborn:
                    raise
            finally:
                self._hung.discard(hung)


# The pool under test


class Books(NamedTuple):
    """What a pool says of itself, or what it must be taken to mean, where it keeps no such count."""

    opened: int
    closed: int
    abandoned: int
    idle: int
    in_use: int
    opening: int
    coming: int
    """Checking or resetting."""
    closing: int
    waiting: int

    @property
    def there(self) -> int:
        """All that take room."""
        return self.idle + self.in_use + self.opening + self.coming + self.closing


class Party(Protocol):
    """A pool, as the matrix uses it."""

    def acquire(self) -> AbstractAsyncContextManager[Connection]:
        """``async with`` it."""

    def take(self) -> Awaitable[Connection] | None:
        """To be awaited and given back by :meth:`give`; None: this pool knows ``async with`` only."""

    def give(self, connection: Connection, *, discard: bool) -> None: ...

    def try_take(self) -> Connection | None: ...

    def books(self) -> Books: ...

    async def close(self) -> None:
        """To the end, whatever hangs."""


Make = Callable[[Server, int], Party]
"""Makes a pool of this size over this server."""


# The parties


class _Users:
    """What users do to their connections, one kind each."""

    def __init__(self, server: Server, pool: Party) -> None:
        self.server = server
        self.pool = pool
        self.kinds = (self.plain, self.swallows, self.fails, self.by_hand, self.discards, self.tries)

    async def user(self, number: int) -> None:
        name = f"user-{number}"
        for turn in range(2):
            self.server.began[name] = asyncio.get_running_loop().time()
            with contextlib.suppress(GateError, AppError, CallCancelled):
                try:
                    await self.kinds[(number + turn) % len(self.kinds)](name)
                except TimeoutError as error:
                    self.server.woke_late(name, error)

    async def plain(self, name: str) -> None:
        async with self.pool.acquire() as connection:
            with self.server.used(connection, name):
                await connection.request(0.25)

    async def swallows(self, name: str) -> None:
        """Breaks a request off and goes on as if nothing had happened; nobody but ``is_clean`` can tell."""
        async with self.pool.acquire() as connection:
            with self.server.used(connection, name), contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.25):
                    await connection.request(0.5)

    async def fails(self, name: str) -> None:
        async with self.pool.acquire() as connection:
            with self.server.used(connection, name):
                await connection.request(0.25)
                raise AppError

    async def by_hand(self, name: str, *, discard: bool = False) -> None:
        taking = self.pool.take()
        if taking is None:
            return await self.plain(name)
        connection = await taking
        try:
            with self.server.used(connection, name):
                await connection.request(0.25)
        finally:
            self.pool.give(connection, discard=discard)
        return None

    async def discards(self, name: str) -> None:
        await self.by_hand(name, discard=True)

    async def tries(self, name: str) -> None:
        connection = self.pool.try_take()
        if connection is None:
            return await self.plain(name)
        try:
            with self.server.used(connection, name):
                await connection.request(0.25)
        finally:
            self.pool.give(connection, discard=False)
        return None


def gates(row: Row, make: Make) -> Callable[[Play], Awaitable[None]]:
    """A scenario: users at a pool whose hooks are gates, then the books, then everybody at once, then the end."""

    async def the_gates(play: Play) -> None:
        server = Server({hook: getattr(row, hook) for hook in HOOKS}, row.when, lambda: row.size)
        pool = make(server, row.size)
        at_every_step(play, server, lambda: look_at(server, pool.books()))
        users = _Users(server, pool)
        for number in range(row.users):
            play.spawn(users.user(number), name=f"user-{number}")
        await play.finished()
        expect_no_stray_cancel(play)
        await asyncio.sleep(4 * HOOK_TIMEOUT)  # what hangs is given up by then
        expect_quiet(server, pool.books())
        server.heal()
        await asyncio.sleep(4 * HOOK_TIMEOUT)
        expect_quiet(server, pool.books())
        expect_all_accounted_for(server, pool.books())
        await everybody_at_once(server, pool, row.size)
        await asyncio.sleep(HOOK_TIMEOUT)
        play.spawn(closes(server, pool), name="closer")
        await play.finished()
        expect_no_stray_cancel(play)
        if play.tasks["closer"].cancelled():
            await pool.close()  # it may have been cancelled before it began
        expect_all_accounted_for(server, pool.books())
        assert not server.open, f"open at the server after the pool's end: {server.open}"

    the_gates.__qualname__ = f"gates: {row}"
    return the_gates


def at_every_step(play: Play, server: Server, look: Callable[[], object]) -> None:
    """Looks after each step of anybody; where the loop cannot tell, whenever the server is called."""
    loop: Any = play.loop
    if not hasattr(loop, "on_step"):
        server.look = look
        return
    before = loop.on_step

    def after_each_step(task: Any, nth: int) -> None:
        if before is not None:
            before(task, nth)
        look()

    loop.on_step = after_each_step


def look_at(server: Server, books: Books, *, one_line: bool = True) -> None:
    """What holds at every step. ``one_line``: whatever is idle is for everybody who waits."""
    if books.opened - books.closed - books.abandoned > books.there:
        server.found(f"a connection is nowhere: {books}")
    if server.limit is not None and books.there > server.limit():
        server.found(f"the pool counts {books.there} connections, and the limit is {server.limit()}: {books}")
    if one_line and books.idle and books.waiting > books.coming:
        server.found(f"somebody sleeps beside an idle connection: {books}")


def expect_quiet(server: Server, books: Books) -> None:
    """Nobody uses the pool, so nothing of it is in use."""
    assert not server.findings, "; ".join(server.findings)
    assert books.waiting == 0, f"somebody is in line, and nobody waits: {books}"
    assert books.in_use == 0, f"in use by nobody: {books}"
    assert books.opening + books.coming + books.closing == 0, f"a hook is thought to run for ever: {books}"


def expect_all_accounted_for(server: Server, books: Books, *, orphans: bool = False) -> None:
    """The ledger's equation, and the same as seen by the server.

    ``orphans``: what was given up may be open still, for there is no hook to abort it.
    """
    assert not server.findings, "; ".join(server.findings)
    assert books.opened - books.closed - books.abandoned == books.idle, f"leaked: {books}"
    count = len(server.open)
    most = books.idle + orphans * (books.abandoned + server.late)
    assert books.idle <= count <= most, f"the server has {count} connections open, the pool {books}"
    assert not server.attempts, "a connect is under way for nobody"


def expect_no_stray_cancel(play: Play) -> None:
    """Who ended cancelled was cancelled: a cancel of somebody else, or of a hook, is not passed on."""
    hit = {name for _, name in play.delivered}
    stray = [name for name, task in play.tasks.items() if task.done() and task.cancelled() and name not in hit]
    assert not stray, f"ended cancelled, and nobody had cancelled them: {', '.join(stray)}"


async def closes(server: Server, pool: Party) -> None:
    """Closes the pool; however that ends, nothing is left open behind it."""
    try:
        await pool.close()
    finally:
        assert not server.open, f"the close was half done, open at the server: {server.open}"


async def everybody_at_once(server: Server, pool: Party, size: int) -> None:
    """Capacity is whole: as many users as the pool has room for hold a connection at the same time."""
    holding = 0
    all_there = asyncio.Event()

    async def holder(number: int) -> None:
        nonlocal holding
        while not all_there.is_set():
            try:
                async with pool.acquire() as connection:
                    with server.used(connection, f"holder-{number}"):
                        holding += 1
                        if holding == size:
                            all_there.set()
                        await all_there.wait()
            except (LoopwrightError, GateError):  # a connect was cancelled under it, or too many wait already
                await asyncio.sleep(0.01)

    holders = [asyncio.create_task(holder(number), name=f"holder-{number}") for number in range(size)]
    await asyncio.wait(holders, timeout=4 * HOOK_TIMEOUT)
    late = [task for task in holders if not task.done()]
    for task in late:
        task.cancel()
    await asyncio.wait(holders)
    assert not late, f"the pool shrank: {holding} of {size} could hold a connection at once; {pool.books()}"
    for task in holders:
        task.result()


async def served_in_order(pool: Party, names: str) -> list[str]:
    """Who is served when? The first one gives its connection back and asks again at once; the others are in line."""
    served: list[str] = []

    async def user(name: str, turns: int) -> None:
        for _ in range(turns):
            async with pool.acquire():
                served.append(name)
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(user(name, 2 if name == names[0] else 1)) for name in names]
    await asyncio.wait(tasks)
    return served


# The rows


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the matrix."""

    connect: str
    check: str
    reset: str
    close: str
    size: int
    users: int
    when: str

    def __str__(self) -> str:
        return " ".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))

    @classmethod
    def of(cls, text: str) -> Row:
        """Reads what ``str`` wrote."""
        words = dict(word.split("=") for word in text.split())
        numbers = {name: int(words.pop(name)) for name in ("size", "users")}
        return cls(**words, **numbers)  # type: ignore[arg-type]


FACTORS: tuple[Sequence[Any], ...] = (GATES, GATES, GATES, GATES, (1, 2, 3), (1, 2, 3, 4, 5, 6), WHEN)


def everything() -> list[Row]:
    """All combinations of the four gates, sizes and users; ``when`` and the fifth gate take turns over them."""
    whole = itertools.product(*[GATES[:4]] * 4, *FACTORS[4:6])
    return [Row(*row, WHEN[number % len(WHEN)]) for number, row in enumerate(whole)]


def selection() -> list[Row]:
    """Rows in which each pair of values of two factors comes together."""
    return [Row(*row) for row in pairwise(FACTORS)]


def pairwise(factors: Sequence[Sequence[Any]], *, seed: int = 1, tries: int = 10) -> list[tuple[Any, ...]]:
    """Few rows in which each pair of values of two factors comes together at least once.

    Greedy, after AETG (Cohen, Dalal, Fredman, Patton 1997): of some random rows, each grown value by value from a pair
    that is still missing, the one that adds most is kept.
    """
    dice = random.Random(seed)
    columns = range(len(factors))
    missing = {
        ((one, a), (two, b))
        for one, two in itertools.combinations(columns, 2)
        for a in factors[one]
        for b in factors[two]
    }

    def grown() -> dict[int, Any]:
        row = dict(dice.choice(sorted(missing, key=repr)))
        for column in dice.sample(columns, len(factors)):
            if column not in row:
                values = dice.sample(list(factors[column]), len(factors[column]))
                row[column] = max(values, key=lambda value: len(missing & _pairs({**row, column: value})))
        return row

    rows = []
    while missing:
        best = max((grown() for _ in range(tries)), key=lambda row: len(missing & _pairs(row)))
        missing -= _pairs(best)
        rows.append(tuple(best[column] for column in columns))
    return rows


def _pairs(row: dict[int, Any]) -> set[tuple[tuple[int, Any], tuple[int, Any]]]:
    return set(itertools.combinations(sorted(row.items(), key=lambda item: item[0]), 2))  # type: ignore[arg-type]


# The sweep


def sweep(row: Row, make: Make, **options: Any) -> SweepReport:
    """Cancels everybody at each of their await points, the pool's own tasks included, one run each.

    ``victims=None``: only who uses the pool or closes it.
    """
    usual = {"waves": ("cancel", "early"), "victims": _is_a_party, "catches": _is_the_pools_own, "show": "failing"}
    try:
        return cancel_sweep(gates(row, make), **{**usual, **options})
    except SweepFailure as failure:
        failure.add_note(f'from the shell: python tests/support/pool_gates.py "{row}" POINT (what replay: says above)')
        raise


def _is_a_party(task: asyncio.Task[Any]) -> bool:
    return not task.get_name().startswith("holder-")  # they only measure


def _is_the_pools_own(task: asyncio.Task[Any]) -> bool:
    """A hook's task that somebody cancels reports that to its pool and may end well."""
    return not task.get_name().startswith(("user-", "closer"))


def main(arguments: Iterable[str]) -> None:
    """Repeats one row, or one point of it."""
    from support.pools import loopwright_pool  # noqa: PLC0415 (it imports this module)

    text, *point = arguments
    print(sweep(Row.of(text), loopwright_pool, only=point[0] if point else None))


if __name__ == "__main__":
    main(sys.argv[1:])
