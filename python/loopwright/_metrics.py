"""What is exported: every object that is watched, every field of its ``stats()``, under which name.

Lives here: the table that says of each field of each ``XStats`` whether it is a total, a size or a state; who is
watched; what they all say at one moment. Does not live here: the formats
(:mod:`loopwright.integrations.prometheus`, :mod:`loopwright.integrations.otel`), and who writes the numbers.

A name is made, not chosen: ``loopwright``, the object, the field, the unit; the exporters write it by their conventions
(``loopwright_pool_waits_seconds``, ``loopwright.pool.waits``). Help texts are the docstrings of the fields.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
import threading
import typing
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, TypeVar

from loopwright import monitoring
from loopwright.pools import Histogram

__all__ = ["TABLE", "Distribution", "Family", "Row", "collect", "help_of", "name_of", "rows", "watch"]

T = TypeVar("T")

Kind = Literal["counter", "gauge", "flag", "state", "histogram"]


@dataclass(frozen=True, slots=True)
class Row:
    """How one field is exported."""

    field: str
    kind: Kind
    name: str
    """Without ``loopwright`` and without the unit: ``pool.waits``."""
    unit: Literal["", "seconds", "bytes"] = ""


@dataclass(frozen=True, slots=True)
class Distribution:
    """The value of a histogram."""

    bounds: tuple[float, ...]
    """Upper bounds of the buckets, in seconds; one more, without a bound, is after them."""
    within: tuple[int, ...]
    """How many took no longer than each bound."""
    count: int
    total: float
    quantiles: tuple[tuple[float, float], ...]
    """Share and seconds."""


@dataclass(slots=True)
class Family:
    """One metric, of all objects that have it."""

    row: Row
    help: str
    samples: list[tuple[dict[str, str], float | Distribution]] = field(default_factory=list)
    """Labels and value. ``name`` is the object's; of a state, ``state`` is which one."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What is exported of one kind of object."""

    rows: tuple[Row, ...]
    left_out: frozenset[str]
    """Fields that are words, and say nothing over time."""


def _exported(  # noqa: PLR0913 (each is a kind of field)
    prefix: str,
    *,
    counters: str = "",
    gauges: str = "",
    flags: str = "",
    states: str = "",
    histograms: str = "",
    left_out: str = "",
) -> Exported:
    """Fields by their kind. ``field=name`` renames one, ``field:unit`` gives it a unit."""
    made: list[Row] = []
    kinds: tuple[tuple[Kind, str], ...] = (
        ("counter", counters),
        ("gauge", gauges),
        ("flag", flags),
        ("state", states),
        ("histogram", histograms),
    )
    for kind, words in kinds:
        for word in words.split():
            rest, _, unit = word.partition(":")
            of, _, name = rest.partition("=")
            if unit not in ("", "seconds", "bytes"):
                raise ValueError(f"{word}: a unit is seconds or bytes")
            full = f"{prefix}.{name or of}" if prefix else name or of
            made.append(Row(of, kind, full, typing.cast(Any, unit)))
    return Exported(tuple(made), frozenset(left_out.split()))


_BREAKER: Final = {
    "counters": "successes failures slow ignored refused opened",
    "gauges": "window_calls window_failures window_slow in_flight retry_after:seconds",
    "states": "state",
}
_SHARED: Final = {
    "counters": "acquired waited lost let_through round_trips round_trips_failed",
    "gauges": "value limit waiting held line",
    "flags": "fair",
}

