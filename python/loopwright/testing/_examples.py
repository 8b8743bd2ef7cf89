"""Tests under ``@hypothesis.given``: every example is run under a schedule that is drawn with it.

The seed of the schedule is one more value of the example: hypothesis stores it, shrinks it and repeats it. 0 stands for
asyncio's own order, so an example that fails whatever the order is reported with that. Imports hypothesis only where a
test has done so.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from loopwright._loopwright import _Search
from loopwright.testing import _explore
from loopwright.testing._settings import option
from loopwright.testing.strategies import Strategy

if TYPE_CHECKING:
    from loopwright.testing.plugin import LoopwrightFunction

_SEEDS = 2**32 - 1


class _FromFixture:
    """Stands for a fixture's value outside of the schedules, each of which has its own."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<fixture {self.name}>"


class _Draws:
    """``st.data()`` for the schedules of one example: what the first one drew, the others are given too."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self._drawn: list[Any] = []
        self._next = 0

    def rewind(self) -> None:
        self._next = 0

    def draw(self, strategy: Any, label: Any = None) -> Any:
        if self._next == len(self._drawn):
            self._drawn.append(self._data.draw(strategy, label))
        self._next += 1
        return self._drawn[self._next - 1]

    def __repr__(self) -> str:
        return repr(self._data)


def rewind(given: Mapping[str, Any]) -> None:
    """Another schedule of the same example begins."""
    for value in given.values():
        if isinstance(value, _Draws):
            value.rewind()


def _repeatable(value: Any) -> Any:
    from hypothesis.strategies import DataObject  # noqa: PLC0415 (the test has imported it)

    return _Draws(value) if isinstance(value, DataObject) else value


def _is_given(item: LoopwrightFunction, value: Any) -> bool:
    """Whether an argument is hypothesis'; the others are the schedule's own: fixtures, the instance."""
    return not isinstance(value, _FromFixture) and not (item.cls is not None and isinstance(value, item.cls))


def is_property(function: Any) -> bool:
    """Whether hypothesis runs it."""
    return getattr(function, "hypothesis", None) is not None


def inner(function: Any) -> Callable[..., Any]:
    """The function that the user wrote."""
    if not is_property(function):
        found: Callable[..., Any] = function
        return found
    test = function.hypothesis.inner_test
    found = getattr(test, "_loopwright_inner", test)
    return found


def is_awaited(function: Any) -> bool:
    """Whether it is a coroutine function, or hypothesis' wrapper of one."""
    return inspect.iscoroutinefunction(inner(function))


def control_exceptions() -> tuple[type[BaseException], ...]:
    """What hypothesis raises in a test for itself: ``assume()`` that does not hold, no more data."""
    if "hypothesis" not in sys.modules:
        return ()
    from hypothesis.errors import StopTest, UnsatisfiedAssumption  # noqa: PLC0415 (see above)

    return (StopTest, UnsatisfiedAssumption)


def prepare(item: LoopwrightFunction) -> None:
    """Adapts hypothesis' settings: each example has function-scoped fixtures of its own here, its time is virtual, and
    what hypothesis could explain is told by the schedule. A replay takes the examples that failed before, and
    ``@example()``.
    """
    from hypothesis import HealthCheck, Phase, settings  # noqa: PLC0415 (the test has imported it)

    function = getattr(item.obj, "__func__", item.obj)
    current: Any = getattr(function, "_hypothesis_internal_use_settings", None) or settings.default
    checks = {HealthCheck.function_scoped_fixture, HealthCheck.differing_executors}
    phases = set(current.phases) - {Phase.explain}
    if option(item.config, "replay") is not None:
        phases &= {Phase.explicit, Phase.reuse}
    function._hypothesis_internal_use_settings = settings(
        parent=current,
        deadline=None,
        suppress_health_check=checks | set(current.suppress_health_check),
        phases=[phase for phase in Phase if phase in phases],
    )


def run(item: LoopwrightFunction) -> None:
    """Has hypothesis call the test, once for each example, under a schedule."""
    __tracebackhide__ = True
    handle = item.obj.hypothesis
    original = inner(item.obj)
    examples = 0

    @functools.wraps(original)
    def example(*args: Any, **arguments: Any) -> None:
        __tracebackhide__ = True
        nonlocal examples
        examples += 1
        given = {name: _repeatable(value) for name, value in arguments.items() if _is_given(item, value)}
        _run_example(item, functools.partial(item.schedule, given))
        if item.outcome is not None:
            outcome, item.outcome = item.outcome, None
            raise outcome

    example._loopwright_inner = original  # type: ignore[attr-defined]
    before, handle.inner_test = handle.inner_test, example
    try:
        item.obj(**{name: _FromFixture(name) for name in item._fixtureinfo.argnames})
    except BaseException:  # hypothesis skips a test that has no example
        if examples or option(item.config, "replay") is None:
            raise
    finally:
        handle.inner_test = before
    if not examples and option(item.config, "replay") is not None:
        pytest.fail(
            f"loopwright: hypothesis has stored no failing example of {item.name}: add the one that was printed with "
            "the failure as @example(...), and the schedule is replayed with it",
            pytrace=False,
        )


def _run_example(item: LoopwrightFunction, schedule: Callable[[], Coroutine[Any, Any, None]]) -> None:
    __tracebackhide__ = True
    from hypothesis import note, strategies  # noqa: PLC0415 (the test has imported it)
    from hypothesis.control import current_build_context  # noqa: PLC0415

    settings = item.settings
    context = current_build_context()
    replay = option(item.config, "replay")
    is_explicit = context.data.max_choices == 0  # @example(): there is nothing to draw from
    seed = 0 if is_explicit else context.data.draw(strategies.integers(0, _SEEDS))
    if replay is not None:
        item.replay(schedule, replay)
    elif is_explicit:
        _explore.explore(schedule, **item.how(), seeds=settings.seeds)
    elif context.is_final:
        strategy = Strategy(f"seed {seed}", lambda _: _Search.random(seed, 1))
        if seed == 0:
            strategy = Strategy("asyncio's own order", lambda _: _Search.fifo())
        note(f"schedule: {strategy.name}")
        _explore.explore(schedule, **item.how() | {"strategy": strategy})
    else:
        _explore.run(
            schedule,
            seed=seed or None,
            level=settings.level or "task",
            virtual_time=settings.virtual_time,
            timeout=settings.timeout,
            leaks=settings.leaks,
        )
