"""Retry: calls to what fails now and then, made again in a way that does not make it worse.

Here live the forms in which a call is driven (decorators of functions of every kind, ``async for``), what a failed call
tells about itself, and whose calls share a budget. The verdict on a failed attempt, the delays and the budget are
decided in the core (``crates/core/src/retry.rs``). Errors of HTTP clients are in :mod:`loopwright._http_errors`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import random
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, Self, TypeVar, overload

from loopwright._arguments import count, real, seconds
from loopwright._http_errors import http_retry_after, is_transient
from loopwright._loopwright import _RetryBudget, _RetryPolicy
from loopwright._retry_call import FailedAttempt, FailedCall, RetryEvent, RetryReport, now, span
from loopwright._retry_driver import (
    NOT_INTERRUPTED,
    Attempt,
    Attempts,
    SyncAttempt,
    direct,
    generator,
    in_time,
    plain,
    sync_attempts,
    thorough,
)

__all__ = [
    "Attempt",
    "Attempts",
    "FailedAttempt",
    "Retried",
    "Retry",
    "RetryBudget",
    "RetryBudgetStats",
    "RetryEvent",
    "RetryOn",
    "RetryReport",
    "RetryStats",
    "SyncAttempt",
    "http_errors",
    "http_retry_after",
]

_P = ParamSpec("_P")
_Q = ParamSpec("_Q")
_R = TypeVar("_R")
_T = TypeVar("_T")
_S = TypeVar("_S")

Jitter = Literal["full", "equal", "decorrelated", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryOn:
    """What is worth another attempt: a preset for ``Retry(on=...)``.

    :data:`http_errors` is one, for the errors of aiohttp and httpx. Presets, exception types and predicates can stand
    together in a tuple.

    Args:
        errors: exception types.
        error: asked with every other exception.
        result: asked with what a call returned; True means that it counts as failed. When it is given up, the last
            result is returned.
        retry_after: asked with the exception, or with the result that counts as failed: the seconds that the other side
            wants to be left alone; None when it does not say.
    """

    errors: tuple[type[Exception], ...] = ()
    error: Callable[[Exception], object] | None = None
    result: Callable[[Any], object] | None = None
    retry_after: Callable[[Any], float | None] | None = None


On = (
    type[Exception]
    | RetryOn
    | Callable[[Exception], object]
    | tuple["type[Exception] | RetryOn | Callable[[Exception], object]", ...]
)


@dataclass(frozen=True, slots=True)
class RetryStats:
    """What a :class:`Retry` looks like at one moment."""

    name: str | None
    """The name of the policy."""
    calls: int
    """Calls made through it, however many attempts each took. Total."""
    retries: int
    """Attempts after the first one of a call. Total."""
    recovered: int
    """Calls that succeeded after their first attempt had failed. Total."""
    out_of_attempts: int
    """Calls given up after the last attempt. Total."""
    out_of_time: int
    """Calls given up because the next attempt would have come too late, or in the middle of one. Total."""
    out_of_budget: int
    """Calls given up because the budget was empty. Total."""
    budget_left: float | None
    """Retries that the budget has left at this moment; None without one. Gauge."""


@dataclass(frozen=True, slots=True)
class RetryBudgetStats:
    """What a :class:`RetryBudget` looks like at one moment."""

    name: str | None
    """The name it is shared by."""
    share: float
    """Retries for each call."""
    floor: float
    """Retries a second that there may be in any case."""
    window: float
    """Seconds over which it is counted."""
    retries: int
    """Retries that were allowed. Total."""
    denied: int
    """Retries that were refused. Total."""
    left: float
    """Retries that there could be at this moment. Gauge."""


class RetryBudget:
    """How many retries there may be for all calls together: a share of the calls, plus a floor.

    Retries with backoff still multiply the load when everything fails: four attempts a call are four times the calls,
    for as long as the outage lasts. With a budget, over any ``window`` (which moves in tenths)::

        retries <= share * calls + floor * window

    As in tower's ``TpsBudget`` and Finagle's ``RetryBudget``. Calls are counted late, at the next failure, as if they
    had been spread evenly over the time since the last one: so they cost nothing while all is well.

    Args:
        share: retries for each call, 0 or more: 0.2 lets the load grow by a fifth.
        floor: retries a second that there may be in any case, 0 or more: for policies with few calls.
        window: seconds over which it is counted, more than 0.
        name: policies whose budgets have one name share one budget. All of them have to give the same numbers.

    Raises:
        ValueError, TypeError: an argument that makes no sense, named, or one name with two sets of numbers.

    Thread-safe, and bound to no event loop.
    """

    __slots__ = ("__weakref__", "_core", "_floor", "_name", "_policies", "_share", "_window")

    _core: _RetryBudget
    _name: str | None
    _policies: list[weakref.ref[Retry]]
    _share: float
    _floor: float
    _window: float

    def __new__(
        cls, share: float = 0.2, *, floor: float = 10.0, window: float = 10.0, name: str | None = None
    ) -> RetryBudget:
        share = _number(share, "RetryBudget(share=...)")
        floor = _number(floor, "RetryBudget(floor=...)")
        window = seconds(window, "RetryBudget(window=...)", positive=True)
        with _naming:
            if name is not None and (known := _named.get(name)) is not None:
                if (known._share, known._floor, known._window) != (share, floor, window):
                    raise ValueError(
                        f"RetryBudget(name={name!r}) exists with share={known._share}, floor={known._floor}, "
                        f"window={known._window}: give the same numbers, or another name"
                    )
                return known
            self = super().__new__(cls)
            self._share, self._floor, self._window, self._name = share, floor, window, name
            self._core = _RetryBudget(share, floor, window, now())
            self._policies = []
            if name is not None:
                _named[name] = self
            return self

    @property
    def name(self) -> str | None:
        """The name it is shared by."""
        return self._name

    def stats(self) -> RetryBudgetStats:
        """A frozen :class:`RetryBudgetStats` of this moment."""
        at = now()
        self._tell(at)
        left, retries, denied = self._core.counts(at)
        return RetryBudgetStats(self._name, self._share, self._floor, self._window, retries, denied, left)

    def __repr__(self) -> str:
        name = "" if self._name is None else f" {self._name!r}"
        return f"<RetryBudget{name} share={self._share} floor={self._floor}/s>"

    def _tell(self, now: float) -> None:
        """Counts the calls since this was done last."""
        calls = 0
        for reference in tuple(self._policies):
            policy = reference()
            if policy is not None:
                made = policy._calls
                calls += made - policy._told
                policy._told = made
        self._core.tell(calls, now)


_named: weakref.WeakValueDictionary[str, RetryBudget] = weakref.WeakValueDictionary()
_naming = threading.Lock()


class Retried(functools.partial[_S], Generic[_P, _S]):
    """A function with its retries: what ``retry(fn)`` and ``@retry`` give.

    Called, it is like the function; awaited as it is, ``await retry(fn)``, it calls it without arguments. In the body
    of a class it puts the plain function in its place, a method like any other.
    """

    # A partial of nothing, for the C code that calls it: a class with a __call__ of its own costs a third of the whole.

    if TYPE_CHECKING:
        retry: Retry

        def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _S: ...

    def __await__(self: Retried[[], Coroutine[Any, Any, _T]]) -> Generator[Any, Any, _T]:
        called: object = self.func()
        if not isinstance(called, Awaitable):
            raise TypeError(f"{self!r} is a plain function: call it, do not await it")
        return called.__await__()

    def __set_name__(self, owner: type, name: str) -> None:
        setattr(owner, name, self.func)

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(
        self: Retried[Concatenate[Any, _Q], _R], instance: object, owner: type | None = None
    ) -> Callable[_Q, _R]: ...
    def __get__(self: Any, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self.func, instance)

    def __reduce__(self) -> Any:
        return self.__qualname__  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"<{self.func.__qualname__} with {self.retry!r}>"


class Retry:
    """Calls what fails now and then, and calls it again: later and later, so often, so long, and within a budget.

    A policy, to be used in any of these ways, as often as you like, in any task, thread and loop::

        retry = Retry(on=ConnectionError, attempts=5, timeout=30, attempt_timeout=5)


        @retry
        async def fetch(url): ...


        page = await retry(fetch_page, url)

        async for attempt in retry:
            async with attempt:
                page = await fetch_page(url)

    Functions may be ``async def``, plain ones, and async generators, whose first item is what is tried for. ``with
    attempt`` in a plain ``for`` is the last form in plain code.

    - **Jitter survives the cap**: each delay is drawn below ``min(max_delay, base * 2**n)``, however many came before.
    - **Nothing outlives its deadline.** ``timeout`` is the total, waits included, and an attempt never gets more than
      what is left of it. A delay that does not fit in there, or in what the :func:`loopwright.timeout` blocks around
      the call leave, is not begun: the error is raised at once.
    - **An outage does not multiply the load**: retries are a share of the calls at most (:class:`RetryBudget`).
    - **A cancel is never retried**, nor is ``KeyboardInterrupt`` or anything else that is no :class:`Exception`, nor an
      error that a cancel under way has become.
    - **The last error is raised as itself**, with a note for each attempt, and ``error.retry``, a :class:`RetryReport`.

    Args:
        on: what is retried: exception types, predicates on an exception, :class:`RetryOn` presets (which can look at
            results too), or a tuple of those. None: ``ConnectionError`` and ``TimeoutError``. An attempt that its own
            ``attempt_timeout`` has ended is retried in any case; a :class:`loopwright.BreakerOpen` is if it says when
            the breaker will let calls through, and that is in time.
        attempts: the most attempts, the first included, 1 or more; None for no limit.
        timeout: seconds for everything together; None for no limit. (A plain function is not interrupted: it is only
            not called again.)
        attempt_timeout: seconds for each attempt, or a function that gives them for the number of the attempt (the
            first is 1); None for no limit. Not for plain functions.
        base: seconds that the first delay is at most, 0 or more; each further one may be twice as long.
        max_delay: seconds that no delay exceeds, unless the server asks for more.
        jitter: ``"full"``: from 0 to that length; ``"equal"``: from half of it to all of it; ``"decorrelated"``: from
            ``base`` to three times the last delay; ``"none"``: exactly that length.
        budget: the share of retries in calls, 0 or more, or a :class:`RetryBudget`; None for no such limit. With a
            ``name``, all policies of that name share one budget.
        retry_after: called with the exception (or the result that counts as failed); gives the seconds that the other
            side asked to be left alone, or None. The delay is drawn on top of them. :func:`http_retry_after` is one.
        on_retry: a plain function, called with a :class:`RetryEvent` before each wait. Its errors are logged.
        name: for reprs, stats, traces and log lines; and whose budget is shared, see there.

    Raises:
        ValueError, TypeError: an argument that makes no sense, named.

    A cancel ends the attempt or the wait it arrives in and is passed on at once. Each retry is logged at level INFO of
    ``loopwright.retry``. A call whose first attempt succeeds costs a few attribute look-ups and, with ``timeout``, a
    :func:`loopwright.timeout`.
    """

    __slots__ = (
        "__weakref__",
        "_attempt_timeout",
        "_attempts",
        "_base",
        "_budget",
        "_calls",
        "_core",
        "_counts",
        "_kinds",
        "_max_delay",
        "_name",
        "_off",
        "_on_retry",
        "_predicates",
        "_results",
        "_retry_after",
        "_seeds",
        "_timeout",
        "_told",
    )

    def __init__(  # noqa: PLR0913 (each is a setting of its own)
        self,
        on: On | None = None,
        *,
        attempts: int | None = 4,
        timeout: float | None = 45.0,
        attempt_timeout: float | Callable[[int], float | None] | None = None,
        base: float = 0.1,
        max_delay: float = 5.0,
        jitter: Jitter = "full",
        budget: float | RetryBudget | None = 0.2,
        retry_after: Callable[[Any], float | None] | None = None,
        on_retry: Callable[[RetryEvent], object] | None = None,
        name: str | None = None,
    ) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"Retry(name=...) must be a string, got {name!r}")
        self._name = name
        self._attempts = None if attempts is None else count(attempts, "Retry(attempts=...)")
        self._timeout = None if timeout is None else seconds(timeout, "Retry(timeout=...)", positive=True)
        if attempt_timeout is not None and not callable(attempt_timeout):
            attempt_timeout = seconds(attempt_timeout, "Retry(attempt_timeout=...)", positive=True)
        self._attempt_timeout = attempt_timeout
        self._base = seconds(base, "Retry(base=...)")
        self._max_delay = seconds(max_delay, "Retry(max_delay=...)")
        if self._max_delay < self._base:
            raise ValueError(f"Retry(max_delay={max_delay}) is less than base={base}: raise it")
        if jitter not in ("full", "equal", "decorrelated", "none"):
            raise ValueError(f"Retry(jitter=...) must be 'full', 'equal', 'decorrelated' or 'none', got {jitter!r}")
        for what, hook in (("retry_after", retry_after), ("on_retry", on_retry)):
            if hook is not None and (not callable(hook) or inspect.iscoroutinefunction(hook)):
                raise TypeError(f"Retry({what}=...) must be a plain function, got {hook!r}")
        self._on_retry = on_retry
        self._take(on, retry_after)
        self._core = _RetryPolicy(self._attempts, self._base, self._max_delay, jitter)
        self._calls = self._told = self._off = 0
        self._counts = dict.fromkeys(("retries", "recovered", "attempts", "time", "budget", "error", "cancel"), 0)
        self._seeds: random.Random | None = None
        if budget is not None and not isinstance(budget, RetryBudget):
            budget = RetryBudget(_number(budget, "Retry(budget=...)"), name=name)
        self._budget = budget
        if budget is not None:
            budget._policies.append(weakref.ref(self, budget._policies.remove))

    def _take(self, on: On | None, retry_after: Callable[[Any], float | None] | None) -> None:
        """Sorts what is retried by how it is recognised."""
        kinds: list[type[Exception]] = []
        predicates: list[Callable[[Exception], object]] = []
        results: list[Callable[[Any], object]] = []
        wishes = [] if retry_after is None else [retry_after]
        given: tuple[Any, ...] = on if isinstance(on, tuple) else (_UNREACHABLE if on is None else on,)
        for item in given:
            preset = item if isinstance(item, RetryOn) else None
            for kind in preset.errors if preset else (item,) if isinstance(item, type) else ():
                if not issubclass(kind, Exception):
                    raise TypeError(
                        f"Retry(on=...) must name types of Exception, got {kind.__name__}: a cancel, an exit and an "
                        "interrupt are never retried"
                    )
                kinds.append(kind)
            if preset:
                predicates += [preset.error] if preset.error else []
                results += [preset.result] if preset.result else []
                wishes += [preset.retry_after] if preset.retry_after else []
            elif not isinstance(item, type):
                if not callable(item) or inspect.iscoroutinefunction(item):
                    raise TypeError(
                        "Retry(on=...) takes exception types, plain functions of an exception, RetryOn presets, or a "
                        f"tuple of those, got {item!r}"
                    )
                predicates.append(item)
        self._kinds, self._predicates, self._results = tuple(kinds), tuple(predicates), tuple(results)
        self._retry_after = tuple(wishes)

    # The forms

    @overload
    def __call__(self, fn: Callable[_P, AsyncGenerator[_T, _S]], /) -> Retried[_P, AsyncGenerator[_T, _S]]: ...
    @overload
    def __call__(self, fn: Callable[_P, Coroutine[Any, Any, _T]], /) -> Retried[_P, Coroutine[Any, Any, _T]]: ...
    @overload
    def __call__(self, fn: Callable[_P, _S], /) -> Retried[_P, _S]: ...
    @overload
    def __call__(self, fn: Callable[_P, _S], /, *args: _P.args, **kwargs: _P.kwargs) -> _S: ...
    def __call__(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """``@retry`` and ``retry(fn)`` give a function with retries; ``retry(fn, *args)`` calls it with them.

        ``await retry(fn)`` works too, for a function without arguments, ``await retry(lambda: fetch(url))`` included.

        Args:
            fn: an ``async def`` function, a plain one (one that returns a coroutine counts as the former), or an async
                generator function. A plain one is refused a wait, by a ``RuntimeError``, in a thread whose event loop
                runs.

        Raises:
            TypeError: ``fn`` cannot be called (a coroutine can only run once), or is a plain function and there is an
                ``attempt_timeout``.
        """
        if not callable(fn):
            hint = "a coroutine can only run once: pass the function that makes it" if asyncio.iscoroutine(fn) else ""
            if asyncio.iscoroutine(fn):
                fn.close()
            elif isinstance(fn, (staticmethod, classmethod)):
                hint = "put the retry below that decorator"
            raise TypeError(f"Retry takes a function, got {fn!r}: {hint or 'pass something that can be called'}")
        wrapped = self._wrapped(fn)
        if args or kwargs:
            return wrapped(*args, **kwargs)
        retried: Retried[..., Any] = Retried(wrapped)
        for function in (wrapped, retried):
            functools.update_wrapper(function, fn, updated=())
            function.retry = self  # type: ignore[attr-defined]
        return retried

    def _wrapped(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isasyncgenfunction(fn):
            return generator(self, fn)
        if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None)):  # noqa: B004
            if self._attempt_timeout is not None or self._results:
                return thorough(self, fn)
            return direct(self, fn) if self._timeout is None else in_time(self, fn)
        if self._attempt_timeout is not None and inspect.isfunction(fn) and fn.__name__ != "<lambda>":
            raise TypeError(NOT_INTERRUPTED.format(fn))
        return plain(self, fn)

    def __aiter__(self) -> Attempts:
        """``async for attempt in retry: async with attempt: ...``: each attempt is a block."""
        return Attempts(self)

    def __iter__(self) -> Iterator[SyncAttempt]:
        """``for attempt in retry: with attempt: ...``, the same in plain code."""
        if self._attempt_timeout is not None:
            raise TypeError(NOT_INTERRUPTED.format("a plain `with attempt` block"))
        return sync_attempts(self)

    def delays(self) -> Iterator[float]:
        """A fresh schedule: the seconds to wait after each failure in a row, without a look at errors, time and budget.

        So a ``Retry`` can stand where a :class:`loopwright.Restart` does: ``background.spawn(fn, restart=retry)``.
        """
        failures = self._core.begin(self._seed())
        while (verdict := failures.failed(None, 0.0, None, None))[0] == "again":
            yield verdict[1]

    # For tests

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """``with retry.disabled():`` calls are made once and their errors come at once, in all tasks and threads. The
        timeouts stay."""
        self._off += 1
        try:
            yield
        finally:
            self._off -= 1

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """``with retry.seeded(7):`` the same delays in each run, as far as the calls fail in the same order.

        Under the proof kit there is no need for it: they come from the schedule's seed.
        """
        before, self._seeds = self._seeds, random.Random(seed)
        try:
            yield
        finally:
            self._seeds = before

    # What it looks like

    @property
    def name(self) -> str | None:
        """The name it was given."""
        return self._name

    @property
    def attempts(self) -> int | None:
        """The most attempts of one call; None for no limit."""
        return self._attempts

    @property
    def timeout(self) -> float | None:
        """Seconds for everything together; None for no limit."""
        return self._timeout

    @property
    def budget(self) -> RetryBudget | None:
        """The budget of its retries."""
        return self._budget

    def stats(self) -> RetryStats:
        """A frozen :class:`RetryStats` of this moment."""
        counts = self._counts
        return RetryStats(
            name=self._name,
            calls=self._calls,
            retries=counts["retries"],
            recovered=counts["recovered"],
            out_of_attempts=counts["attempts"],
            out_of_time=counts["time"],
            out_of_budget=counts["budget"],
            budget_left=None if self._budget is None else self._budget.stats().left,
        )

    def __repr__(self) -> str:
        name = "" if self._name is None else f" {self._name!r}"
        timeout = "" if self._timeout is None else f" timeout={self._timeout:g}"
        return f"<Retry{name} attempts={self._attempts}{timeout} calls={self._calls} retries={self._counts['retries']}>"

    # What the forms ask

    def _seed(self) -> int:
        return (self._seeds or random).getrandbits(64)

    def _limit(self, number: int) -> float | None:
        """The seconds of an attempt."""
        limit = self._attempt_timeout
        return limit(number) if callable(limit) else limit

    def _rejects(self, result: object) -> bool:
        return any(predicate(result) for predicate in self._results)

    def _recovered(self, call: FailedCall | None) -> None:
        if call is not None:
            self._counts["recovered"] += 1

    def _traced(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """The function with a span around each of its calls, of which there are as many as there are attempts."""
        number = 0

        async def attempt(*args: Any, **kwargs: Any) -> Any:
            nonlocal number
            number += 1
            with span(self, fn, number):
                return await fn(*args, **kwargs)

        return attempt

    def _traced_plain(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        number = 0

        def attempt(*args: Any, **kwargs: Any) -> Any:
            nonlocal number
            number += 1
            with span(self, fn, number):
                return fn(*args, **kwargs)

        return attempt


_UNREACHABLE = RetryOn(errors=(ConnectionError, TimeoutError))

http_errors = RetryOn(error=is_transient, retry_after=http_retry_after)
"""For ``Retry(on=http_errors)``: what aiohttp and httpx raise when a server cannot be reached, breaks off or turns a
request away for the moment (408, 425, 429, 502, 503, 504), with the wait that it asks for.

A status is an error after ``raise_for_status()`` only. Whether a request may be made twice is for you to know."""


def _number(value: object, what: str) -> float:
    read = real(value, what)
    if not 0 <= read < math.inf:
        raise ValueError(f"{what} must be 0 or more, got {value!r}")
    return float(read)
