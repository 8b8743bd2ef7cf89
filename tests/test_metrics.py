"""Metrics: everything that has stats() is exported, under names that follow the conventions, and says what is true."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import importlib
import json
import logging
import pkgutil
import re
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import requires
from support.loops import Cell, run

import loopwright
from loopwright import (
    Background,
    CancelToken,
    Event,
    Keyed,
    Lock,
    LogHandler,
    LogSink,
    Pool,
    PriorityQueue,
    Queue,
    Resources,
    Retry,
    Semaphore,
    TaskGroup,
    _metrics,
    _trace,
    monitor,
    monitoring,
    offload,
    run_process,
    timed,
    timeout,
    watch,
)
from loopwright._metrics import TABLE, collect, rows, unknown_fields
from loopwright.integrations import otel, prometheus
from loopwright.testing import SimLoop

ROOT = Path(__file__).resolve().parent.parent
DASHBOARD = ROOT / "python" / "loopwright" / "integrations" / "grafana.json"


@pytest.fixture(autouse=True)
def nothing_watched() -> Iterator[None]:
    def forget() -> None:
        monitoring._operations.clear()
        _metrics._watched.clear()
        _metrics._names.clear()

    forget()
    yield
    otel.uninstrument()
    forget()


def modules() -> Iterator[Any]:
    """Every module of the package. Drivers are imported when they are used, so none is needed here."""
    for info in pkgutil.walk_packages(loopwright.__path__, "loopwright."):
        if info.name.rpartition(".")[2] != "__main__":
            yield importlib.import_module(info.name)


def stats_classes() -> dict[str, type]:
    found: dict[str, type] = {}
    for module in modules():
        for name, value in vars(module).items():
            is_stats = name.endswith("Stats") and not name.startswith("_")
            if is_stats and isinstance(value, type) and dataclasses.is_dataclass(value):
                found.setdefault(name, value)
    return found


# ---------------------------------------------------------------------------------------------- what is exported


@pytest.mark.default_only
def test_every_field_of_every_stats_is_exported_or_left_out_by_name() -> None:
    """A new XStats needs a row in TABLE of loopwright/_metrics.py: which fields are totals, sizes, flags, states."""
    classes = stats_classes()
    assert {name: unknown_fields(kind) for name, kind in classes.items() if unknown_fields(kind)} == {}
    assert set(TABLE) <= set(classes), "the table knows classes that are gone"
    for name, kind in classes.items():
        there = {field.name for field in dataclasses.fields(kind)}
        assert {row.field for row in TABLE[name].rows} | TABLE[name].left_out <= there, f"{name}: fields that are gone"


@pytest.mark.default_only
def test_every_field_has_a_help_text() -> None:
    for name, kind in stats_classes().items():
        helps = _metrics._help(kind)
        for row in TABLE[name].rows:
            assert helps.get(row.field) or row.field.endswith("_failures"), f"{name}.{row.field} has no docstring"


def test_no_two_fields_have_one_name() -> None:
    for exporter in (prometheus, otel):
        names: dict[str, tuple[str, str]] = {}
        for row, kind in rows():
            name = exporter.metric_name(row)
            assert name not in names, f"{name}: {names.get(name)} and {(kind, row.field)}"
            names[name] = (kind, row.field)


def test_names_follow_prometheus() -> None:
    """Base units, the unit last, ``_total`` for what only grows; no dots, no unit twice."""
    for row, _ in rows():
        name = prometheus.metric_name(row)
        assert re.fullmatch(r"loopwright(_[a-z][a-z0-9]*)+", name), name
        assert name.endswith("_total") == (row.kind == "counter"), name
        assert not re.search(r"_(ms|us|millis|minutes|kb|mb|count|sum|bucket|info)(_total)?$", name), name
        if row.unit:
            assert name.removesuffix("_total").endswith(row.unit), name
            assert name.count(row.unit) == 1, name
        assert row.kind != "histogram" or row.unit == "seconds", name


def test_names_follow_opentelemetry() -> None:
    """Dotted and lower-case, the unit not in the name, ours below ``loopwright.``, the process's as it is there."""
    conventions = {"process.memory.usage", "process.unix.file_descriptor.count", "process.thread.count"}
    for row, _ in rows():
        name = otel.metric_name(row)
        assert re.fullmatch(r"[a-z]+(\.[a-z][a-z_]*)+", name), name
        assert name.startswith("loopwright.") or name in conventions
        assert not re.search(r"(_total|_seconds|_bytes)$", name), name


