"""Semaphore and Lock in Redis: permits held on a lease, by processes that may die at any moment.

Who has which permit is decided on the server (``_redis_scripts/semaphore.lua``): here a lease is asked for, waited for,
kept alive and given back. One timer keeps all leases of an object alive, those in line included, by one round trip each
third of a lease. Whoever waits is woken by a bell: a list on the server, one for each object with waiters, from which
one connection takes with BLPOP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from loopwright._arguments import seconds
from loopwright._loopwright import Event
from loopwright.errors import LeaseLost, LimitUnavailable
from loopwright.integrations._redis_shared import AGAIN, Answer, Fail, Script, Shared, settled, units
from loopwright.limits import LockStats, SemaphoreStats

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.cluster import RedisCluster

__all__ = ["Lease", "Lock", "Semaphore", "SharedLockStats", "SharedSemaphoreStats"]

OnLost = Literal["cancel", "tell"]

HELD, IN_LINE = 1, 0
"""What the script says of an id; anything else: it does not know it."""

BELL = 1.0
"""Seconds that one BLPOP waits at most: less than the socket timeout of any client that is used for anything else."""

BATCH = 1_000
"""Ids in one round trip: what a script may take at once is limited by Lua's stack."""

_US = 1e6


@dataclass(frozen=True, slots=True)
class SharedSemaphoreStats(SemaphoreStats):
    """What a :class:`Semaphore` in Redis looks like from this process; ``value`` is as the server last said it."""

    held: int
    """Permits that this object holds."""
    line: int
    """Waiters of all processes, as the server last said it."""
    lost: int
    """Leases that ended while they were in use."""
    let_through: int
    """Acquires that went ahead without a server (``fail="open"``)."""
    round_trips_failed: int
    """Round trips that failed."""
    round_trips: int
    """Round trips begun, without the BLPOPs of those who wait."""


@dataclass(frozen=True, slots=True)
class SharedLockStats(SharedSemaphoreStats, LockStats):
    """What a :class:`Lock` in Redis looks like from this process."""


class Lease:
    """Permits of a :class:`Semaphore` or :class:`Lock` in Redis, for as long as they are kept alive.

    What ``acquire`` and ``async with`` give. Nobody has to look at it; who writes to something that can compare numbers
    hands the ``token`` on with each write, so that one who lost the lease without noticing is refused there.
    """

    __slots__ = (
        "_body",
        "_cancelling",
        "_cut",
        "_ends",
        "_future",
        "_trip",
        "id",
        "lost",
        "n",
        "owner",
        "state",
        "token",
    )

    def __init__(self, owner: _Leased, id: str, n: int) -> None:
        self.owner = owner
        self.id = id
        self.n = n
        """How many permits."""
        self.token: int | None = None
        """The fencing token: larger than that of every lease granted before; None if ``fail="open"`` let it through."""
        self.lost = Event()
        """Set when the lease has ended and was not given back."""
        self.state: Literal["asking", "waiting", "held", "open", "lost", "over"] = "asking"
        self._ends = 0.0  # on the loop's clock, never later than on the server's
        self._future: asyncio.Future[None] | None = None
        self._trip: asyncio.Task[Any] | None = None  # on its way to the server: what it takes is not known yet
        self._body: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._cut = False

    def check(self) -> None:
        """Raises :class:`loopwright.LeaseLost` if it was lost: for just before what two must not do at a time."""
        if self.lost.is_set():
            raise LeaseLost(
                f"{self.owner!r}: the lease with token {self.token} was lost: it was not renewed within "
                f"lease={self.owner.lease:g} s, or Redis lost its data. Somebody else may hold the permit by now",
                self.token,
            )

    def __repr__(self) -> str:
        return f"<Lease of {self.owner.name!r} n={self.n} token={self.token} {self.state}>"


