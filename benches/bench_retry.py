"""Retry, for a call that succeeds at once and one that does not, against a loop by hand, tenacity, stamina and backoff.

``python benches/bench_retry.py [FILE.json]``
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from harness import Case, Row, compare, compare_calls, loops, save

from loopwright import Retry, resilient

try:
    import backoff
    import stamina
    import tenacity
except ImportError:
    backoff = stamina = tenacity = None  # type: ignore[assignment]

RARELY = {"on": ConnectionError, "attempts": 4}
LAST = 3


async def fetch(value: int) -> int:
    return value


def compute(value: int) -> int:
    return value


async def by_hand(n: int) -> None:
    """What one writes where the call is."""
    for i in range(n):
        for attempt in range(LAST + 1):
            try:
                await fetch(i)
                break
            except ConnectionError:
                if attempt == LAST:
                    raise
                await asyncio.sleep(0.1 * 2**attempt)


def by_hand_plain(n: int) -> None:
    for i in range(n):
        for attempt in range(LAST + 1):
            try:
                compute(i)
                break
            except ConnectionError:
                if attempt == LAST:
                    raise


def calls(fn: Callable[[int], Awaitable[object]]) -> Case:
    async def case(n: int) -> None:
        for i in range(n):
            await fn(i)

    return case


def plain_calls(fn: Callable[[int], object]) -> Callable[[int], object]:
    def case(n: int) -> None:
        for i in range(n):
            fn(i)

    return case


def failing_once(decorate: Callable[[Any], Any]) -> Case:
    """Every first attempt fails, every second one succeeds; no wait between them."""
    failed = False

    @decorate
    async def flaky(value: int) -> int:
        nonlocal failed
        failed = not failed
        if failed:
            raise ConnectionError
        return value

    return calls(flaky)


def by_hand_failing(decorated: Any) -> Any:
    async def loop(value: int) -> object:
        for attempt in range(LAST + 1):
            try:
                return await decorated(value)
            except ConnectionError:
                if attempt == LAST:
                    raise
                await asyncio.sleep(0)
        return None

    return loop


async def blocks(n: int) -> None:
    retry = Retry(**RARELY)  # type: ignore[arg-type]
    for i in range(n):
        async for attempt in retry:
            async with attempt:
                await fetch(i)


async def stamina_blocks(n: int) -> None:
    for i in range(n):
        async for attempt in stamina.retry_context(on=ConnectionError, attempts=4):
            with attempt:
                await fetch(i)


def main() -> None:
    rows: list[Row] = []
    bare = Retry(timeout=None, **RARELY)  # type: ignore[arg-type]
    total = Retry(**RARELY)  # type: ignore[arg-type]
    everything = Retry(attempt_timeout=5, **RARELY)  # type: ignore[arg-type]
    at_once = Retry(base=0, budget=None, **RARELY)  # type: ignore[arg-type]
    for name, factory in loops().items():
        common: dict[str, Any] = {"loop_factory": factory, "loop_name": name}
        by_loop = {"baseline": "for/try loop", "ours": "loopwright", **common}
        for operation, policy, target in (
            ("Retry, success at once", bare, 0.5),
            ("Retry with a total timeout, success at once", total, 1 / 3.5),
            ("Retry with a total and an attempt timeout, success at once", everything, None),
        ):
            cases = {"for/try loop": by_hand, "loopwright": calls(policy(fetch)), "no retry": calls(fetch)}
            rows.append(compare(operation, cases, n=30_000, target=target, **by_loop))
        cases = {"for/try loop": by_hand, "loopwright": calls(resilient(fetch, retry=total, timeout=9))}
        rows.append(compare("resilient with a retry, success at once", cases, n=30_000, **by_loop))
        if tenacity is None:
            continue
        stamina.instrumentation.set_on_retry_hooks([])  # it logs each retry
        peers = {
            "tenacity": calls(
                tenacity.retry(
                    stop=tenacity.stop_after_attempt(4),
                    retry=tenacity.retry_if_exception_type(ConnectionError),
                    wait=tenacity.wait_exponential_jitter(max=5),
                )(fetch)
            ),
            "stamina": calls(stamina.retry(on=ConnectionError, attempts=4)(fetch)),
            "backoff": calls(backoff.on_exception(backoff.expo, ConnectionError, max_tries=4)(fetch)),
        }
        ours = {"loopwright": calls(total(fetch)), "loopwright, no total": calls(bare(fetch))}
        for peer, target in (("tenacity", 50), ("stamina", 50), ("backoff", None)):
            cases = {peer: peers[peer], **ours}
            operation = f"Retry, success at once, against {peer}"
            rows.append(compare(operation, cases, n=2_000, target=target, baseline=peer, ours="loopwright", **common))
        cases = {"stamina.retry_context": stamina_blocks, "loopwright": blocks}
        operation = "async for attempt in retry, success at once"
        rows.append(compare(operation, cases, n=1_000, baseline="stamina.retry_context", ours="loopwright", **common))
        cases = {
            "tenacity": failing_once(tenacity.retry(stop=tenacity.stop_after_attempt(4))),
            "stamina": failing_once(stamina.retry(on=ConnectionError, attempts=4, wait_initial=0, wait_jitter=0)),
            "for/try loop": failing_once(by_hand_failing),
            "loopwright": failing_once(at_once),
        }
        operation = "one retry, no wait"
        rows.append(compare(operation, cases, n=500, baseline="tenacity", ours="loopwright", **common))
    plain = {"for/try loop": by_hand_plain, "loopwright": plain_calls(bare(compute))}
    if tenacity is not None:
        plain["tenacity"] = plain_calls(tenacity.retry(stop=tenacity.stop_after_attempt(4))(compute))
        plain["stamina"] = plain_calls(stamina.retry(on=ConnectionError, attempts=4)(compute))
    for operation, cases_, target in (
        ("Retry of a plain function, success at once", plain, 0.5),
        (
            "Retry of a plain function with a total, success at once",
            {"for/try loop": by_hand_plain, "loopwright": plain_calls(total(compute))},
            1 / 3.5,
        ),
    ):
        rows.append(
            compare_calls(operation, cases_, n=10_000, baseline="for/try loop", ours="loopwright", target=target)
        )
    save(rows)


if __name__ == "__main__":
    main()