async def everything() -> dict[str, Any]:
    """One watched object of each kind."""

    async def connect() -> object:
        return object()

    made = {
        "background": Background(),
        "cancel_token": CancelToken(),
        "event": Event(),
        "keyed": Keyed(lambda _: Semaphore(1)),
        "lock": Lock(),
        "pool": Pool(connect),
        "queue": PriorityQueue[int](),
        "resources": Resources(),
        "semaphore": Semaphore(3),
        "task_group": TaskGroup(),
        "timeout": timeout(5),
    }
    return {kind: watch(each, f"the {kind}") for kind, each in made.items()}


def test_every_object_that_has_stats_can_be_watched() -> None:
    async def main() -> None:
        kept = await everything()
        families = {family.row.name: family for family in collect()}
        assert {name.partition(".")[0] for name in families} == set(kept)
        for name, family in families.items():
            assert {labels["name"] for labels, _ in family.samples} == {f"the {name.partition('.')[0]}"}

    asyncio.run(main())


def test_what_is_exported_is_what_stats_says() -> None:
    async def main() -> None:
        queue = watch(Queue[int](5), "jobs")
        for n in range(3):
            queue.put_nowait(n)
        queue.get_nowait()
        values = {family.row.name: family.samples for family in collect()}
        assert values["queue.put"] == [({"name": "jobs"}, 3.0)]
        assert values["queue.size"] == [({"name": "jobs"}, 2.0)]
        assert values["queue.shut_down"] == [({"name": "jobs"}, 0.0)]
        assert "queue.maxsize" in values
        unbounded = watch(Queue[int](), "jobs")  # the newer one of a name
        values = {family.row.name: family.samples for family in collect()}
        assert values["queue.put"] == [({"name": "jobs"}, 0.0)]
        assert "queue.maxsize" not in values, "no limit is no number"
        assert unbounded is not queue

    asyncio.run(main())


def test_a_state_is_one_series_for_each_word() -> None:
    async def main() -> None:
        async with TaskGroup() as group:
            watch(group, "workers")
            [family] = [family for family in collect() if family.row.name == "task_group.state"]
            states = {labels["state"]: value for labels, value in family.samples}
            assert states == {"new": 0.0, "entered": 1.0, "exiting": 0.0, "cancelling": 0.0, "over": 0.0}

    asyncio.run(main())


def test_watching_keeps_nothing_alive() -> None:
    watch(Semaphore(1), "gone")
    kept = watch(Semaphore(1), "kept")
    gc.collect()
    assert {labels["name"] for family in collect() for labels, _ in family.samples} == {"kept"}
    watch(kept, "renamed")
    assert _metrics.name_of(kept) == "renamed"
    assert ("SemaphoreStats", "gone") not in _metrics._watched


def test_what_cannot_be_watched_is_refused_with_the_cure() -> None:
    async def connect() -> object:
        return object()

    for wrong in (5, object(), Semaphore):
        with pytest.raises(TypeError, match="has stats"):
            watch(wrong, "x")
    with pytest.raises(ValueError, match="watch\\(it, 'name'\\)"):
        watch(Semaphore(1))
    pool = Pool(connect, name="db")
    assert watch(pool) is pool
    assert {labels["name"] for family in collect() for labels, _ in family.samples} == {"db"}


