"""/stats: what the instance is doing, as JSON for machines and as a page for people. No template engine, no scripts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from typing import TYPE_CHECKING, Any

from loopwright import Background, Pool

if TYPE_CHECKING:
    from api.draining import Draining

PERCENTILES = (0.5, 0.9, 0.99, 0.999)
STATES = ("in_use", "resetting", "checking", "opening", "closing", "idle")
"""What a connection can be, as ``PoolStats`` names it; in the order of the bar."""


class Histogram:
    """How long things took, in classes that are 19 % wide: four for each doubling of a microsecond."""

    PER_OCTAVE = 4

    def __init__(self) -> None:
        self.counts = [0] * (26 * self.PER_OCTAVE)  # up to a minute; the last one is for all that took longer

    def add(self, seconds: float) -> None:
        place = math.ceil(math.log2(max(seconds * 1e6, 1.0)) * self.PER_OCTAVE)
        self.counts[min(place, len(self.counts) - 1)] += 1


def percentiles(counts: Sequence[int], per_octave: int = 1) -> dict[str, float]:
    """``{"p50": 0.0012, ...}`` in seconds: the upper end of the class that each falls into. Empty without counts."""
    found: dict[str, float] = {}
    total, so_far, left = sum(counts), 0, list(PERCENTILES)
    for place, count in enumerate(counts):
        so_far += count
        while left and total and so_far >= left[0] * total:
            found[f"p{left.pop(0) * 100:g}"] = 2 ** (place / per_octave) / 1e6
    return found


# As data


def picture(
    *, uptime: float, requests: Draining, pools: Mapping[str, Pool[Any]], jobs: Background, tasks: int
) -> dict[str, Any]:
    """All of it, for JSON."""
    return {
        "uptime": round(uptime, 3),
        "draining": requests.draining,
        "in_flight": requests.in_flight,
        "answers": {str(status): count for status, count in sorted(requests.answers.items())},
        "seconds": percentiles(requests.times.counts, Histogram.PER_OCTAVE),
        "tasks": tasks,
        "pools": {name: pool_picture(pool) for name, pool in pools.items()},
        "background": asdict(jobs.stats()),
    }


def pool_picture(pool: Pool[Any]) -> dict[str, Any]:
    """``PoolStats``, and the percentiles of its two histograms, which count by powers of two of a microsecond."""
    stats = pool.stats()
    times = {"waits": stats.waits, "holds": stats.holds}
    return asdict(stats) | {name: {**percentiles(each.counts), "counts": each.counts} for name, each in times.items()}


# As a page

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.3rem } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem }
table { border-collapse: collapse } td, th { padding: .1rem .9rem .1rem 0; text-align: left; font-weight: 400 }
th { opacity: .65 } td { font-variant-numeric: tabular-nums }
.row { display: flex; flex-wrap: wrap; gap: 2rem } figure { margin: .6rem 0 0 } figcaption { opacity: .65 }
.bar { display: flex; height: 1.6rem; border-radius: .3rem; overflow: hidden; background: #8883 }
.bar i { display: block } .key i { display: inline-block; width: .8rem; height: .8rem; margin: 0 .3rem 0 .9rem }
.in_use { background: #0d9488 } .idle { background: #99f6e4 } .resetting { background: #eab308 }
.checking { background: #60a5fa } .opening { background: #a78bfa } .closing { background: #f87171 }
rect { fill: #0d9488 } text { fill: currentColor; font-size: 10px; opacity: .65 }
"""


def page(now: Mapping[str, Any]) -> str:
    """The same for people; it loads itself again every two seconds."""
    state = "draining" if now["draining"] else "ready"
    facts = {
        "state": f"{state}, up {now['uptime']:.0f} s",
        "requests under way": now["in_flight"],
        "answers": ", ".join(f"{count} x {status}" for status, count in now["answers"].items()) or "none yet",
        "time per request": _times(now["seconds"]),
        "tasks": now["tasks"],
        "background errors": now["background"]["errors"],
    }
    parts = [_table(facts), *(_pool(name, pool) for name, pool in now["pools"].items())]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="2">'
        f'<meta name="viewport" content="width=device-width"><title>{state} · items</title><style>{_STYLE}</style>'
        f"<h1>Items</h1>{''.join(parts)}</html>"
    )


def _pool(name: str, pool: Mapping[str, Any]) -> str:
    room = max(pool["max_size"] + pool["burst"], sum(pool[state] for state in STATES))
    bar = "".join(f'<i class="{state}" style="width:{100 * pool[state] / room:.2f}%"></i>' for state in STATES)
    key = "".join(f'<i class="{state}"></i>{state.replace("_", " ")} {pool[state]}' for state in STATES)
    facts = {
        "waiting": pool["waiting"],
        "time to get one": _times(pool["waits"]),
        "time in use": _times(pool["holds"]),
        "opened / closed / abandoned": f"{pool['opened']} / {pool['closed']} / {pool['abandoned']}",
        "turned away": f"{pool['timeouts'] + pool['refused']}, {pool['timeouts']} of them after waiting",
    }
    drawn = [_chart("time to get one", pool["waits"]["counts"]), _chart("time in use", pool["holds"]["counts"])]
    return (
        f"<h2>{escape(name)}: {pool['in_use']} of {pool['max_size']} in use</h2>"
        f'<div class="bar">{bar}</div><div class="key">{key}</div>'
        f'{_table(facts)}<div class="row">{"".join(drawn)}</div>'
    )


def _table(facts: Mapping[str, object]) -> str:
    rows = (f"<tr><th>{escape(name)}<td>{escape(str(value))}" for name, value in facts.items())
    return f"<table>{''.join(rows)}</table>"


def _times(seconds: Mapping[str, float]) -> str:
    shown = [f"{name} ≤ {duration(value)}" for name, value in seconds.items() if name.startswith("p")]
    return ", ".join(shown) or "none yet"


def duration(seconds: float) -> str:
    """Short, with the unit that fits: ``1.2 ms``."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def _chart(title: str, counts: Sequence[int]) -> str:
    """A bar for each power of two of a microsecond, up to the last that has any; heights are logarithmic."""
    last = max((place for place, count in enumerate(counts) if count), default=0)
    shown, width, height = max(last + 1, 21), 12, 60
    top = math.log1p(max(counts, default=0)) or 1.0
    bars = []
    for place, count in enumerate(counts[:shown]):
        tall = height * math.log1p(count) / top
        bars.append(
            f'<rect x="{place * width}" y="{height - tall:.1f}" width="{width - 2}" height="{tall:.1f}">'
            f"<title>{count} within {duration(2**place / 1e6)}</title></rect>"
        )
    marks = [(0, "1 µs"), (10, "1 ms"), (20, "1 s")]
    labels = "".join(f'<text x="{place * width}" y="{height + 12}">{text}</text>' for place, text in marks)
    return (
        f'<figure><svg width="{shown * width + 30}" height="{height + 16}" role="img" aria-label="{title}">'
        f"{''.join(bars)}{labels}</svg><figcaption>{title}</figcaption></figure>"
    )
