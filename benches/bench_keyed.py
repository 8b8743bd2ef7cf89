"""Keyed against a plain dict and functools.lru_cache, which forget nothing, or anything.

``python benches/bench_keyed.py [FILE.json]``
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from harness import Row, compare_calls, save

from loopwright import Keyed, Semaphore

KEYS = [f"host{n}.example.org" for n in range(1_000)]


def hits(get: Callable[[str], object]) -> Callable[[int], object]:
    """The same keys over and over."""

    def case(n: int) -> None:
        for _ in range(n // len(KEYS)):
            for key in KEYS:
                get(key)

    return case


def misses(make: Callable[[], Callable[[int], object]]) -> Callable[[int], object]:
    """A new key each time, with room for a thousand."""

    def case(n: int) -> None:
        get = make()
        for key in range(n):
            get(key)

    return case


def new(key: object) -> Semaphore:
    return Semaphore(8)


def main() -> None:
    by_dict = {key: new(key) for key in KEYS}
    keyed = Keyed(new)
    rows: list[Row] = [
        compare_calls(
            "a key that is there",
            {
                "dict": hits(by_dict.__getitem__),
                "functools.lru_cache": hits(functools.lru_cache(maxsize=10_000)(new)),
                "loopwright": hits(keyed.__getitem__),
            },
            n=200_000,
            baseline="functools.lru_cache",
            ours="loopwright",
        ),
        compare_calls(
            "a new key, an old one goes",
            {
                "functools.lru_cache": misses(lambda: functools.lru_cache(maxsize=1_000)(new)),
                "loopwright": misses(lambda: Keyed(new, max_keys=1_000, idle=math.inf).__getitem__),
            },
            n=100_000,
            baseline="functools.lru_cache",
            ours="loopwright",
        ),
    ]
    save(rows)


if __name__ == "__main__":
    main()
