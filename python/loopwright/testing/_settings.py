"""What a marked test is to be run with: the marker, the command line and the ini file, checked and put together.

Lives here: names, defaults, who overrides whom, and the words for what is wrong. Does not live here: the run itself
(:mod:`.plugin`). Imports pytest: part of the plugin, not of ``loopwright.testing``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from loopwright.testing._leaks import selection

__all__ = ["Misuse", "Report", "Settings", "option"]

LEVELS = ("task", "timing", "chaos")
STRATEGIES = (*LEVELS, "random", "pct", "delays", "dpor")
CANCELS = ("every", "await", "step")

DEFAULT_TIMEOUT = 100_000.0
"""Virtual seconds: a day and a bit. Without an end, a task that polls would keep virtual time going for ever."""

DEFAULT_REPORT = "loopwright-report"


class Misuse(Exception):
    """A setting makes no sense; the message says which, and what to write instead."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one test."""

    seeds: int = 100
    strategy: Any = "task"
    """A name, or what ``loopwright.testing.pct()`` and its like return."""
    level: str | None = None
    cancel: str | None = None
    victims: Any = None
    virtual_time: bool = True
    leaks: bool | tuple[str, ...] = True
    timeout: float | None = DEFAULT_TIMEOUT
    net: Mapping[str, Any] = field(default_factory=dict)
    first_seed: int = 0

    @classmethod
    def of(cls, config: pytest.Config, mark: pytest.Mark) -> Settings:
        """The command line has the last word, then the marker, then the ini file.

        Raises:
            Misuse: something in the marker, or the ini file, makes no sense.
        """
        given = {
            **{name: value for name in ("seeds", "strategy", "cancel", "timeout") if (value := _ini(config, name))},
            **_of_marker(mark),
            **{name: value for name in ("seeds", "strategy", "cancel", "timeout") if (value := option(config, name))},
        }
        settings = cls(**{name: _CHECKS[name](name, value) for name, value in given.items()})
        named = settings.strategy if settings.strategy in LEVELS else None
        if named and settings.level and settings.level != named:
            raise Misuse(
                f"strategy={named!r} is a random order at level {named!r}, and level={settings.level!r} says another: "
                f'leave one of them out, or write strategy="random", level={settings.level!r}'
            )
        if not settings.virtual_time and "timeout" not in given:
            settings = replace(settings, timeout=None)
        return replace(settings, level=settings.level or named or "task")

    @property
    def is_spread(self) -> bool:
        """Whether seeds are independent of each other, so that workers can share them."""
        return isinstance(self.strategy, str) and self.strategy not in ("delays", "dpor")


@dataclass(frozen=True, slots=True)
class Report:
    """What ``--loopwright-report`` asks for: one file for each failing test."""

    kind: str
    directory: Path

    @classmethod
    def of(cls, config: pytest.Config) -> Report | None:
        text = option(config, "report")
        if text is None:
            return None
        kind, _, directory = text.partition(":")
        if kind not in ("html", "json"):
            raise Misuse(f"--loopwright-report={text}: write html or json, or html:DIR for a directory of your own")
        return cls(kind, Path(os.path.abspath(config.invocation_params.dir / (directory or DEFAULT_REPORT))))


def option(config: pytest.Config, name: str) -> str | None:
    """An option of the command line; None when it is not there."""
    value: str | None = config.getoption(f"loopwright_{name}", default=None)
    return value


def _ini(config: pytest.Config, name: str) -> str | None:
    value: str | None = config.getini(f"loopwright_{name}")
    return value


def _of_marker(mark: pytest.Mark) -> Mapping[str, Any]:
    if mark.args:
        shown = ", ".join(map(repr, mark.args))
        raise Misuse(f"the marker takes keywords only, and {shown} has none: write loopwright(seeds=..., strategy=...)")
    for name in mark.kwargs:
        if name not in _CHECKS:
            raise Misuse(f"the marker knows no {name!r}{_near(name, _CHECKS)}; it takes {', '.join(_CHECKS)}")
    return mark.kwargs


def _seeds(name: str, value: Any) -> int:
    try:
        count = int(value)
    except (TypeError, ValueError):
        raise Misuse(f"{name}={value!r} is not a number of schedules: write {name}=100") from None
    if count < 1 or isinstance(value, float | bool):
        raise Misuse(f"{name}={value!r}: a test needs at least one schedule; to leave it out, use pytest.mark.skip")
    return count


def _strategy(name: str, value: Any) -> Any:
    if isinstance(value, str) and value not in STRATEGIES:
        raise Misuse(f"there is no {name} {value!r}{_near(value, STRATEGIES)}; there are {', '.join(STRATEGIES)}")
    return value


def _level(name: str, value: Any) -> str | None:
    if value is not None and value not in LEVELS:
        raise Misuse(f"there is no {name} {value!r}; there are {', '.join(LEVELS)}")
    level: str | None = value
    return level


def _cancel(name: str, value: Any) -> str | None:
    if value in (None, "none"):
        return None
    if value not in CANCELS:
        raise Misuse(f"{name}={value!r} is not a place to cancel at; there are {', '.join(CANCELS)}, and none")
    cancel: str = value
    return cancel


def _timeout(name: str, value: Any) -> float | None:
    if value in (None, "none"):
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise Misuse(f"{name}={value!r} is not a number of virtual seconds: write {name}=60, or None") from None
    if not seconds > 0 or math.isinf(seconds):
        raise Misuse(f"{name}={value!r}: write a number of virtual seconds above 0, or None for no limit")
    return seconds


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise Misuse(f"{name}={value!r}: write True or False")
    return value


def _leaks(name: str, value: Any) -> bool | tuple[str, ...]:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) or not isinstance(value, Collection) or not all(isinstance(one, str) for one in value):
        raise Misuse(f"{name}={value!r}: write True, False, or a list of the names")
    try:
        selection(value)
    except ValueError as error:
        raise Misuse(f"{name}={value!r}: {error}") from None
    return tuple(value)


def _net(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Misuse(f"{name}={value!r}: write the arguments of SimNet as a dict, {name}={{'latency': 0.02}}")
    return value


def _anything(_name: str, value: Any) -> Any:
    return value


_CHECKS = {
    "seeds": _seeds,
    "strategy": _strategy,
    "level": _level,
    "cancel": _cancel,
    "victims": _anything,
    "virtual_time": _flag,
    "leaks": _leaks,
    "timeout": _timeout,
    "net": _net,
}


def check_options(config: pytest.Config) -> None:
    """Raises what is wrong with the command line before anything is collected."""
    for name in ("seeds", "strategy", "cancel", "timeout"):
        value = option(config, name)
        if value is not None:
            _CHECKS[name](name, value)
    Report.of(config)


def _near(name: str, names: Collection[str]) -> str:
    import difflib  # noqa: PLC0415 (only for a typing error)

    near = difflib.get_close_matches(name, list(names), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""
