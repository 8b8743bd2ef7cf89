"""Metrics for Prometheus: every watched object in the text format, with or without ``prometheus-client``.

What is exported: every timed operation, every monitor, and what :func:`loopwright.watch` was given. Names follow
Prometheus: ``loopwright_pool_opened_total``, ``loopwright_pool_wait_seconds_bucket``; base units, the unit last.

Without ``prometheus-client`` serve :func:`exposition` yourself, or mount :func:`app` (ASGI) at ``/metrics``. With it,
``REGISTRY.register(prometheus.Collector())`` puts our metrics beside the program's own.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, Final

from loopwright import _metrics
from loopwright._metrics import Distribution, Family, Row
from loopwright.integrations._driver import load

__all__ = ["CONTENT_TYPE", "Collector", "app", "exposition", "metric_name"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The header to serve :func:`exposition` with."""

_TYPES: Final = {"counter": "counter", "gauge": "gauge", "flag": "gauge", "state": "gauge", "histogram": "histogram"}


def metric_name(row: Row) -> str:
    """A metric's name: that of its family, so without ``_bucket``, ``_sum`` and ``_count``."""
    name = "loopwright_" + row.name.replace(".", "_")
    if row.unit and not name.endswith(f"_{row.unit}"):
        name += f"_{row.unit}"
    return f"{name}_total" if row.kind == "counter" else name


def exposition() -> str:
    """All metrics as text, for one scrape: format 0.0.4, which every Prometheus reads.

    Thread-safe. It takes some microseconds for each object and never waits for anything.
    """
    return "".join(_lines(_metrics.collect()))


def _lines(families: list[Family]) -> Iterator[str]:
    for family in families:
        name = metric_name(family.row)
        if family.help:
            escaped = family.help.replace("\\", r"\\").replace("\n", r"\n")
            yield f"# HELP {name} {escaped}\n"
        yield f"# TYPE {name} {_TYPES[family.row.kind]}\n"
        for labels, value in family.samples:
            if isinstance(value, Distribution):
                for bound, within in (*zip(value.bounds, value.within, strict=True), (math.inf, value.count)):
                    yield f"{name}_bucket{_labels(labels, le=_number(bound))} {within}\n"
                yield f"{name}_sum{_labels(labels)} {_number(value.total)}\n"
                yield f"{name}_count{_labels(labels)} {value.count}\n"
            else:
                yield f"{name}{_labels(labels)} {_number(value)}\n"


def _labels(labels: dict[str, str], **more: str) -> str:
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in (labels | more).items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(value)


_Scope = MutableMapping[str, Any]


async def app(
    scope: _Scope,
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """An ASGI application that answers every request with :func:`exposition`.

    ``app.mount("/metrics", prometheus.app)`` in FastAPI and Starlette.
    """
    del receive
    if scope["type"] != "http":
        raise RuntimeError(f"loopwright.integrations.prometheus.app answers HTTP, not {scope['type']!r}: mount it")
    body = exposition().encode()
    headers = [(b"content-type", CONTENT_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


class Collector:
    """A collector for ``prometheus-client``: ``REGISTRY.register(Collector())``.

    Raises:
        ImportError: (when it is registered or scraped) ``prometheus-client`` is not installed.
    """

    def collect(self) -> Iterator[Any]:
        """The metrics of this moment, as that library's families."""
        core = load("prometheus_client.core", extra="prometheus")
        for family in _metrics.collect():
            name = metric_name(family.row)
            labels = list(family.samples[0][0])
            makes = {"counter": core.CounterMetricFamily, "histogram": core.HistogramMetricFamily}
            made = makes.get(family.row.kind, core.GaugeMetricFamily)(name, family.help, labels=labels)
            for given, value in family.samples:
                if isinstance(value, Distribution):
                    bounds = (*map(_number, value.bounds), "+Inf")
                    buckets = list(zip(bounds, (*value.within, value.count), strict=True))
                    made.add_metric(list(given.values()), buckets, sum_value=value.total)
                else:
                    made.add_metric(list(given.values()), value)
            yield made

    def describe(self) -> list[Any]:
        """Nothing: so that registering asks for no metrics, which come and go."""
        return []