class Permit:
    """``async with semaphore.permit(n):`` holds ``n`` permits. It may be kept, and entered by several tasks."""

    __slots__ = ("_n", "_owner")

    def __init__(self, owner: _Leased, n: int) -> None:
        self._owner = owner
        self._n = n

    async def __aenter__(self) -> Lease:
        return await self._owner._enter(self._n)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del traceback
        await self._owner._exit(self._n, kind, error)


class _Leased(Shared):
    """What a semaphore and a lock have in common: all but the arguments of the constructor."""

    script: ClassVar[Script] = Script("semaphore")
    _stats: ClassVar[type[SharedSemaphoreStats]] = SharedSemaphoreStats
    _not_held: ClassVar[type[Exception]] = ValueError

    def __init__(  # noqa: PLR0913 (each is a choice of its own)
        self,
        *,
        value: int,
        redis: Redis | RedisCluster,
        name: str,
        lease: float,
        on_lost: OnLost,
        fail: Fail,
        reply_timeout: float,
        prefix: str,
    ) -> None:
        keys = ("alive", "line", "info")
        super().__init__(redis=redis, name=name, fail=fail, reply_timeout=reply_timeout, prefix=prefix, keys=keys)
        what = type(self).__name__
        if on_lost not in ("cancel", "tell"):
            raise ValueError(f"{what}(on_lost=...) must be 'cancel' or 'tell', got {on_lost!r}")
        self._limit = units(value, f"{what}(value=...)", 2**53)
        self._lease = seconds(lease, f"{what}(lease=...)", positive=True)
        self._on_lost = on_lost
        self._taken = self._line = self._acquired = self._waited = self._lost = 0
        self._forget()

    def _forget(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._blocks: dict[asyncio.Task[Any] | None, list[Lease]] = {}
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._rings = 0.0
        self._beating = False
        self._ear: asyncio.Task[None] | None = None

    def _in_use(self) -> bool:
        return bool(self._leases)

    def _arguments(self) -> tuple[object, ...]:
        return self._limit, round(self._lease * _US), self._base + "bell:"

    # What the local ones have too

    @property
    def lease(self) -> float:
        """Seconds after which the permits of a process that is gone are somebody else's."""
        return self._lease

    @property
    def value(self) -> int:
        """Permits that are free, as the server last said it."""
        return max(0, self._limit - self._taken)

    @property
    def waiting(self) -> int:
        """Waiters of this process."""
        return sum(lease.state == "waiting" for lease in self._leases.values())

    def locked(self) -> bool:
        """Whether ``acquire()`` would have waited when the server was last asked."""
        return self._taken >= self._limit or self._line > 0

    def is_quiescent(self) -> bool:
        """Whether this process holds nothing, waits for nothing and has nothing on its way."""
        return not self._leases and not self._trips

    async def acquire(self, n: int = 1) -> Lease:
        """Takes ``n`` permits, all at once, and waits for them in the line of all processes.

        Returns:
            The :class:`Lease`.

        Raises:
            ValueError: ``n`` is more than there are at all.
            LimitUnavailable: Redis cannot be asked, and ``fail="closed"``.

        First come, first served, by the ticket that the server gave: a big request is not starved by small ones. A
        cancel ends the wait at once; what the server may have given meanwhile goes back by itself.
        """
        lease = await self._take(units(n, f"{type(self).__name__}.acquire(n)", self._limit), wait=True)
        assert lease is not None
        return lease

    def try_acquire(self, n: int = 1) -> Answer[Lease | None]:
        """Takes ``n`` permits if they are free and nobody waits: ``if await semaphore.try_acquire(): ...``.

        Returns:
            To be awaited (it is a round trip): the :class:`Lease`, or None.
        """
        what = f"{type(self).__name__}.try_acquire"
        return Answer(self._take(units(n, f"{what}(n)", self._limit), wait=False), what)

    def release(self, n: int = 1) -> Awaitable[object]:
        """Gives ``n`` permits back: those that the calling task took last, else any of this object.

        It is on its way at once. Await what it returns to know that it has arrived: at the end of a program, where
        nobody else would wait for it.

        Raises:
            ValueError: this object holds fewer (of a lock: ``RuntimeError``).
        """
        n = units(n, f"{type(self).__name__}.release(n)", float("inf"))
        self._bind()
        here = asyncio.current_task()
        held = [lease for lease in self._leases.values() if lease.state in ("held", "open")]
        held.sort(key=lambda lease: lease._body is here)  # stable: of one's own the last one taken comes last
        if sum(lease.n for lease in held) < n:
            raise self._not_held(
                f"{self!r}: release({n}) gives back more than it holds. Permits belong to the object that took them, "
                "until their lease is lost"
            )
        trips: list[asyncio.Task[None]] = []
        while n:
            lease = held.pop()
            part = min(n, lease.n)
            n -= part
            if part == lease.n:
                trips.append(self._give_up(lease))
            else:
                lease.n -= part
                if lease.state == "held":
                    trips.append(self._spawn(self._shrink(lease)))
        return asyncio.gather(*trips)

    async def __aenter__(self) -> Lease:
        return await self._enter(1)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del traceback
        await self._exit(1, kind, error)

    def stats(self) -> SharedSemaphoreStats:
        """A frozen :class:`SharedSemaphoreStats` of this moment."""
        return self._stats(
            value=self.value,
            limit=self._limit,
            waiting=self.waiting,
            acquired=self._acquired,
            waited=self._waited,
            fair=True,
            held=sum(lease.n for lease in self._leases.values() if lease.state == "held"),
            line=self._line,
            lost=self._lost,
            let_through=self._let_through,
            round_trips_failed=self._failures,
            round_trips=self._round_trips,
        )

    async def fetch(self) -> SharedSemaphoreStats:
        """``stats()``, after asking the server."""
        self._bind()
        self._note(await self._ask("beat"))
        return self.stats()

    async def aclose(self) -> None:
        """Gives back what it holds, leaves the line, and waits until the server knows. It may be used again."""
        self._bind()
        for lease in list(self._leases.values()):
            self._give_up(lease)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ear, self._ear = self._ear, None
        if ear is not None:
            ear.cancel()
            await asyncio.wait([ear])
        await super().aclose()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} in Redis {self._name!r} value={self.value}/{self._limit} waiting={self.waiting}>"
        )

    # One lease

    async def _take(self, n: int, *, wait: bool) -> Lease | None:
        loop = self._bind()
        self._number += 1
        lease = Lease(self, f"{self._client}.{self._number}", n)
        lease._body = asyncio.current_task()
        self._leases[lease.id] = lease
        if self._is_quiet():
            return self._let_go_ahead(lease)
        try:
            await self._enlist(lease, wait=wait)
            if lease.state == "waiting":
                self._waited += 1
                lease._future = loop.create_future()
                self._listen()
                await lease._future
        except LimitUnavailable:
            self._give_up(lease)
            if self._fail == "closed":
                raise
            self._number += 1
            lease = Lease(self, f"{self._client}.{self._number}", n)
            lease._body = asyncio.current_task()
            self._leases[lease.id] = lease
            return self._let_go_ahead(lease)
        except BaseException:
            self._give_up(lease)
            raise
        if lease.state != "held":
            self._leases.pop(lease.id, None)
            return None
        self._acquired += 1
        return lease

    async def _enlist(self, lease: Lease, *, wait: bool) -> None:
        """Asks for it; afterwards it is held, or stands in line, or was refused."""
        sent = asyncio.get_running_loop().time()
        lease._trip = self._send("acquire", lease.id, lease.n, int(wait))
        status, token = self._note(await self._reply(lease._trip))
        lease._trip = None
        lease._ends = sent + self._lease
        if status == HELD:
            self._granted(lease, token)
        elif status == IN_LINE and lease.state == "asking":  # else the bell was faster
            lease.state = "waiting"
        self._set_timer()

    def _granted(self, lease: Lease, token: int) -> None:
        lease.state = "held"
        lease.token = token
        if lease._future is not None and not lease._future.done():
            lease._future.set_result(None)

    def _let_go_ahead(self, lease: Lease) -> Lease:
        lease.state = "open"
        self._let_through += 1
        self._acquired += 1
        return lease

    def _give_up(self, lease: Lease) -> asyncio.Task[None]:
        """It is nobody's from here on; the server is told, after whatever is on its way for it."""
        self._leases.pop(lease.id, None)
        told = lease.state != "open"
        lease.state = "over"
        return self._spawn(self._say_so(lease, told))

    async def _say_so(self, lease: Lease, told: bool) -> None:
        if lease._trip is not None:
            await asyncio.wait([lease._trip])
        if not told or self._is_quiet():
            return
        if (reply := await self._tell("release", lease.id, 0)) is not None:
            self._note(reply)
        else:
            self._spawn(self._say_so_again(lease))  # by itself: nobody waits for that

    async def _say_so_again(self, lease: Lease) -> None:
        """Twice more; a lease that cannot be given back ends when its time is over."""
        for later in (0.05, 0.5):
            await asyncio.sleep(later)
            if (reply := await self._tell("release", lease.id, 0)) is not None:
                self._note(reply)
                return

    async def _shrink(self, lease: Lease) -> None:
        if lease._trip is not None:
            await asyncio.wait([lease._trip])
        if (reply := await self._tell("release", lease.id, lease.n)) is not None:
            self._note(reply)

    async def _enter(self, n: int) -> Lease:
        lease = await self.acquire(n)
        task = asyncio.current_task()
        lease._cancelling = task.cancelling() if task is not None else 0
        self._blocks.setdefault(task, []).append(lease)
        return lease

    async def _exit(self, n: int, kind: type[BaseException] | None, error: BaseException | None) -> None:
        lease = self._leave_block(n)
        if lease.state != "lost":
            # It goes on if this is cancelled, and if Redis is not there.
            await settled(self._give_up(lease), self._reply_timeout)
            return
        ours = lease._cut and lease._body is not None and lease._body.uncancel() <= lease._cancelling
        if kind is None or (ours and issubclass(kind, asyncio.CancelledError)):
            try:
                lease.check()
            except LeaseLost as lost:
                raise lost from error
        if error is not None:
            error.add_note(f"{self!r}: meanwhile the lease with token {lease.token} was lost")

    def _leave_block(self, n: int) -> Lease:
        """The lease of the block that ends: this task's last one; any other where a block ends in another task."""
        here = asyncio.current_task()
        for task in (here, *(task for task in self._blocks if task is not here)):
            leases = self._blocks.get(task, [])
            for index in reversed(range(len(leases))):
                if leases[index].n == n or task is here:
                    lease = leases.pop(index)
                    if not leases:
                        del self._blocks[task]
                    return lease
        raise RuntimeError(f"{self!r}: a block ended that nobody had entered")

    # All of them

    def _note(self, reply: Any) -> Any:
        """Keeps what the end of every reply says: permits taken, the line, and when the next lease may end."""
        *answer, self._taken, self._line, first = reply
        if first >= 0 and self.waiting:
            self._set_timer(first / _US)
        return answer

    def _set_timer(self, delay: float | None = None) -> None:
        """The next beat: a third of a lease from now, or when a lease may end for which somebody waits here."""
        if not self._leases or self._loop is None:
            return
        now = self._loop.time()
        when = now + self._lease / 3 if delay is None else now + min(delay + 0.001, self._lease / 3)
        if self._timer is not None:
            if self._rings <= when:
                return
            self._timer.cancel()
        self._rings = when
        self._timer = self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._leases and not self._beating:
            self._beating = True
            self._spawn(self._beat())

    async def _beat(self) -> None:
        """Tells the server that everybody is alive, and hears what became of each."""
        delay = None
        try:
            known = [lease for lease in self._leases.values() if lease.state in ("waiting", "held")]
            for start in range(0, len(known), BATCH):
                await self._beat_of(known[start : start + BATCH])
        except LimitUnavailable as error:
            delay = min(AGAIN, self._lease / 10)
            self._unreachable(error)
        finally:
            self._beating = False
            self._set_timer(delay)

    async def _beat_of(self, leases: list[Lease]) -> None:
        sent = asyncio.get_running_loop().time()
        answer = self._note(await self._ask("beat", *(lease.id for lease in leases)))
        for lease, status, token in zip(leases, answer[::2], answer[1::2], strict=True):
            if lease.state not in ("waiting", "held"):
                continue  # given back meanwhile
            if status in (HELD, IN_LINE):
                lease._ends = sent + self._lease
                if status == HELD and lease.state == "waiting":
                    self._granted(lease, token)
            elif lease.state == "waiting":
                lease._trip = self._spawn(self._queue_again(lease))
            elif self._fail == "open":
                lease._trip = self._spawn(self._adopt(lease))
            else:
                self._lose(lease)

    async def _queue_again(self, lease: Lease) -> None:
        """The server has lost its data, or took this process for dead: it stands in line anew."""
        sent = asyncio.get_running_loop().time()
        if (reply := await self._tell("acquire", lease.id, lease.n, 1)) is not None:
            status, token = self._note(reply)
            lease._ends = sent + self._lease
            if status == HELD and lease.state == "waiting":
                self._granted(lease, token)

    async def _adopt(self, lease: Lease) -> None:
        """The server has lost its data, and the limit fails open: who was in goes on, and counts again."""
        sent = asyncio.get_running_loop().time()
        if (reply := await self._tell("adopt", lease.id, lease.n)) is not None:
            _, token = self._note(reply)
            lease._ends, lease.token = sent + self._lease, token

    def _unreachable(self, error: LimitUnavailable) -> None:
        """Whoever waits is told; a lease that cannot be renewed any more is lost when it ends."""
        now = asyncio.get_running_loop().time()
        for lease in list(self._leases.values()):
            if lease.state == "waiting" and lease._future is not None and not lease._future.done():
                own = LimitUnavailable(str(error))
                own.__cause__ = error.__cause__
                lease._future.set_exception(own)
            elif lease.state == "held" and self._fail == "closed":
                if lease._ends <= now:
                    self._lose(lease)
                else:
                    self._set_timer(lease._ends - now)

    def _lose(self, lease: Lease) -> None:
        self._leases.pop(lease.id, None)
        lease.state = "lost"
        self._lost += 1
        in_block = any(lease in leases for leases in self._blocks.values())
        if self._on_lost == "cancel" and in_block and lease._body is not None and not lease._body.done():
            lease._cut = lease._body.cancel(f"{self!r}: the lease with token {lease.token} was lost")
        lease.lost.set()

    def _listen(self) -> None:
        if self._ear is None or self._ear.done():
            loop = asyncio.get_running_loop()
            self._ear = loop.create_task(self._hear(), name=f"{type(self).__name__} {self._name} bell")

    async def _hear(self) -> None:
        """Takes from the bell for as long as somebody waits here, and a moment longer."""
        bell = f"{self._base}bell:{self._client}"
        while self.waiting:
            trip = self._spawn(self._redis.execute_command("BLPOP", bell, BELL))
            try:
                rung = await self._reply(trip, BELL + self._reply_timeout)
            except asyncio.CancelledError:
                trip.cancel()
                raise
            except LimitUnavailable as error:
                self._unreachable(error)
                continue
            if rung is not None:
                text = rung[1].decode() if isinstance(rung[1], bytes) else rung[1]
                id, _, token = text.partition(" ")
                lease = self._leases.get(id)
                if lease is not None and lease.state in ("asking", "waiting"):
                    # One that took so long to hear of it that its lease may be over asks what became of it.
                    if lease.state == "asking" or asyncio.get_running_loop().time() < lease._ends:
                        self._granted(lease, int(token))
                    else:
                        self._ring()