TABLE: Final[dict[str, Exported]] = {
    "AdaptiveLimitStats": _exported(
        "adaptive_limit",
        counters="acquired waited windows overloads",
        gauges="limit value waiting in_flight delay:seconds base=base_delay:seconds minimum maximum",
    ),
    "BackgroundStats": _exported(
        "background",
        counters="spawned finished failed cancelled errors restarts",
        gauges="alive limit",
        flags="closed",
    ),
    "BatcherStats": _exported(
        "batcher", counters="requests batches failed withdrawn", gauges="waiting running largest"
    ),
    "CancelTokenStats": _exported("cancel_token", gauges="waiting children", flags="cancelled", left_out="reason"),
    "CircuitBreakerStats": _exported("breaker", **_BREAKER),
    "EventStats": _exported("event", gauges="waiting", flags="set"),
    "KeyedStats": _exported(
        "keyed", counters="hits made evicted expired full", gauges="keys max_keys idle:seconds peak"
    ),
    "LockStats": _exported("lock", counters="acquired waited", gauges="value limit waiting", flags="fair"),
    "LogSinkStats": _exported(
        "log",
        counters="written written_bytes=output:bytes dropped failed",
        gauges="waiting waiting_bytes=backlog:bytes peak_bytes=backlog_peak:bytes max_bytes=backlog_max:bytes",
        left_out="last_error",
    ),
    "MapStats": _exported("map", counters="started done failed", gauges="running waiting peak limit"),
    "MonitorStats": _exported(
        "",
        counters="slow=monitor.slow summaries=monitor.summaries",
        gauges="resident_memory=process.resident_memory:bytes open_files=process.open_files threads=process.threads",
        histograms="lag=loop.lag:seconds",
    ),
    "NetStats": _exported(
        "net",
        counters="connects refused connect_timeouts bytes resets lost stalls given_up datagrams datagrams_lost lookups",
        gauges="connections",
    ),
    "OffloadStats": _exported(
        "offload",
        counters="calls finished failed withdrawn abandonments timeouts workers_started workers_killed workers_lost",
        gauges="limit waiting running abandoned threads idle_threads processes",
    ),
    "PoolStats": _exported(
        "pool",
        counters="opened closed abandoned abandoned_connects acquired waited timeouts refused connect_failures "
        "check_failures reset_failures close_failures expired evicted leaks",
        gauges="max_size burst min_size size idle in_use opening checking resetting closing waiting keys",
        flags="draining",
        histograms="waits=wait:seconds holds=hold:seconds",
    ),
    "PrefetchStats": _exported("prefetch", counters="read", gauges="buffered limit", flags="ended"),
    "ProcessStats": _exported(
        "child",
        counters="stdout_bytes=stdout:bytes stderr_bytes=stderr:bytes",
        gauges="returncode",
        flags="stdout_paused stderr_paused",
        states="state",
        left_out="pid",
    ),
    "QueueStats": _exported(
        "queue",
        counters="put got",
        gauges="maxsize size available unfinished getters putters joiners",
        flags="shut_down",
    ),
    "RateLimiterStats": _exported(
        "rate_limiter",
        counters="acquired admitted waited refused",
        gauges="rate per:seconds burst available waiting",
    ),
    "ResourcesStats": _exported(
        "resources", counters="opened failed close_failures", gauges="open opening closing", flags="closed"
    ),
    "RetryBudgetStats": _exported(
        "retry_budget", counters="retries denied", gauges="share floor window:seconds left", left_out="name"
    ),
    "RetryStats": _exported(
        "retry",
        counters="calls retries recovered out_of_attempts out_of_time out_of_budget",
        gauges="budget_left=retries_left",
        left_out="name",
    ),
    "SemaphoreStats": _exported("semaphore", counters="acquired waited", gauges="value limit waiting", flags="fair"),
    "ServiceStats": _exported("http", counters="requests attempts failures", gauges="in_flight hosts", left_out="name"),
    "SharedCircuitBreakerStats": _exported(
        "shared_breaker",
        counters=f"{_BREAKER['counters']} let_through round_trips round_trips_failed",
        gauges=_BREAKER["gauges"],
        states="state",
    ),
    "SharedLockStats": _exported("shared_lock", **_SHARED),
    "SharedRateLimiterStats": _exported(
        "shared_rate_limiter",
        counters="acquired admitted waited refused let_through round_trips round_trips_failed",
        gauges="rate per:seconds burst available waiting",
    ),
    "SharedSemaphoreStats": _exported("shared_semaphore", **_SHARED),
    "TaskGroupStats": _exported(
        "task_group", counters="started failed cancelled", gauges="alive limit waiting", states="state"
    ),
    "TimedStats": _exported(
        "operation",
        counters="calls failed cancelled slow",
        gauges="running",
        histograms="durations=duration:seconds",
    ),
    "TimeoutStats": _exported("timeout", gauges="remaining:seconds", states="state", left_out="when"),
}
"""By the name of the class that ``stats()`` gives. tests/test_metrics.py compares it with what there is."""


# Who is watched


class _Watched:
    """One object under one name, for as long as it lives."""

    __slots__ = ("name", "ref")

    def __init__(self, watched: Any, name: str) -> None:
        self.ref: Callable[[], Any] = weakref.ref(watched)
        self.name = name


_watched: dict[tuple[str, str], _Watched] = {}
_names: dict[int, _Watched] = {}
_lock = threading.Lock()


def watch(watched: T, name: str | None = None) -> T:
    """Exports what an object's ``stats()`` says, for as long as the object lives::

        pool = watch(Pool(connect), "db")
        permits = watch(Semaphore(8), "uploads")

    Timed operations and monitors are exported without it.

    Args:
        watched: any object of Loopwright with ``stats()``. Only a weak reference is kept.
        name: the value of the label ``name`` of its metrics. Default: the name that the object was given itself.

    Returns:
        The same object.

    Raises:
        TypeError: it has no ``stats()``, or one that gives nothing of Loopwright's.
        ValueError: it has no name. The exporters need one to tell it from the next.

    Of two objects of a kind with the same name, the newer is exported. Thread-safe.
    """
    stats = None if isinstance(watched, type) else getattr(watched, "stats", None)
    kind = type(stats()).__name__ if callable(stats) else None
    if kind not in TABLE:
        raise TypeError(f"watch takes an object of Loopwright that has stats(), got {watched!r}")
    given = getattr(watched, "name", None) if name is None else name
    if not isinstance(given, str) or not given:
        raise ValueError(f"watch needs a name for {watched!r}: watch(it, 'name')")
    entry = _Watched(watched, given)
    with _lock:
        for key in [key for key, old in _watched.items() if old.ref() is None]:
            del _watched[key]
        for number in [number for number, old in _names.items() if old.ref() is None]:
            del _names[number]
        _watched[kind, given] = entry
        _names[id(watched)] = entry
    return watched


