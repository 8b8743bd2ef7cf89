"""What the limits in Redis share: scripts asked by their hash, round trips that nothing can interrupt, a server that is
not there.

A round trip is a task of its own. Whoever waits for it may be cancelled at any moment: the trip goes on, and what it
took is given back as soon as that is known. So no cancel closes a connection, and none leaves a permit behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
from collections.abc import Coroutine, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from loopwright._arguments import count, real, seconds
from loopwright.errors import LimitUnavailable, LoopMismatch
from loopwright.timeouts import timeout

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.cluster import RedisCluster

__all__ = ["AGAIN", "Answer", "Fail", "Script", "Shared", "settled", "share", "unheard", "units"]

T = TypeVar("T")
Fail = Literal["open", "closed"]

AGAIN = 1.0
"""Seconds after a failure during which a limit that fails open does not ask again: one slow call a second is enough."""

_log = logging.getLogger("loopwright.redis")

_UNAVAILABLE = frozenset(
    {
        "BusyLoadingError",
        "ClusterDownError",
        "ClusterError",
        "ConnectionError",
        "MasterDownError",
        "MaxConnectionsError",
        "OutOfMemoryError",
        "ReadOnlyError",
        "TimeoutError",
        "TryAgainError",
    }
)
"""Errors of redis-py and valkey-py that mean: there is no server that could answer. By name, to import neither."""


class Script:
    """A Lua script, known to the server by the SHA-1 of its text.

    A server that does not know it (a new one, one that was restarted or flushed) is sent the text once, which makes it
    known.
    """

    _directory = Path(__file__).parent / "_redis_scripts"

    def __init__(self, name: str) -> None:
        self.text = "\n".join((self._directory / f"{part}.lua").read_text() for part in ("prelude", name))
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, redis: Any, keys: tuple[str, ...], arguments: tuple[object, ...]) -> Any:
        """One round trip, two where the server does not know the script."""
        try:
            return await redis.execute_command("EVALSHA", self.sha, len(keys), *keys, *arguments)
        except Exception as error:
            if type(error).__name__ != "NoScriptError":
                raise
        return await redis.execute_command("EVAL", self.text, len(keys), *keys, *arguments)


class Answer(Generic[T]):
    """The server's answer to a question that the local object answers at once: it has to be awaited.

    ``if limiter.try_acquire():`` would always be true, so that is refused.
    """

    __slots__ = ("_coroutine", "_what")

    def __init__(self, coroutine: Coroutine[Any, Any, T], what: str) -> None:
        self._coroutine = coroutine
        self._what = what

    def __await__(self) -> Generator[Any, None, T]:
        return self._coroutine.__await__()

    def __bool__(self) -> bool:
        raise self._refused()

    def __float__(self) -> float:
        raise self._refused()

    def _refused(self) -> TypeError:
        self._coroutine.close()
        return TypeError(f"{self._what} of a limit in Redis is a round trip: write `await {self._what}`")


class Shared:
    """The base of each limit: its client, its keys, its loop, and what it does without a server."""

    kind: ClassVar[str]
    script: ClassVar[Script]

    def __init__(  # noqa: PLR0913 (each is a choice of its own)
        self,
        *,
        redis: Redis | RedisCluster,
        name: str,
        fail: Fail,
        reply_timeout: float,
        prefix: str,
        keys: tuple[str, ...],
    ) -> None:
        what = type(self).__name__
        if not callable(getattr(redis, "execute_command", None)):
            raise TypeError(f"{what}(redis=...) must be a client of redis.asyncio, got {redis!r}")
        if not isinstance(name, str) or not name or "}" in name:
            raise ValueError(f"{what}(name=...) must be a text without '}}', the same in all processes, got {name!r}")
        if fail not in ("open", "closed"):
            raise ValueError(f"{what}(fail=...) must be 'open' or 'closed', got {fail!r}")
        self._redis: Any = redis
        self._name = name
        self._fail = fail
        self._reply_timeout = seconds(reply_timeout, f"{what}(reply_timeout=...)", positive=True)
        self._base = f"{prefix}:{self.kind}:{{{name}}}:"
        self._keys = tuple(self._base + key for key in keys)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._client = ""
        self._trips: set[asyncio.Task[Any]] = set()
        self._quiet_until = 0.0
        self._round_trips = self._failures = self._let_through = 0

    @property
    def name(self) -> str:
        """What the processes that share it call it."""
        return self._name

    # The loop

    def _bind(self) -> asyncio.AbstractEventLoop:
        """The running loop. Where it is another one, or another process after a fork, everything begins anew."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._pid != os.getpid():
            if self._in_use() and self._pid == os.getpid() and self._loop is not None and not self._loop.is_closed():
                raise LoopMismatch(
                    f"{self!r} is bound to a different event loop, in which it is in use: make one for each loop, with "
                    "a client of its own"
                )
            self._loop, self._pid, self._client = loop, os.getpid(), secrets.token_hex(6)
            self._trips = set()
            self._quiet_until = 0.0
            self._forget()
        return loop

    def _in_use(self) -> bool:
        raise NotImplementedError

    def _forget(self) -> None:
        """Drops what belongs to a loop that is gone."""

    # Round trips

    def _spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that somebody keeps, whoever stops waiting for it."""
        task = self._bind().create_task(coroutine, name=f"{type(self).__name__} {self._name}")
        self._trips.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._trips.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked has been told, or has gone

    def _arguments(self) -> tuple[object, ...]:
        """What the script is told before the arguments of a command."""
        raise NotImplementedError

    def _send(self, command: str, *arguments: object) -> asyncio.Task[Any]:
        """A round trip on its way."""
        self._round_trips += 1
        return self._spawn(self.script.run(self._redis, self._keys, (command, "", *self._arguments(), *arguments)))

    async def _reply(self, trip: asyncio.Task[Any], patience: float | None = None) -> Any:
        """What came back. A cancel of who waits leaves the trip alone."""
        if not await settled(trip, self._reply_timeout if patience is None else patience):
            trip.cancel()
            raise self._unavailable(f"no reply within reply_timeout={self._reply_timeout:g} s")
        try:
            reply = trip.result()
        except asyncio.CancelledError:
            raise self._unavailable("the round trip was cancelled") from None
        except Exception as error:
            if not _means_unavailable(error):
                raise
            raise self._unavailable(f"{type(error).__name__}: {error}") from error
        self._quiet_until = 0.0
        return reply

    async def _ask(self, command: str, *arguments: object) -> Any:
        return await self._reply(self._send(command, *arguments))

    async def _tell(self, command: str, *arguments: object) -> Any:
        """A round trip in a task that nobody cancels; None if Redis is not there."""
        self._round_trips += 1
        told = (command, "", *self._arguments(), *arguments)
        try:
            async with timeout(self._reply_timeout):
                reply = await self.script.run(self._redis, self._keys, told)
        except Exception as error:
            if not _means_unavailable(error):
                raise
            self._unavailable(f"{type(error).__name__}: {error}")
            return None
        self._quiet_until = 0.0
        return reply

    # A server that is not there

    def _unavailable(self, why: str) -> LimitUnavailable:
        self._failures += 1
        loop = asyncio.get_running_loop()
        if self._fail == "open" and loop.time() >= self._quiet_until:
            _log.warning("%r: Redis cannot be asked (%s); fail='open' lets everybody through meanwhile", self, why)
        self._quiet_until = loop.time() + AGAIN
        return LimitUnavailable(f"{self!r}: Redis cannot be asked ({why}), and fail='closed'")

    def _is_quiet(self) -> bool:
        """Whether it goes ahead without asking: it fails open, and has just failed."""
        return self._fail == "open" and asyncio.get_running_loop().time() < self._quiet_until

    async def aclose(self) -> None:
        """Ends what runs in the background for it, after what is on its way to the server. It may be used again."""
        while trips := [trip for trip in self._trips if not trip.done()]:
            await asyncio.wait(trips)


async def settled(task: asyncio.Task[Any], limit: float) -> bool:
    """Waits for a task to end, and tells whether it did in time. A cancel of who waits leaves the task alone."""
    if task.done():
        return True
    end = asyncio.get_running_loop().create_future()

    def wake(_: object) -> None:
        if not end.done():
            end.set_result(None)

    task.add_done_callback(wake)
    try:
        async with timeout(limit):
            await end
    except TimeoutError:
        return task.done()
    finally:
        task.remove_done_callback(wake)
    return True


def units(value: object, what: str, most: float) -> int:
    """Reads a number of permits or units, from 1 to what there can be at all."""
    read = count(value, what)
    if read > most:
        raise ValueError(f"{what} must be no more than {most:g}, which is all there can be at once, got {value}")
    return read


def share(value: object, what: str) -> float:
    """Reads a part of a whole: more than 0, up to 1."""
    read = real(value, what)
    if not 0 < read <= 1:
        raise ValueError(f"{what} must be more than 0 and no more than 1, got {value!r}")
    return float(read)


def _means_unavailable(error: Exception) -> bool:
    if isinstance(error, (OSError, TimeoutError)):
        return True
    return any(cls.__name__ in _UNAVAILABLE for cls in type(error).__mro__)


@contextlib.contextmanager
def unheard() -> Generator[None]:
    """For what is said to a server that may not be there, where nobody waits for an answer."""
    with contextlib.suppress(LimitUnavailable):
        yield
