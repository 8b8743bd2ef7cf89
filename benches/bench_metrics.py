"""What measuring costs: timed calls against prometheus-client's and OpenTelemetry's, and one scrape.

``python benches/bench_metrics.py [FILE.json]``
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from harness import Case, Row, compare, compare_calls, save
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from loopwright import Semaphore, monitor, timed, watch
from loopwright.integrations import prometheus

OBJECTS = 200


async def nothing() -> None:
    pass


def calls(fn: Callable[[], Awaitable[object]], *, watched: bool = False) -> Case:
    async def case(n: int) -> None:
        watching = monitor(threshold=60, summary=None) if watched else None
        for _ in range(n):
            await fn()
        if watching is not None:
            watching.close()

    return case


def by_client(histogram: Any) -> Callable[[], Awaitable[None]]:
    async def call() -> None:
        with histogram.time():
            await nothing()

    return call


def by_otel(record: Callable[[float], None]) -> Callable[[], Awaitable[None]]:
    async def call() -> None:
        start = perf_counter()
        try:
            await nothing()
        finally:
            record(perf_counter() - start)

    return call


def by_hand(fn: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    times: list[float] = []

    @functools.wraps(fn)
    async def call() -> None:
        start = perf_counter()
        try:
            await fn()
        finally:
            times.append(perf_counter() - start)
            if len(times) > 1_000:  # noqa: PLR2004 (some)
                times.clear()

    return call


def times(fn: Callable[[], object]) -> Callable[[int], object]:
    def case(n: int) -> None:
        for _ in range(n):
            fn()

    return case


def main() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("call_seconds", "A call.", registry=registry)
    meter = MeterProvider(metric_readers=[InMemoryMetricReader()]).get_meter("bench")
    recorder = meter.create_histogram("call", "s")
    ours = timed("call")(nothing)
    rows: list[Row] = [
        compare(
            "a timed call of an empty coroutine function",
            {
                "not timed": calls(nothing),
                "a list and perf_counter": calls(by_hand(nothing)),
                "prometheus-client": calls(by_client(histogram)),
                "OpenTelemetry SDK": calls(by_otel(recorder.record)),
                "loopwright": calls(ours),
                "loopwright, a monitor runs": calls(ours, watched=True),
            },
            n=20_000,
            baseline="prometheus-client",
            ours="loopwright",
        )
    ]
    kept = [watch(Semaphore(2), f"s{number}") for number in range(OBJECTS)]
    ours_per_object = 5
    peers: list[Any] = [Gauge(f"g{n}", "A gauge.", ["name"], registry=registry) for n in range(3)]
    peers += [Counter(f"c{n}", "A counter.", ["name"], registry=registry) for n in range(ours_per_object - 3)]
    for peer in peers:
        for number in range(OBJECTS):
            peer.labels(f"s{number}")
    rows.append(
        compare_calls(
            f"a scrape of {OBJECTS * ours_per_object} values",
            {
                "prometheus-client": times(lambda: generate_latest(registry)),
                "loopwright": times(prometheus.exposition),
            },
            n=20,
            baseline="prometheus-client",
            ours="loopwright",
        )
    )
    assert len(kept) == OBJECTS
    save(rows)


if __name__ == "__main__":
    main()
