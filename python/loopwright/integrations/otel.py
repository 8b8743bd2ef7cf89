"""OpenTelemetry: instruments for what is watched, spans for what takes time, trace ids for log lines.

``otel.instrument()`` once, after the providers are set; or nothing under ``opentelemetry-instrument``, which finds
:class:`LoopwrightInstrumentor` by its entry point. Only the API is needed; without an SDK everything is a no-op.

Metrics are observable: nothing is recorded where work is done, numbers are read when they are collected. Spans are
made only inside of a span that is recorded, so that an idle consumer leaves no trace of one wait after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from loopwright import _loopwright as native
from loopwright import _metrics, _trace
from loopwright._metrics import Distribution, Family, Row
from loopwright.integrations._driver import load
from loopwright.logs import add_fields

__all__ = ["LoopwrightInstrumentor", "instrument", "metric_name", "uninstrument"]

_UNITS: Final = {"": "1", "seconds": "s", "bytes": "By"}
_BY_CONVENTION: Final = {
    "process.resident_memory": "process.memory.usage",
    "process.open_files": "process.unix.file_descriptor.count",
    "process.threads": "process.thread.count",
}
"""Names that OpenTelemetry's semantic conventions have already."""


def metric_name(row: Row) -> str:
    """An instrument's name: ``loopwright.pool.opened``; of what the semantic conventions know, theirs."""
    return _BY_CONVENTION.get(row.name, f"loopwright.{row.name}")


def instrument(
    *, meter_provider: Any = None, tracer_provider: Any = None, metrics: bool = True, spans: bool = True
) -> None:
    """Exports what is watched as OpenTelemetry metrics, and retries, offloads, processes and waits as spans.

    Args:
        meter_provider: where the instruments are made; None: the global one.
        tracer_provider: where the spans are made; None: the global one.
        metrics: whether there are instruments: one for each field of each ``stats()``, with the attribute
            ``loopwright.name``; of times, a gauge of quantiles beside a count and a sum, since an observable histogram
            is not in OpenTelemetry's API.
        spans: whether there are spans: ``loopwright.retry`` and the like around the work, ``loopwright.wait`` for
            each wait for a permit, a connection or a queue that was not over at once; and ``trace_id`` and ``span_id``
            in the lines of ``get_logger`` and of a ``LogHandler``.

    Raises:
        ImportError: ``opentelemetry-api`` is not installed.

    A second call takes the place of the first.
    """
    global _forget_ids  # noqa: PLW0603 (the process has one)
    trace: Any = load("opentelemetry.trace", extra="otel")
    api: Any = load("opentelemetry.metrics", extra="otel")
    uninstrument()
    if metrics:
        meter = (meter_provider or api.get_meter_provider()).get_meter("loopwright", native.__version__)
        _Instruments(meter, api.Observation)
    if spans:
        tracer = (tracer_provider or trace.get_tracer_provider()).get_tracer("loopwright", native.__version__)
        tracing = _Tracing(trace, tracer)
        _trace.hook = tracing.span
        _forget_ids = add_fields(tracing.ids)
        native._trace_waits(tracing.waited)


def uninstrument() -> None:
    """Ends what :func:`instrument` began. Instruments cannot be removed: they stay, and say nothing more."""
    global _current  # noqa: PLW0603 (the process has one)
    _current = None
    _trace.hook = None
    native._trace_waits(None)
    _forget_ids()


class LoopwrightInstrumentor:
    """What ``opentelemetry-instrument`` looks for: :func:`instrument` and :func:`uninstrument` as methods."""

    def instrument(self, **kwargs: Any) -> None:
        """As the function; keywords that it does not know are left out."""
        known = ("meter_provider", "tracer_provider", "metrics", "spans")
        instrument(**{name: value for name, value in kwargs.items() if name in known})

    def uninstrument(self, **kwargs: Any) -> None:
        """As the function."""
        del kwargs
        uninstrument()


def _nothing_to_forget() -> None:
    pass


_forget_ids: Callable[[], None] = _nothing_to_forget
"""Takes the trace's ids out of log lines again."""


# Metrics

_current: _Instruments | None = None


