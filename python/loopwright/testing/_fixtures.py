"""The function-scoped fixtures of one schedule: set up anew before it, torn down after it, inside the simulated loop.

pytest sets a function's fixtures up once for each test. A marked test runs many times, and what one schedule did to a
fixture must not be there in the next, so that a replay of the failing one finds what it found. pytest does the work
(order, parameters, caching, ``request``); what it does not do is wait. So an async fixture gives pytest a promise at
first, whoever asks for it is put off, and both get their values when the promise was awaited.

Lives here: that, and the tearing down. Does not live here: the schedules (:mod:`.plugin`). Imports pytest: part of the
plugin, not of ``loopwright.testing``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from loopwright.testing.plugin import LoopwrightFunction

__all__ = ["WIDER", "Fixtures", "fixturedefs", "is_async"]

_KEPT: tuple[pytest.StashKey[Any], ...]
"""What pytest's own fixtures delete when they are torn down, and expect to be there the next time."""
try:
    from _pytest.tmpdir import tmppath_result_key

    _KEPT = (tmppath_result_key,)
except ImportError:
    _KEPT = ()

WIDER = ("class", "module", "package", "session")


class _Promise:
    """What pytest holds for the value of a fixture that cannot be set up without waiting."""

    def __init__(self, fixturedef: pytest.FixtureDef[Any], request: Any) -> None:
        self.fixturedef = fixturedef
        self.request = request
        self.start: Callable[[], Any] | None = None
        """Makes the coroutine or the async generator; None: something that it needs is a promise itself."""
        name = fixturedef.argname
        self.overridden = request._fixture_defs.get(name) if name in fixturedef.argnames else None
        """The fixture of the same name that it takes as an argument: from then on its name is its own."""

    def set_up_again(self) -> None:
        """What it needs is there now, perhaps."""
        active = self.request._fixture_defs
        if self.overridden is not None:
            active[self.fixturedef.argname] = self.overridden
        try:
            self.request.node.ihook.pytest_fixture_setup(fixturedef=self.fixturedef, request=self.request)
        finally:
            if self.overridden is not None:
                active[self.fixturedef.argname] = self.fixturedef


class Fixtures:
    """The function-scoped fixtures of one schedule of one test."""

    def __init__(self, item: LoopwrightFunction) -> None:
        self._item = item
        self._promises: list[_Promise] = []
        self._done: list[tuple[pytest.FixtureDef[Any], Any]] = []
        self._generators: dict[pytest.FixtureDef[Any], AsyncGenerator[Any, Any]] = {}
        self._running: list[str] = []
        self._open = False
        self._finalizers = _finalizers_of(item)
        self._before = len(self._finalizers)
        self._wider = [
            (finalizers, len(finalizers))
            for fixturedef in fixturedefs(item).values()
            if fixturedef.scope != "function" and (finalizers := getattr(fixturedef, "_finalizers", None))
        ]

    async def set_up(self) -> dict[str, Any]:
        """Sets up what the test asks for; returns the arguments of its function."""
        __tracebackhide__ = True
        item = self._item
        item.begin_anew()
        forget_output(item.config)
        request = item._request
        self._open = True
        for name in item.fixturenames:
            request.getfixturevalue(name)
        while self._promises:
            promise = self._promises.pop(0)
            if promise.start is None:
                promise.set_up_again()
            else:
                await self._keep(promise)
        self._open = False
        for name in item.fixturenames:
            item.funcargs[name] = request.getfixturevalue(name)
        return {name: item.funcargs[name] for name in item._fixtureinfo.argnames}

    async def _keep(self, promise: _Promise) -> None:
        __tracebackhide__ = True
        fixturedef, request = promise.fixturedef, promise.request
        assert promise.start is not None
        started: Any = promise.start()
        if inspect.isasyncgen(started):
            generator: AsyncGenerator[Any, Any] = started
            try:
                value = await anext(generator)
            except StopAsyncIteration:
                raise ValueError(f"{request.fixturename} did not yield a value") from None
            self._generators[fixturedef] = generator
        else:
            value = await started
        fixturedef.cached_result = (value, fixturedef.cache_key(request), None)
        self._done.append((fixturedef, request))

    async def tear_down(self) -> None:
        """Tears down what was set up, the last first; the first error is raised when all are down.

        Raises:
            BaseExceptionGroup: there was more than one error.
        """
        __tracebackhide__ = True
        errors: list[BaseException] = []
        kept = {key: self._item.stash[key] for key in _KEPT if key in self._item.stash}
        while self._done:
            fixturedef, request = self._done.pop()
            try:
                if (generator := self._generators.pop(fixturedef, None)) is not None:
                    await _finish(generator, fixturedef.argname)
            except BaseException as error:
                errors.append(error)
            try:
                fixturedef.finish(request)
            except BaseException as error:
                errors.append(error)
        while len(self._finalizers) > self._before:  # of pytest, which are of no effect by now, and of the test itself
            try:
                self._finalizers.pop()()
            except BaseException as error:
                errors.append(error)
        for finalizers, before in self._wider:  # told to finish what is finished: one for each fixture and schedule
            del finalizers[before:]
        for key, value in kept.items():
            self._item.stash[key] = value
        if len(errors) > 1:
            raise BaseExceptionGroup(f"errors while tearing down the fixtures of {self._item.name}", errors)
        if errors:
            raise errors[0]

    @contextmanager
    def in_place_of(self, fixturedef: pytest.FixtureDef[Any], request: Any) -> Iterator[None]:
        """While pytest sets a fixture up: a function that pytest, and every other plugin, takes for a plain one."""
        func = fixturedef.func
        waiting = any(isinstance(request.getfixturevalue(name), _Promise) for name in fixturedef.argnames)
        stand_in: Callable[..., Any] | None = None
        promise: _Promise | None = None
        if waiting:
            promise = _Promise(fixturedef, request)
            stand_in = functools.partial(_give, promise)
        elif is_async(func) and (not self._open or self._running):
            stand_in = functools.partial(self._refuse, request.fixturename)
        elif is_async(func):
            promise = _Promise(fixturedef, request)
            stand_in = functools.partial(_start_later, promise, _bound(func, request))
        elif hasattr(func, "_force_asyncio_fixture"):  # pytest-asyncio would make a loop for it
            stand_in = _plain(_bound(func, request))
        if stand_in is not None:
            fixturedef.func = stand_in  # type: ignore[misc]
        self._running.append(fixturedef.argname)
        try:
            yield
        finally:
            self._running.pop()
            fixturedef.func = func  # type: ignore[misc]
            if promise is None:
                self._done.append((fixturedef, request))
        if promise is not None:
            self._promises.append(promise)

    def _refuse(self, name: str, **_: Any) -> None:
        asker = f"the fixture {self._running[-2]!r}" if len(self._running) > 1 else "the test"
        pytest.fail(
            f"loopwright: {name!r} is an async fixture, and {asker} asks for it with request.getfixturevalue(), which "
            f"cannot wait: take {name!r} as an argument instead",
            pytrace=False,
        )