@pytest.mark.default_only
def test_a_scrape_from_another_thread_sees_everything() -> None:
    """While the loop changes what is counted."""
    texts: list[str] = []

    async def main() -> None:
        jobs, stop = watch(Background(), "jobs"), threading.Event()

        def scrape() -> None:
            for _ in range(50):
                texts.append(prometheus.exposition())
            stop.set()

        thread = threading.Thread(target=scrape)
        thread.start()
        while not stop.is_set():
            with timed("spawn"):
                jobs.spawn(asyncio.sleep, 0)
            await asyncio.sleep(0)
        thread.join()
        await jobs.aclose()

    asyncio.run(main())
    assert all('loopwright_background_alive{name="jobs"}' in text for text in texts)


# ------------------------------------------------------------------------------------------------- Prometheus

EVIL = 'a "name"\\ with\nall of it'


async def some_load() -> tuple[Any, ...]:
    """Watched objects with something to say."""

    async def connect() -> object:
        return object()

    pool = watch(Pool(connect, max_size=1), EVIL)
    async with pool.acquire():
        await asyncio.sleep(0.5)
    semaphore = watch(Semaphore(2), "permits")
    async with semaphore:
        pass
    for time in (0.004, 0.3, 2.0):
        with timed("nap"):
            await asyncio.sleep(time)
    return pool, semaphore