class _Instruments:
    """One instrument for each metric there can be; all of one collection are read from one look at the objects."""

    def __init__(self, meter: Any, observation: Callable[..., Any]) -> None:
        global _current  # noqa: PLW0603
        _current = self
        self._observation = observation
        self._lock = threading.Lock()
        self._families: dict[str, Family] = {}
        self._read: set[str] = set()
        made: set[str] = set()
        for row, kind in _metrics.rows():
            if row.name in made:
                continue
            made.add(row.name)
            self._make(meter, row, _metrics.help_of(kind, row.field))

    def _make(self, meter: Any, row: Row, text: str) -> None:
        name, unit = metric_name(row), _UNITS[row.unit]
        if row.kind == "histogram":
            meter.create_observable_gauge(name, [self._callback(row, "", self._quantiles)], unit, text)
            counts, totals = self._callback(row, ".count", self._counts), self._callback(row, ".sum", self._totals)
            meter.create_observable_counter(f"{name}.count", [counts], "1", text)
            meter.create_observable_counter(f"{name}.sum", [totals], unit, text)
            return
        make = {
            "counter": meter.create_observable_counter,
            "gauge": meter.create_observable_gauge
            if row.unit == "seconds"
            else meter.create_observable_up_down_counter,
        }.get(row.kind, meter.create_observable_gauge)
        make(name, [self._callback(row, "", self._values)], unit, text)

    def _callback(
        self, row: Row, part: str, observe: Callable[[Family], Iterable[Any]]
    ) -> Callable[[object], Iterable[Any]]:
        def callback(options: object) -> Iterable[Any]:
            del options
            if _current is not self:
                return []
            family = self._look(row.name, row.name + part)
            return [] if family is None else list(observe(family))

        return callback

    def _look(self, name: str, reader: str) -> Family | None:
        """The metric as of this collection: a new one begins when an instrument is read for the second time."""
        with self._lock:
            if reader in self._read or not self._read:
                self._families = {family.row.name: family for family in _metrics.collect()}
                self._read = set()
            self._read.add(reader)
            return self._families.get(name)

    def _values(self, family: Family) -> Iterator[Any]:
        for labels, value in family.samples:
            yield self._observation(value, _attributes(labels))

    def _quantiles(self, family: Family) -> Iterator[Any]:
        for labels, value in family.samples:
            assert isinstance(value, Distribution)
            for share, taken in value.quantiles if value.count else ():
                yield self._observation(taken, _attributes(labels) | {"quantile": share})

    def _counts(self, family: Family) -> Iterator[Any]:
        for labels, value in family.samples:
            assert isinstance(value, Distribution)
            yield self._observation(value.count, _attributes(labels))

    def _totals(self, family: Family) -> Iterator[Any]:
        for labels, value in family.samples:
            assert isinstance(value, Distribution)
            yield self._observation(value.total, _attributes(labels))


def _attributes(labels: dict[str, str]) -> dict[str, Any]:
    return {f"loopwright.{key}": value for key, value in labels.items()}


# Spans


class _Tracing:
    """The hook of :mod:`loopwright._trace`, that of the waits in the core, and the ids in log lines."""

    def __init__(self, trace: Any, tracer: Any) -> None:
        self._trace = trace
        self._tracer = tracer

    @contextlib.contextmanager
    def span(self, name: str, attributes: dict[str, object]) -> Iterator[Any]:
        """A span around the block, the current one meanwhile. An error marks it as failed, a cancel as cancelled."""
        known = {key: value for key, value in attributes.items() if value is not None}
        with self._tracer.start_as_current_span(name, attributes=known) as span:
            try:
                yield span
            except asyncio.CancelledError:
                span.set_attribute("loopwright.cancelled", True)
                raise

    def waited(self, operation: str, waited_for: object, seconds: float, error: BaseException | None) -> None:
        """A wait has ended, in the task that waited: its span lies in the past."""
        if not self._trace.get_current_span().is_recording():
            return
        end = time.time_ns()
        attributes: dict[str, Any] = {"loopwright.operation": operation}
        name = _metrics.name_of(waited_for)
        if name is not None:
            attributes["loopwright.name"] = name
        if isinstance(error, asyncio.CancelledError):
            attributes["loopwright.cancelled"] = True
        start = end - round(seconds * 1e9)
        span = self._tracer.start_span("loopwright.wait", attributes=attributes, start_time=start)
        if isinstance(error, Exception):
            span.record_exception(error)
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, f"{type(error).__name__}: {error}"))
        span.end(end_time=end)

    def ids(self) -> dict[str, str] | None:
        """The trace and the span that the caller is in."""
        context = self._trace.get_current_span().get_span_context()
        if not context.is_valid:
            return None
        return {"trace_id": format(context.trace_id, "032x"), "span_id": format(context.span_id, "016x")}
