"""resilient, safe_execute: what goes around a call, in the right order; a call whose failure is not the end.

The order, from outside to inside: the total timeout, the retries, and for each attempt the breaker, the limiter and the
attempt's timeout. Why is told in docs/resilience.md.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import re
import reprlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, ParamSpec, TypeVar, overload

from loopwright import _trace
from loopwright._arguments import seconds
from loopwright._loopwright import time_left
from loopwright._loopwright import timeout as deadline
from loopwright._retry_call import FailedCall, is_being_cancelled
from loopwright.retries import Retry

__all__ = ["resilient", "safe_execute"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_D = TypeVar("_D")
_log = logging.getLogger("loopwright.resilience")

Guard = AbstractAsyncContextManager[Any, Any]


class _Nothing:
    """Stands for a breaker or limiter that was not asked for."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        return None


_NOTHING = _Nothing()


@overload
def resilient(
    fn: Callable[_P, Coroutine[Any, Any, _T]],
    /,
    *,
    retry: Retry | None = None,
    breaker: Guard | Callable[..., Guard] | None = None,
    limiter: Guard | Callable[..., Guard] | None = None,
    timeout: float | None = None,
) -> Callable[_P, Coroutine[Any, Any, _T]]: ...
@overload
def resilient(
    fn: None = None,
    /,
    *,
    retry: Retry | None = None,
    breaker: Guard | Callable[..., Guard] | None = None,
    limiter: Guard | Callable[..., Guard] | None = None,
    timeout: float | None = None,
) -> Callable[[Callable[_P, Coroutine[Any, Any, _T]]], Callable[_P, Coroutine[Any, Any, _T]]]: ...
def resilient(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    retry: Retry | None = None,
    breaker: Guard | Callable[..., Guard] | None = None,
    limiter: Guard | Callable[..., Guard] | None = None,
    timeout: float | None = None,
) -> Any:
    """Puts a timeout, retries, a breaker and a limiter around an ``async def`` function, in the order that works.

    From outside to inside, whatever the order of the arguments::

        timeout  >  retry  >  breaker  >  limiter  >  retry's attempt_timeout  >  the call

    - The **total** is outermost: waits and queues count, nobody waits longer than that.
    - **Retries** are around the breaker, so that each attempt counts there, and a breaker that opens ends them: its
      ``BreakerOpen`` is retried only if it says when calls will be let through, and that is in time.
    - The **breaker** is around the limiter, so that a call it refuses takes no place in the limiter's line.
    - The **attempt's timeout** begins when the limiter has let the call through: the wait in our own line does not say
      that the other side is slow.

    Args:
        fn: an ``async def`` function. Left out, it gives a decorator: ``@resilient(retry=..., breaker=...)``.
        retry: a :class:`Retry`; its own ``timeout`` counts too. None: one attempt.
        breaker: an async context manager that is entered for each attempt, or a function that gives it for the
            arguments of the call: ``breaker=lambda url: per_host[host_of(url)]`` with a :class:`Keyed`.
        limiter: the same: a :class:`RateLimiter`, a :class:`Semaphore`, or a function that gives it.
        timeout: seconds for everything together; None for no limit but the retry's.

    Returns:
        The function with all of that; or the decorator.

    Raises:
        TypeError: ``fn`` is no ``async def`` function, or an argument is nothing that can be entered, or called.
        ValueError: ``timeout`` is not more than 0.

    A cancel passes through all of it. Errors of the call are raised as they are, as by :class:`Retry`.
    """
    if retry is not None and not isinstance(retry, Retry):
        raise TypeError(f"resilient(retry=...) must be a Retry, got {retry!r}")
    for what, guard in (("breaker", breaker), ("limiter", limiter)):
        if guard is not None and not hasattr(guard, "__aenter__") and not callable(guard):
            raise TypeError(
                f"resilient({what}=...) must be an async context manager or a function that gives one, got {guard!r}"
            )
    total = None if timeout is None else seconds(timeout, "resilient(timeout=...)", positive=True)
    if fn is None:
        return functools.partial(resilient, retry=retry, breaker=breaker, limiter=limiter, timeout=timeout)
    if not inspect.iscoroutinefunction(fn):
        raise TypeError(f"resilient takes an `async def` function, got {fn!r}: for a plain one there is Retry")
    policy = retry or Retry(attempts=1, timeout=None, budget=None)
    if total is None or (policy.timeout is not None and policy.timeout < total):
        total = policy.timeout
    guarded = _guarded(policy, fn, breaker or _NOTHING, limiter or _NOTHING, total)
    functools.update_wrapper(guarded, fn)
    return guarded


def _guarded(
    policy: Retry,
    fn: Callable[..., Awaitable[Any]],
    breaker: Any,
    limiter: Any,
    total: float | None,
) -> Callable[..., Any]:
    breaker_of = None if hasattr(breaker, "__aenter__") else breaker
    limiter_of = None if hasattr(limiter, "__aenter__") else limiter

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        policy._calls += 1
        run = fn if _trace.hook is None else policy._traced(fn)
        call = None
        number = 0
        scope = deadline(total)
        try:
            async with scope:
                while True:
                    number += 1
                    limit = None
                    own_breaker = breaker if breaker_of is None else breaker_of(*args, **kwargs)
                    own_limiter = limiter if limiter_of is None else limiter_of(*args, **kwargs)
                    try:
                        async with own_breaker, own_limiter, deadline(policy._limit(number)) as limit:
                            result = await run(*args, **kwargs)
                    except Exception as error:
                        call = call or FailedCall(policy, fn)
                        timed_out = limit is not None and limit.expired()
                        delay = call.failed(error, left=time_left(), timed_out=timed_out)
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

    return guarded