class Semaphore(_Leased):
    """At most so many at a time, in all processes together: :class:`loopwright.Semaphore`, with its books in Redis.

    ::

        exports = Semaphore(8, redis=Redis.from_url("redis://..."), name="exports")
        async with exports:
            ...

    A permit is a lease: a process that dies, or loses its connection, gives its permits back by ceasing to renew them.

    Args:
        value: permits in all, 1 or more. Give the same number everywhere; while processes disagree, the largest holds.
        redis: a client of ``redis.asyncio`` (or ``valkey.asyncio``), ``RedisCluster`` too, with room for two
            connections at least: while somebody waits, one of them is kept busy.
        name: what the processes share it by.
        lease: seconds after which the permits of a process that is gone are somebody else's, by the server's clock. It
            is renewed each third of that.
        on_lost: what becomes of an ``async with`` block whose lease is lost: ``"cancel"`` cancels it, and the block
            raises :class:`loopwright.LeaseLost`; ``"tell"`` lets it go on to its end, which raises that. Either way
            ``lost`` of the :class:`Lease` is set.
        fail: what happens while Redis cannot be asked. ``"closed"``: ``acquire`` raises
            :class:`loopwright.LimitUnavailable`, and so do those that wait; who is in is told when its lease ends.
            ``"open"``: everybody goes ahead, without a limit; who is in stays in, and counts again when Redis is back.
        reply_timeout: seconds that Redis may take for one round trip before it counts as gone.
        prefix: the beginning of the keys: ``prefix:semaphore:{name}:...``, all in one slot of a cluster.

    Raises:
        ValueError, TypeError: an argument that makes no sense, named.

    What the server has said goes: ``value`` and ``locked()`` are as old as the last round trip. ``release`` does not
    wait; ``try_acquire`` has to be awaited. One event loop at a time; not thread-safe.
    """

    kind = "semaphore"

    def __init__(  # noqa: PLR0913 (each is a choice of its own)
        self,
        value: int = 1,
        *,
        redis: Redis | RedisCluster,
        name: str,
        lease: float = 30.0,
        on_lost: OnLost = "cancel",
        fail: Fail = "closed",
        reply_timeout: float = 2.0,
        prefix: str = "loopwright",
    ) -> None:
        super().__init__(
            value=value,
            redis=redis,
            name=name,
            lease=lease,
            on_lost=on_lost,
            fail=fail,
            reply_timeout=reply_timeout,
            prefix=prefix,
        )

    def permit(self, n: int = 1) -> Permit:
        """``async with semaphore.permit(n) as lease:`` holds ``n`` permits; all at once or none."""
        return Permit(self, units(n, "Semaphore.permit(n)", self._limit))


class Lock(_Leased):
    """One at a time, in all processes together: :class:`loopwright.Lock`, with its books in Redis.

    ::

        async with Lock(redis=client, name=f"report-{day}") as lease:
            if not await is_there(day):  # a single flight: who comes second finds it done
                await write(day, fence=lease.token)

    A :class:`Semaphore` with one permit; its arguments, errors and limits are the same.
    """

    kind = "lock"
    _stats = SharedLockStats
    _not_held = RuntimeError  # as the local one

    def __init__(  # noqa: PLR0913 (each is a choice of its own)
        self,
        *,
        redis: Redis | RedisCluster,
        name: str,
        lease: float = 30.0,
        on_lost: OnLost = "cancel",
        fail: Fail = "closed",
        reply_timeout: float = 2.0,
        prefix: str = "loopwright",
    ) -> None:
        super().__init__(
            value=1,
            redis=redis,
            name=name,
            lease=lease,
            on_lost=on_lost,
            fail=fail,
            reply_timeout=reply_timeout,
            prefix=prefix,
        )
