"""What crossover_offload.py has done elsewhere: a module of its own, as subinterpreters have no main module."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["keys", "objects", "steps"]


def steps(n: int) -> int:
    """A loop of Python."""
    total = 0
    for i in range(n):
        total += i * i
    return total


def keys(text: str) -> int:
    """Parses, and says how much."""
    return len(json.loads(text))


def objects(text: str) -> Any:
    """Parses."""
    return json.loads(text)