def name_of(watched: object) -> str | None:
    """The name under which an object is exported, or its own; None without one."""
    entry = _names.get(id(watched))
    if entry is not None and entry.ref() is watched:
        return entry.name
    name = getattr(watched, "name", None)
    return name if isinstance(name, str) else None


def _everybody() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each name, and how to ask for its stats. Of two monitors of one name, the newer is asked."""
    for name, operation in sorted(monitoring._operations.items()):
        yield name, operation.stats
    monitors = {monitor.name or "loop": monitor for monitor in tuple(monitoring._monitors)}
    for name, monitor in sorted(monitors.items()):
        yield name, monitor.stats
    with _lock:
        entries = sorted(_watched.items())
    for (_, name), entry in entries:
        watched = entry.ref()
        if watched is not None:
            yield name, watched.stats


def collect() -> list[Family]:
    """What everything that is watched says now, by metric, in the order of their names. Thread-safe."""
    families: dict[str, Family] = {}
    for name, stats in _everybody():
        said = _ask(stats)
        if said is None:
            continue
        kind: Any = type(said)
        for row in TABLE[kind.__name__].rows:
            value = getattr(said, row.field)
            if value is None:
                continue
            family = families.get(row.name)
            if family is None:
                family = families[row.name] = Family(row, _help(kind).get(row.field, ""))
            if row.kind == "state":
                states = _states(kind, row.field)
                family.samples += [({"name": name, "state": state}, float(state == value)) for state in states]
            elif row.kind == "histogram":
                family.samples.append(({"name": name}, _distribution(value)))
            else:
                family.samples.append(({"name": name}, float(value)))
    return [families[name] for name in sorted(families)]


def rows() -> list[tuple[Row, str]]:
    """Every metric there can be, whether or not anything has it yet, and the class whose field it is."""
    return [(row, kind) for kind, exported in TABLE.items() for row in exported.rows]


def help_of(kind: str, name: str) -> str:
    """The help text of a field, if its class was loaded; else none: nothing can have it yet."""
    found = next((each for each in _stats_classes() if each.__name__ == kind), None)
    return "" if found is None else _help(found).get(name, "")


def _stats_classes() -> Iterator[type]:
    """The ``XStats`` of the modules that are loaded."""
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] == "loopwright":
            for name, value in list(vars(module).items()):
                if name.endswith("Stats") and isinstance(value, type) and value.__module__ == module_name:
                    yield value


_TRIES = 3


def _ask(stats: Callable[[], Any]) -> Any:
    """The stats. What counts its own parts can be changed meanwhile by the loop of another thread: then once more."""
    for _ in range(_TRIES):
        try:
            return stats()
        except RuntimeError:
            continue
    return None


def _distribution(value: Any) -> Distribution:
    if isinstance(value, Histogram):
        bounds = tuple(2.0**power / 1e6 for power in range(len(value.counts) - 1))
        so_far, within = 0, []
        for count in value.counts[:-1]:
            so_far += count
            within.append(so_far)
        quantiles = tuple((share, value.quantile(share)) for share in (0.5, 0.9, 0.99))
        return Distribution(bounds, tuple(within), value.count, value.total, quantiles)
    quantiles = ((0.5, value.p50), (0.9, value.p90), (0.99, value.p99))
    return Distribution(monitoring.BOUNDS, value.within, value.count, value.total, quantiles)


@functools.cache
def _states(kind: Any, name: str) -> tuple[str, ...]:
    """The words that a field can have."""
    return typing.get_args(typing.get_type_hints(kind)[name])


@functools.cache
def _help(kind: Any) -> dict[str, str]:
    """The docstring of each field: what stands below it in the source. Without the source, none."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError, SyntaxError):
            continue
        assert isinstance(body, ast.ClassDef)
        for before, after in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(before.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                found[before.target.id] = " ".join(after.value.value.replace("`", "").split())
    return found


def unknown_fields(kind: type) -> list[str]:
    """The fields of an ``XStats`` of which the table does not say what becomes of them."""
    exported = TABLE.get(kind.__name__)
    known = set() if exported is None else {row.field for row in exported.rows} | exported.left_out
    return [each.name for each in fields(kind) if each.name not in known]
