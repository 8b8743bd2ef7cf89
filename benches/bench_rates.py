"""RateLimiter against aiolimiter, CircuitBreaker against its peers. ``python benches/bench_rates.py [FILE.json]``"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import aiobreaker
import aiolimiter
import purgatory
from harness import Case, Row, compare, loops, save

import loopwright

PLENTY = 1_000_000_000
"""A rate at which nobody waits."""


def passes(make: Any) -> Case:
    async def case(n: int) -> None:
        limiter = make()
        for _ in range(n):
            async with limiter:
                pass

    return case


def acquires(make: Any) -> Case:
    async def case(n: int) -> None:
        limiter = make()
        for _ in range(n):
            await limiter.acquire()

    return case


async def answer() -> int:
    return 1


async def purgatory_block(n: int) -> None:
    factory = purgatory.AsyncCircuitBreakerFactory(default_threshold=5, default_ttl=30)
    breaker = await factory.get_breaker("service")
    for _ in range(n):
        async with breaker:
            pass


async def our_block(n: int, **options: Any) -> None:
    breaker = loopwright.CircuitBreaker(**options)
    for _ in range(n):
        async with breaker:
            pass


async def our_timed_block(n: int) -> None:
    await our_block(n, slow_call=1.0, window_time=60.0)


async def our_call(n: int) -> None:
    breaker = loopwright.CircuitBreaker()
    for _ in range(n):
        await breaker.call(answer)


async def aiobreaker_call(n: int) -> None:
    breaker = aiobreaker.CircuitBreaker(fail_max=5, timeout_duration=timedelta(seconds=30))
    for _ in range(n):
        await breaker.call_async(answer)


async def purgatory_call(n: int) -> None:
    factory = purgatory.AsyncCircuitBreakerFactory(default_threshold=5, default_ttl=30)
    call = factory("service")(answer)
    for _ in range(n):
        await call()


def main() -> None:
    rows: list[Row] = []
    for name, factory in loops().items():
        settings: dict[str, Any] = {"loop_factory": factory, "loop_name": name, "n": 20_000}
        rows += [
            compare(
                "RateLimiter with room left, `async with`",
                {
                    "aiolimiter": passes(lambda: aiolimiter.AsyncLimiter(PLENTY, 1)),
                    "loopwright": passes(lambda: loopwright.RateLimiter(PLENTY)),
                },
                baseline="aiolimiter",
                target=6,
                **settings,
            ),
            compare(
                "RateLimiter with room left, `await acquire()`",
                {
                    "aiolimiter": acquires(lambda: aiolimiter.AsyncLimiter(PLENTY, 1)),
                    "loopwright": acquires(lambda: loopwright.RateLimiter(PLENTY)),
                },
                baseline="aiolimiter",
                **settings,
            ),
            compare(
                "CircuitBreaker closed, `async with`",
                {
                    "purgatory": purgatory_block,
                    "loopwright": our_block,
                    "loopwright, slow_call and window_time": our_timed_block,
                },
                baseline="purgatory",
                target=5,
                **settings,
            ),
            compare(
                "CircuitBreaker closed, around a call",
                {"aiobreaker": aiobreaker_call, "loopwright": our_call, "purgatory": purgatory_call},
                baseline="aiobreaker",
                target=5,
                **settings,
            ),
        ]
    save(rows)


if __name__ == "__main__":
    main()
