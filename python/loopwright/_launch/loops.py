"""Which event loop a name means: ``auto``, ``asyncio``, ``uvloop`` or ``pkg.mod:factory``."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["LoopFactory", "loop_factory"]

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def loop_factory(name: str | LoopFactory) -> LoopFactory | None:
    """The factory for ``name``; ``None`` for asyncio's own choice.

    Raises:
        ValueError: the name is none of the four forms, or what it names cannot be imported or called.
    """
    if not isinstance(name, str):
        if callable(name):
            return name
        raise ValueError(f"loop must be 'auto', 'asyncio', 'uvloop', 'pkg.mod:factory' or a callable, not {name!r}")
    if name == "asyncio":
        return None
    if name in {"auto", "uvloop"}:
        try:
            import uvloop  # noqa: PLC0415 - optional
        except ImportError:
            if name == "auto":
                return None
            raise ValueError("loop 'uvloop' is not installed: pip install uvloop, or use 'auto'") from None
        factory: LoopFactory = uvloop.new_event_loop
        return factory
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise ValueError(f"loop must be 'auto', 'asyncio', 'uvloop' or 'pkg.mod:factory', not {name!r}")
    return _import_factory(name, module, path)


def _import_factory(name: str, module: str, path: str) -> LoopFactory:
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"loop {name!r} cannot be imported: {error}") from error
    if not callable(found):
        raise ValueError(f"loop {name!r} is not callable: {found!r}")
    factory: LoopFactory = found
    return factory