@overload
async def safe_execute(
    fn: Callable[..., Coroutine[Any, Any, _T]],
    /,
    *args: Any,
    default: None = None,
    errors: type[Exception] | tuple[type[Exception], ...] = Exception,
    operation: str | None = None,
    **kwargs: Any,
) -> _T | None: ...
@overload
async def safe_execute(
    fn: Callable[..., Coroutine[Any, Any, _T]],
    /,
    *args: Any,
    default: Callable[[], Coroutine[Any, Any, _D]],
    errors: type[Exception] | tuple[type[Exception], ...] = Exception,
    operation: str | None = None,
    **kwargs: Any,
) -> _T | _D: ...
@overload
async def safe_execute(
    fn: Callable[..., Coroutine[Any, Any, _T]],
    /,
    *args: Any,
    default: Callable[[], _D],
    errors: type[Exception] | tuple[type[Exception], ...] = Exception,
    operation: str | None = None,
    **kwargs: Any,
) -> _T | _D: ...
@overload
async def safe_execute(
    fn: Callable[..., Coroutine[Any, Any, _T]],
    /,
    *args: Any,
    default: _D,
    errors: type[Exception] | tuple[type[Exception], ...] = Exception,
    operation: str | None = None,
    **kwargs: Any,
) -> _T | _D: ...
@overload
async def safe_execute(
    fn: Callable[..., _T],
    /,
    *args: Any,
    default: Any = None,
    errors: type[Exception] | tuple[type[Exception], ...] = Exception,
    operation: str | None = None,
    **kwargs: Any,
) -> _T | Any: ...
async def safe_execute(
    fn: Callable[..., Any],
    /,
    *args: Any,
    default: Any = None,
    errors: type[Exception] | tuple[type[Exception], ...] = Exception,
    operation: str | None = None,
    **kwargs: Any,
) -> Any:
    """Calls ``fn(*args, **kwargs)``; when it fails, logs that and answers ``default``: for what may be missing.

    The log line (logger ``loopwright.resilience``, level ERROR) has the operation, the duration, the traceback and the
    arguments, and the same as ``extra`` fields. What is named like a secret (password, token, key, cookie ...) is not
    shown, nor are the credentials in a URL; long values are cut.

    Args:
        fn: an ``async def`` function, or a plain, quick one. No coroutine: what makes its arguments would run outside.
        default: what to answer, or a function that gives it (``default=list``), plain or ``async def``.
        errors: what counts as a failure, types of :class:`Exception`. Everything else is raised.
        operation: what it is called in the log; ``fn``'s name if it is left out. (A function with an argument called
            ``default``, ``errors`` or ``operation`` needs a :func:`functools.partial`.)

    Returns:
        What ``fn`` returns, or the default.

    Raises:
        CancelledError: the task was cancelled. An error that a cancel under way has become is raised as well: it is no
            answer.
        TypeError: ``fn`` cannot be called, or ``errors`` are not types of Exception.
    """
    kinds = errors if isinstance(errors, tuple) else (errors,)
    if asyncio.iscoroutine(fn):
        fn.close()
        raise TypeError(f"safe_execute takes a function and its arguments, got {fn!r}: leave out the call")
    if not callable(fn):
        raise TypeError(f"safe_execute takes a function and its arguments, got {fn!r}")
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise TypeError(f"safe_execute(errors=...) must be types of Exception, got {kind!r}: no cancel is eaten")
    started = time.monotonic()
    try:
        answer = fn(*args, **kwargs)
        return await answer if isinstance(answer, Awaitable) else answer
    except kinds as error:
        if is_being_cancelled(error):
            raise
        _report(fn, args, kwargs, operation, time.monotonic() - started)
    given: Any = default() if callable(default) else default
    return await given if inspect.isawaitable(given) else given


def _report(fn: Callable[..., Any], args: Any, kwargs: Any, operation: str | None, duration: float) -> None:
    operation = operation or getattr(fn, "__qualname__", None) or repr(fn)
    arguments = _redacted(fn, args, kwargs)
    _log.error(
        "%s failed after %.3f s: arguments %s",
        operation,
        duration,
        ", ".join(f"{name}={value}" for name, value in arguments.items()) or "none",
        exc_info=True,
        extra={"operation": operation, "duration": duration, "arguments": arguments},
    )


_SECRET = re.compile(
    r"pass(word|wd|phrase)?$|passw|secret|token|api_?key|private_?key|access_?key|^key$|auth|cookie|credential|session_?id"
    r"|signature|^pin$|^pwd$",
    re.IGNORECASE,
)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_HIDDEN = "***"
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100


def _redacted(fn: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, str]:
    """The arguments by name, as short texts without secrets."""
    try:
        bound: Mapping[str, Any] = inspect.signature(fn).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        bound = {**{str(index): value for index, value in enumerate(args)}, **kwargs}
    return {name: _shown(name, value) for name, value in bound.items()}


def _shown(name: str, value: object) -> str:
    if _SECRET.search(name):
        return _HIDDEN
    try:
        text = _short.repr(_without_secrets(value))
    except Exception:
        return f"<{type(value).__name__} whose repr raises>"
    return _CREDENTIALS.sub(f"{_HIDDEN}@", text)


def _without_secrets(value: object) -> object:
    if isinstance(value, Mapping):
        return {
            key: _HIDDEN if isinstance(key, str) and _SECRET.search(key) else _without_secrets(item)
            for key, item in value.items()
        }
    return value
