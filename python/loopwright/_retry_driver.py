"""The forms of a retried call: the loops that drive functions of every kind, and blocks as attempts.

Each loop is in the frame that awaits the user's coroutine, so that tracebacks and profilers show nothing but that frame
between the caller and the user's own (rule 8). What a failed attempt means is in :mod:`loopwright._retry_call`.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, Any, Literal

from loopwright import _trace
from loopwright._loopwright import time_left, timeout, timeout_at
from loopwright._retry_call import FailedCall, name_of, span, until

if TYPE_CHECKING:
    from loopwright.retries import Retry

__all__ = [
    "NOT_INTERRUPTED",
    "Attempt",
    "Attempts",
    "SyncAttempt",
    "direct",
    "generator",
    "in_time",
    "plain",
    "sync_attempts",
    "thorough",
]

NOT_INTERRUPTED = (
    "Retry(attempt_timeout=...) cannot end {}, which is not async: leave it out, and give the call a timeout of its own"
)


# async def functions: three forms of one loop, so that each pays for what it uses only


def direct(policy: Retry, fn: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """Without timeouts."""

    async def retried(*args: Any, **kwargs: Any) -> Any:
        policy._calls += 1
        run = fn if _trace.hook is None else policy._traced(fn)
        call = None
        while True:
            try:
                result = await (run(*args, **kwargs) if kwargs else run(*args))
            except Exception as error:
                call = call or FailedCall(policy, fn)
                delay = call.failed(error, left=time_left())
                if delay is None:
                    raise
            else:
                if call is not None:
                    policy._recovered(call)
                return result
            await asyncio.sleep(delay)

    return retried


def in_time(policy: Retry, fn: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """With a total timeout, entered and left without the awaits of an ``async with``."""
    total = policy._timeout

    async def retried(*args: Any, **kwargs: Any) -> Any:
        policy._calls += 1
        run = fn if _trace.hook is None else policy._traced(fn)
        call = None
        scope = timeout(total)
        try:
            if not scope._start():
                await asyncio.sleep(0)
                scope._start_late()
            while True:
                try:
                    result = await (run(*args, **kwargs) if kwargs else run(*args))
                except Exception as error:
                    call = call or FailedCall(policy, fn)
                    delay = call.failed(error, left=time_left())
                    if delay is None:
                        raise
                else:
                    scope._end()
                    if call is not None:
                        policy._recovered(call)
                    return result
                await asyncio.sleep(delay)
        except BaseException as error:
            try:
                scope._fail(error)
            except TimeoutError as expired:
                (call or FailedCall(policy, fn)).expired(expired, total)
                raise
            raise

    return retried


def thorough(policy: Retry, fn: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """With everything."""
    total = policy._timeout

    async def retried(*args: Any, **kwargs: Any) -> Any:
        policy._calls += 1
        run = fn if _trace.hook is None else policy._traced(fn)
        call = None
        number = 0
        scope = timeout(total)
        try:
            async with scope:
                while True:
                    number += 1
                    limit = timeout(policy._limit(number))
                    try:
                        async with limit:
                            result = await run(*args, **kwargs)
                    except Exception as error:
                        call = call or FailedCall(policy, fn)
                        delay = call.failed(error, left=time_left(), timed_out=limit.expired())
                        if delay is None:
                            raise
                    else:
                        if not policy._rejects(result):
                            policy._recovered(call)
                            return result
                        call = call or FailedCall(policy, fn)
                        delay = call.failed(None, left=time_left(), result=result)
                        if delay is None:
                            return result
                        del result
                    await asyncio.sleep(delay)
        except TimeoutError as error:
            if scope.expired() and not hasattr(error, "retry"):
                (call or FailedCall(policy, fn)).expired(error, total)
            raise

    return retried


def generator(policy: Retry, fn: Callable[..., AsyncGenerator[Any, Any]]) -> Callable[..., Any]:
    """An async generator: the first item is tried for; from there on it is the user's."""
    total = policy._timeout

    async def first(args: Any, kwargs: Any) -> tuple[AsyncGenerator[Any, Any], Any] | None:
        call = None
        number = 0
        scope = timeout(total)
        try:
            async with scope:
                while True:
                    number += 1
                    source = fn(*args, **kwargs)
                    limit = timeout(policy._limit(number))
                    try:
                        async with limit:
                            with span(policy, fn, number):
                                item = await anext(source, _NOTHING)
                    except Exception as error:
                        call = call or FailedCall(policy, fn)
                        delay = call.failed(error, left=time_left(), timed_out=limit.expired())
                        if delay is None:
                            raise
                    else:
                        policy._recovered(call)
                        return None if item is _NOTHING else (source, item)
                    await asyncio.sleep(delay)
        except TimeoutError as error:
            if scope.expired() and not hasattr(error, "retry"):
                (call or FailedCall(policy, fn)).expired(error, total)
            raise

    async def retried(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        policy._calls += 1
        begun = await first(args, kwargs)
        if begun is None:
            return
        source, item = begun
        del begun
        try:
            while True:
                try:
                    sent = yield item
                except GeneratorExit:
                    raise
                except BaseException as error:
                    item = await source.athrow(error)
                else:
                    item = await source.asend(sent)
        except StopAsyncIteration:
            return
        finally:
            await source.aclose()

    return retried


_NOTHING: Any = object()


# Plain functions


def plain(policy: Retry, fn: Callable[..., Any]) -> Callable[..., Any]:
    total = policy._timeout
    looks = bool(policy._results) or policy._attempt_timeout is not None

    def retried(*args: Any, **kwargs: Any) -> Any:
        policy._calls += 1
        run = fn if _trace.hook is None else policy._traced_plain(fn)
        deadline = None if total is None else time.monotonic() + total
        call = None
        while True:
            try:
                result = run(*args, **kwargs) if kwargs else run(*args)
            except Exception as error:
                call = call or FailedCall(policy, fn)
                delay = call.failed(error, left=until(deadline), in_task=False)
                if delay is None:
                    raise
                _may_block(delay, fn)
            else:
                if call is None and not looks and type(result) is not CoroutineType:
                    return result
                if isinstance(result, Awaitable):
                    return _adopt(policy, fn, result, args, kwargs)
                if policy._attempt_timeout is not None:
                    raise TypeError(NOT_INTERRUPTED.format(fn))
                if not policy._rejects(result):
                    policy._recovered(call)
                    return result
                call = call or FailedCall(policy, fn)
                delay = call.failed(None, left=until(deadline), result=result)
                if delay is None:
                    return result
                _may_block(delay, fn)
            time.sleep(delay)

    return retried


def _adopt(policy: Retry, fn: Callable[..., Any], first: Awaitable[Any], args: Any, kwargs: Any) -> Any:
    """A plain function has given something to be awaited: goes on as for an ``async def``."""
    given: list[Awaitable[Any]] = [first]

    def attempt(*args: Any, **kwargs: Any) -> Awaitable[Any]:
        return given.pop() if given else fn(*args, **kwargs)

    functools.update_wrapper(attempt, fn, updated=())
    policy._calls -= 1  # which counts it again, when it is awaited
    return thorough(policy, attempt)(*args, **kwargs)


def _may_block(delay: float, fn: object) -> None:
    """Refuses the sleep of a plain function where it would stop an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    if delay > 0:
        raise RuntimeError(
            f"Retry of {name_of(fn)} would block the running event loop for {delay:.3g} s: make it an "
            "`async def`, or call it in a thread (loopwright.offload, asyncio.to_thread)"
        )


# Blocks


class Attempts:
    """``async for attempt in retry``: the attempts of one call whose body is a block."""

    __slots__ = ("_attempt", "_call", "_deadline", "_delay", "_number", "_policy")

    def __init__(self, policy: Retry) -> None:
        self._policy = policy
        self._attempt: Attempt | None = None
        self._call: FailedCall | None = None
        self._deadline: float | None = None
        self._delay: float | None = None
        self._number = 0

    def __aiter__(self) -> Attempts:
        return self

    async def __anext__(self) -> Attempt:
        policy = self._policy
        if self._attempt is None:
            policy._calls += 1
            if policy._timeout is not None:
                self._deadline = asyncio.get_running_loop().time() + policy._timeout
        elif self._attempt._state != "over":
            raise RuntimeError(_NOT_ENTERED.format("async for", "async with"))
        elif self._delay is None:
            raise StopAsyncIteration
        else:
            await asyncio.sleep(self._delay)
            self._delay = None
        self._number += 1
        self._attempt = Attempt(self, self._number)
        return self._attempt


class Attempt:
    """One attempt of ``async for attempt in retry``: enter it, and do the work in its block.

    An error that is retried ends the block and the loop goes on; any other one is raised. A block that ends well ends
    the loop.
    """

    __slots__ = ("_attempts", "_scope", "_span", "_state", "number")

    number: int
    """The first is 1."""

    def __init__(self, attempts: Attempts, number: int) -> None:
        self.number = number
        self._attempts = attempts
        self._state: Literal["new", "entered", "over"] = "new"

    async def __aenter__(self) -> Attempt:
        if self._state != "new":
            raise RuntimeError("an attempt is entered once: let `async for attempt in retry` give the next one")
        policy, deadline = self._attempts._policy, self._attempts._deadline
        limit = policy._limit(self.number)
        if limit is not None:
            when = asyncio.get_running_loop().time() + limit
            deadline = when if deadline is None else min(when, deadline)
        self._scope = timeout_at(deadline)
        await self._scope.__aenter__()
        self._state = "entered"
        self._span = None if _trace.hook is None else span(policy, _BLOCK, self.number)
        if self._span is not None:
            self._span.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._state = "over"
        attempts, scope = self._attempts, self._scope
        policy = attempts._policy
        if self._span is not None:
            self._span.__exit__(kind, error, traceback)
        raised = error
        try:
            await scope.__aexit__(kind, error, traceback)
        except TimeoutError as expired:
            raised = expired
        if raised is None:
            policy._recovered(attempts._call)
            return False
        try:
            if not isinstance(raised, Exception):
                return False
            call = attempts._call = attempts._call or FailedCall(policy, _BLOCK)
            deadline, left = attempts._deadline, time_left()
            if deadline is not None:
                own = deadline - asyncio.get_running_loop().time()
                left = own if left is None else min(own, left)
                if scope.expired() and own <= 0 and isinstance(raised, TimeoutError):
                    call.expired(raised, policy._timeout)
                    raise raised
            attempts._delay = call.failed(raised, left=left, timed_out=scope.expired())
            if attempts._delay is not None:
                return True
            if raised is error:
                return False
            raise raised
        finally:
            del raised, error


class SyncAttempt:
    """One attempt of ``for attempt in retry``, as :class:`Attempt` is of ``async for``. It is not interrupted."""

    __slots__ = ("_call", "_deadline", "_delay", "_policy", "_span", "_state", "number")

    number: int
    """The first is 1."""

    def __init__(self, policy: Retry, number: int, call: FailedCall | None, deadline: float | None) -> None:
        self.number = number
        self._policy = policy
        self._call = call
        self._deadline = deadline
        self._delay: float | None = None
        self._state: Literal["new", "entered", "over"] = "new"

    def __enter__(self) -> SyncAttempt:
        if self._state != "new":
            raise RuntimeError("an attempt is entered once: let `for attempt in retry` give the next one")
        self._state = "entered"
        self._span = None if _trace.hook is None else span(self._policy, _BLOCK, self.number)
        if self._span is not None:
            self._span.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._state = "over"
        if self._span is not None:
            self._span.__exit__(kind, error, traceback)
        if error is None:
            self._policy._recovered(self._call)
            return False
        if not isinstance(error, Exception):
            return False
        self._call = self._call or FailedCall(self._policy, _BLOCK)
        self._delay = self._call.failed(error, left=until(self._deadline), in_task=False)
        if self._delay is None:
            return False
        _may_block(self._delay, _BLOCK)
        return True


def sync_attempts(policy: Retry) -> Iterator[SyncAttempt]:
    policy._calls += 1
    deadline = None if policy._timeout is None else time.monotonic() + policy._timeout
    number, call = 0, None
    while True:
        number += 1
        attempt = SyncAttempt(policy, number, call, deadline)
        yield attempt
        if attempt._state != "over":
            raise RuntimeError(_NOT_ENTERED.format("for", "with"))
        if attempt._delay is None:
            return
        time.sleep(attempt._delay)
        call = attempt._call


_NOT_ENTERED = (
    "the block of an attempt is where Retry sees its errors: write `{} attempt in retry:` and in it "
    "`{} attempt:` around the work"
)


def _BLOCK() -> None:
    """Stands for a block where a function is named."""


_BLOCK.__qualname__ = "a block"