def _give(promise: _Promise, **_: Any) -> _Promise:
    return promise


def _start_later(promise: _Promise, func: Callable[..., Any], **arguments: Any) -> _Promise:
    promise.start = functools.partial(func, **arguments)
    return promise


def _plain(func: Callable[..., Any]) -> Callable[..., Any]:
    """The same function without the attributes that other plugins look for."""
    if inspect.isgeneratorfunction(func):

        def generator(**arguments: Any) -> Generator[Any, Any, Any]:
            return (yield from func(**arguments))

        return generator
    return functools.partial(func)


def _bound(func: Any, request: Any) -> Any:
    """The fixture's function bound to the instance of this schedule: it was collected bound to another."""
    instance = request.instance
    if inspect.ismethod(func) and instance is not None and isinstance(instance, type(func.__self__)):
        return func.__func__.__get__(instance)
    return func


async def _finish(generator: AsyncGenerator[Any, Any], name: str) -> None:
    __tracebackhide__ = True
    try:
        await anext(generator)
    except StopAsyncIteration:
        return
    await generator.aclose()
    raise ValueError(f"the async fixture {name!r} yields more than once")


def is_async(func: Any) -> bool:
    """Whether a fixture's or a test's function is one that has to be awaited."""
    return inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func)


def fixturedefs(item: pytest.Function) -> dict[str, pytest.FixtureDef[Any]]:
    """The fixtures that an item asks for, by name, in the order in which pytest sets them up."""
    known = item._fixtureinfo.name2fixturedefs
    return {name: known[name][-1] for name in item.fixturenames if known.get(name)}


def forget_output(config: pytest.Config) -> None:
    """Drops what the schedule before has printed and logged, so that a report has the output of one schedule."""
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None and capture.is_globally_capturing():
        capture.read_global_capture()
    logs = config.pluginmanager.getplugin("logging-plugin")
    if logs is not None:
        logs.caplog_handler.clear()
        logs.report_handler.reset()


def _finalizers_of(item: pytest.Item) -> list[Callable[[], object]]:
    """What pytest will call when the item is over. Private to pytest; without it they are called then, all at once."""
    try:
        finalizers: list[Callable[[], object]] = item.session._setupstate.stack[item][0]
    except (AttributeError, KeyError, TypeError):
        return []
    return finalizers
