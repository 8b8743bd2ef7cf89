"""Retry: promise 9 of DESIGN section 5, in each of its forms.

Jitter survives the cap; an attempt never gets more than what is left in total; a cancel is never retried; the budget
caps retries to a share of the calls. Time is virtual.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from loopwright import (
    Retry,
)
from loopwright.testing import SimLoop


def simulated(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    with asyncio.Runner(loop_factory=SimLoop) as runner:
        return runner.run(main())


class Flaky:
    """Fails so many times, and remembers when it was called."""

    def __init__(self, failures: float, error: Callable[[int], Exception] | None = None, takes: float = 0.0) -> None:
        self.failures = failures
        self.error = error or (lambda number: ConnectionError(f"no {number}"))
        self.takes = takes
        self.at: list[float] = []

    async def __call__(self, value: object = "done") -> object:
        self.at.append(asyncio.get_running_loop().time())
        number = len(self.at)
        if self.takes:
            await asyncio.sleep(self.takes)
        if number <= self.failures:
            raise self.error(number)
        return value

    def delays(self) -> list[float]:
        return [later - earlier - self.takes for earlier, later in zip(self.at, self.at[1:], strict=False)]


FORMS = ["decorator", "call", "block"]


async def through(form: str, retry: Retry, fn: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """One call, in one of the forms."""
    if form == "decorator":
        return await retry(fn)(*args)
    if form == "call":
        return await retry(fn, *args) if args else await retry(fn)
    result = None
    async for attempt in retry:
        async with attempt:
            result = await fn(*args)
    return result


# ------------------------------------------------------------------------------- attempts


@pytest.mark.parametrize("form", FORMS)
def test_what_fails_is_called_again_until_it_succeeds(form: str) -> None:
    async def main() -> None:
        flaky = Flaky(3)
        assert await through(form, retry, flaky, 7) == 7
        assert len(flaky.at) == 4
        with pytest.raises(ConnectionError, match="no 4"):
            await through(form, retry, Flaky(9))

    retry = Retry(attempts=4)
    simulated(main)
    stats = retry.stats()
    assert (stats.calls, stats.retries, stats.recovered, stats.out_of_attempts) == (2, 6, 1, 1)