def in_virtual_time(check: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with monitor(summary=None):
            kept = await some_load()
            await check()
            await kept[0].aclose()

    with asyncio.Runner(loop_factory=SimLoop) as runner:
        runner.run(main())


def test_the_text_is_what_prometheus_parses() -> None:
    parser = requires.module("prometheus_client.parser")

    async def check() -> None:
        families = {family.name: family for family in parser.text_string_to_metric_families(prometheus.exposition())}
        samples = {
            (sample.name, sample.labels["name"], sample.labels.get("le")): sample.value
            for family in families.values()
            for sample in family.samples
        }
        assert samples["loopwright_pool_acquired_total", EVIL, None] == 1
        assert samples["loopwright_pool_hold_seconds_sum", EVIL, None] == pytest.approx(0.5)
        assert samples["loopwright_pool_hold_seconds_count", EVIL, None] == 1
        assert samples["loopwright_semaphore_value", "permits", None] == 2
        assert samples["loopwright_operation_calls_total", "nap", None] == 3
        buckets = [samples["loopwright_operation_duration_seconds_bucket", "nap", le] for le in ("0.001", "0.005", "1")]
        assert [*buckets, samples["loopwright_operation_duration_seconds_bucket", "nap", "+Inf"]] == [0, 1, 2, 3]
        assert samples["loopwright_loop_lag_seconds_count", "loop", None] > 10
        assert samples["loopwright_process_threads", "loop", None] >= 1
        assert families["loopwright_pool_acquired"].documentation == "Connections handed out."
        assert {families[name].type for name in ("loopwright_pool_hold_seconds", "loopwright_loop_lag_seconds")} == {
            "histogram"
        }

    in_virtual_time(check)


def test_buckets_never_shrink_on_the_way_up_and_end_in_the_count() -> None:
    async def check() -> None:
        for family in collect():
            for _, value in family.samples:
                if isinstance(value, _metrics.Distribution):
                    assert list(value.within) == sorted(value.within)
                    assert all(within <= value.count for within in value.within)
                    assert list(value.bounds) == sorted(set(value.bounds))
                    assert len(value.bounds) == len(value.within)

    in_virtual_time(check)


def test_it_works_without_prometheus_client(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "prometheus_client"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    kept = watch(Semaphore(3), "permits")
    assert 'loopwright_semaphore_value{name="permits"} 3\n' in prometheus.exposition()
    with pytest.raises(ImportError):
        list(prometheus.Collector().collect())
    del kept


def test_the_collector_says_what_the_text_says() -> None:
    client = requires.module("prometheus_client")
    parser = requires.module("prometheus_client.parser")

    def values(text: str) -> dict[Any, float]:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in parser.text_string_to_metric_families(text)
            for sample in family.samples
            if "_process_" not in sample.name
        }

    async def check() -> None:
        registry = client.CollectorRegistry()
        registry.register(prometheus.Collector())
        by_client = values(client.generate_latest(registry).decode())
        assert by_client == values(prometheus.exposition())
        assert len(by_client) > 100

    in_virtual_time(check)


def test_the_application_answers_a_scrape() -> None:
    kept = watch(Semaphore(3), "permits")
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("it need not read the request")

    async def send(message: Any) -> None:
        sent.append(message)

    for method in ("GET", "HEAD"):
        asyncio.run(prometheus.app({"type": "http", "method": method}, receive, send))
    start, body, head_start, head = sent
    headers = dict(start["headers"])
    assert (start["status"], headers[b"content-type"]) == (200, prometheus.CONTENT_TYPE.encode())
    assert body["body"] == prometheus.exposition().encode()
    assert int(headers[b"content-length"]) == len(body["body"])
    assert (dict(head_start["headers"]), head["body"]) == (headers, b"")
    with pytest.raises(RuntimeError, match="mount it"):
        asyncio.run(prometheus.app({"type": "lifespan"}, receive, send))
    del kept


# ----------------------------------------------------------------------------------------------- OpenTelemetry


class Telemetry:
    """An SDK that keeps what it gets in memory."""

    def __init__(self) -> None:
        metrics = requires.module("opentelemetry.sdk.metrics")
        export = requires.module("opentelemetry.sdk.metrics.export")
        trace = requires.module("opentelemetry.sdk.trace")
        spans = requires.module("opentelemetry.sdk.trace.export")
        memory = requires.module("opentelemetry.sdk.trace.export.in_memory_span_exporter")
        self.reader = export.InMemoryMetricReader()
        self.meter_provider = metrics.MeterProvider(metric_readers=[self.reader])
        self.exporter = memory.InMemorySpanExporter()
        self.tracer_provider = trace.TracerProvider()
        self.tracer_provider.add_span_processor(spans.SimpleSpanProcessor(self.exporter))
        self.tracer = self.tracer_provider.get_tracer("test")

    def metrics(self) -> dict[str, list[tuple[dict[str, Any], float, str]]]:
        data = self.reader.get_metrics_data()
        found = [] if data is None else [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
        return {
            metric.name: [(dict(point.attributes), point.value, metric.unit) for point in metric.data.data_points]
            for metric in found
        }

    def spans(self) -> list[Any]:
        return list(self.exporter.get_finished_spans())


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    made = Telemetry()
    otel.instrument(meter_provider=made.meter_provider, tracer_provider=made.tracer_provider)
    yield made
    otel.uninstrument()
    made.meter_provider.shutdown()
    made.tracer_provider.shutdown()


def test_instruments_say_what_stats_says(telemetry: Telemetry) -> None:
    async def check() -> None:
        metrics = telemetry.metrics()
        assert metrics["loopwright.pool.acquired"] == [({"loopwright.name": EVIL}, 1, "1")]
        assert metrics["loopwright.semaphore.value"] == [({"loopwright.name": "permits"}, 2, "1")]
        assert metrics["loopwright.operation.calls"] == [({"loopwright.name": "nap"}, 3, "1")]
        assert metrics["loopwright.operation.duration.count"] == [({"loopwright.name": "nap"}, 3, "1")]
        [(_, total, unit)] = metrics["loopwright.operation.duration.sum"]
        assert (total, unit) == (pytest.approx(2.304), "s")
        quantiles = {point[0]["quantile"]: point[1] for point in metrics["loopwright.operation.duration"]}
        assert quantiles == {
            0.5: pytest.approx(0.3, rel=0.01),
            0.9: pytest.approx(2, rel=0.01),
            0.99: pytest.approx(2, rel=0.01),
        }
        assert metrics["process.memory.usage"][0][2] == "By"
        with timed("nap"):
            pass
        assert telemetry.metrics()["loopwright.operation.calls"][0][1] == 4, "each collection looks anew"

    in_virtual_time(check)


def test_there_is_an_instrument_for_every_metric() -> None:
    made: list[str] = []

    class Meter:
        def __getattr__(self, kind: str) -> Callable[..., None]:
            return lambda name, *rest: made.append(name)

    class Provider:
        def get_meter(self, *names: str) -> Meter:
            return Meter()

    requires.module("opentelemetry.metrics")
    otel.instrument(meter_provider=Provider(), spans=False)
    assert {otel.metric_name(row) for row, _ in rows()} <= set(made)
    assert len(made) == len(set(made))


def test_one_collection_looks_once(telemetry: Telemetry) -> None:
    looks: list[int] = []

    class Watched:
        name = "counted"

        def stats(self) -> Any:
            looks.append(1)
            return semaphore.stats()

    semaphore, watched = Semaphore(1), Watched()
    watch(watched)
    looks.clear()
    for n in range(1, 4):
        telemetry.metrics()
        assert len(looks) == n


def test_after_uninstrument_nothing_is_said(telemetry: Telemetry) -> None:
    kept = watch(Semaphore(1), "permits")
    assert "loopwright.semaphore.value" in telemetry.metrics()
    otel.LoopwrightInstrumentor().uninstrument()
    assert telemetry.metrics() == {}
    assert _trace.hook is None
    otel.LoopwrightInstrumentor().instrument(meter_provider=telemetry.meter_provider, skip_dep_check=True, spans=False)
    assert _trace.hook is None
    del kept


def test_a_wait_is_a_span_of_the_task_that_waited(telemetry: Telemetry, cell: Cell) -> None:
    async def main() -> None:
        permits, queue = watch(Semaphore(1), "permits"), Queue[int]()

        async def worker(name: str) -> None:
            with telemetry.tracer.start_as_current_span(name):
                async with permits:
                    await asyncio.sleep(0)

        async def consumer() -> None:  # in no span: an idle consumer leaves no trace
            await queue.get()

        await asyncio.gather(worker("first"), worker("second"), consumer(), put(queue))

    async def put(queue: Queue[int]) -> None:
        await asyncio.sleep(0)
        queue.put_nowait(1)

    run(main, cell)
    spans = {span.name: span for span in telemetry.spans()}
    assert sorted(span.name for span in telemetry.spans()) == ["first", "loopwright.wait", "second"]
    wait, parent = spans["loopwright.wait"], spans["second"]
    assert dict(wait.attributes) == {"loopwright.operation": "Semaphore.acquire", "loopwright.name": "permits"}
    assert wait.parent.span_id == parent.context.span_id
    assert wait.start_time <= wait.end_time
    telemetry.exporter.clear()


def test_a_cancelled_wait_is_a_span_that_says_so(telemetry: Telemetry, cell: Cell) -> None:
    async def main() -> None:
        queue: Queue[int] = Queue()

        async def get() -> None:
            with telemetry.tracer.start_as_current_span("parent"):
                await queue.get()

        task = asyncio.get_running_loop().create_task(get())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        other = asyncio.get_running_loop().create_task(get())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        queue.shutdown()
        await asyncio.wait([other])
        other.exception()

    run(main, cell)
    cancelled, failed = (span for span in telemetry.spans() if span.name == "loopwright.wait")
    assert cancelled.attributes["loopwright.cancelled"] is True
    assert cancelled.status.is_ok or cancelled.status.is_unset
    assert failed.status.description.startswith("QueueShutDown")
    telemetry.exporter.clear()


def test_what_need_not_wait_makes_no_span(telemetry: Telemetry) -> None:
    async def main() -> None:
        with telemetry.tracer.start_as_current_span("parent"):
            async with Semaphore(1), Lock():
                pass

    asyncio.run(main())
    assert [span.name for span in telemetry.spans()] == ["parent"]


def test_a_hook_that_fails_fails_no_wait(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda info: seen.append(info.exc_value))
    loopwright._loopwright._trace_waits(lambda *_: 1 / 0)

    async def main() -> int:
        queue: Queue[int] = Queue()
        asyncio.get_running_loop().call_soon(queue.put_nowait, 7)
        return await queue.get()

    assert asyncio.run(main()) == 7
    assert [type(error) for error in seen] == [ZeroDivisionError]


def test_the_hook_makes_a_span_around_the_work(telemetry: Telemetry) -> None:
    assert _trace.hook is not None
    with _trace.hook("loopwright.retry", {"loopwright.retry.attempt": 1, "loopwright.name": None}):
        pass
    with pytest.raises(ValueError), _trace.hook("loopwright.offload", {}):
        raise ValueError("no")
    with pytest.raises(asyncio.CancelledError), _trace.hook("loopwright.offload", {}):
        raise asyncio.CancelledError
    good, bad, cancelled = telemetry.spans()
    assert (good.name, dict(good.attributes)) == ("loopwright.retry", {"loopwright.retry.attempt": 1})
    assert not bad.status.is_ok
    assert [event.name for event in bad.events] == ["exception"]
    assert cancelled.attributes["loopwright.cancelled"] is True


def test_lines_of_the_log_carry_the_trace(telemetry: Telemetry) -> None:
    lines: list[str] = []
    sink = LogSink(lines.append, format="json")
    log = logging.getLogger("test_metrics.traced")
    handler = LogHandler(sink)
    log.addHandler(handler)
    try:
        log.warning("outside")
        with telemetry.tracer.start_as_current_span("request") as span:
            log.warning("inside")
        otel.uninstrument()
        with telemetry.tracer.start_as_current_span("request"):
            log.warning("afterwards")
        assert sink.flush(10)
    finally:
        log.removeHandler(handler)
    outside, inside, afterwards = map(json.loads, lines)
    assert inside["trace_id"] == format(span.get_span_context().trace_id, "032x")
    assert inside["span_id"] == format(span.get_span_context().span_id, "016x")
    assert "trace_id" not in outside
    assert "trace_id" not in afterwards


def test_attempts_offloads_and_processes_are_spans(telemetry: Telemetry) -> None:
    tries: list[int] = []

    async def flaky() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError(len(tries))
        return "done"

    async def main() -> None:
        with telemetry.tracer.start_as_current_span("request"):
            assert await Retry(ConnectionError, base=0.001, name="upstream")(flaky) == "done"
            assert await offload(sum, [1, 2]) == 3
            await run_process(sys.executable, "-c", "")

    asyncio.run(main())
    spans = [span for span in telemetry.spans() if span.name not in ("request", "loopwright.wait")]
    assert [(span.name, span.status.is_ok or span.status.is_unset) for span in spans] == [
        ("loopwright.retry", False),
        ("loopwright.retry", False),
        ("loopwright.retry", True),
        ("loopwright.offload", True),
        ("loopwright.run_process", True),
    ]
    [request] = [span for span in telemetry.spans() if span.name == "request"]
    assert {span.parent.span_id for span in spans} == {request.context.span_id}
    assert [span.attributes.get("loopwright.retry.attempt") for span in spans[:3]] == [1, 2, 3]
    assert {span.attributes["loopwright.name"] for span in spans[:3]} == {"upstream"}


def test_the_entry_point_is_found() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert '[project.entry-points.opentelemetry_instrumentor]\nloopwright = "loopwright.integrations.otel:' in text


# ---------------------------------------------------------------------------------------------------- Grafana


def expressions(panel: dict[str, Any]) -> Iterator[str]:
    for target in panel.get("targets", ()):
        yield target["expr"]
    for inner in panel.get("panels", ()):
        yield from expressions(inner)


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    exported: set[str] = set()
    for row, _ in rows():
        name = prometheus.metric_name(row)
        exported |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if row.kind == "histogram" else {name}
    asked: set[str] = set()
    for panel in dashboard["panels"]:
        for expression in expressions(panel):
            asked |= set(re.findall(r"loopwright_\w+", expression))
    for variable in dashboard["templating"]["list"]:
        asked |= set(re.findall(r"loopwright_\w+", str(variable.get("query"))))
    assert asked - exported == set()
    assert len(asked) > 25


def test_the_dashboard_is_whole() -> None:
    """Each panel has a place of its own, a unit and something to show; totals are only shown as rates."""
    dashboard = json.loads(DASHBOARD.read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert list(expressions(panel))
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells
        for expression in expressions(panel):
            for name in re.findall(r"loopwright_\w+_(?:total|bucket|count|sum)\b", expression):
                assert re.search(rf"(rate|increase)\({name}", expression), expression
