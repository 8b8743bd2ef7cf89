"""Runs ``file.py``, ``pkg.mod`` or ``pkg.mod:callable`` as ``python`` would."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import runpy
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["TargetError", "resolve"]


class TargetError(Exception):
    """There is nothing to run by that name."""


def resolve(target: str, args: list[str], run: Callable[[Callable[..., Any]], Any]) -> Callable[[], Any]:
    """Finds ``target`` and sets ``sys.argv`` and ``sys.path``; calling what is returned runs it.

    Parameters:
        target: the file, the module or the module and callable.
        args: the program's arguments.
        run: runs a coroutine function, as :func:`loopwright.run` does.

    Raises:
        TargetError: there is no such file, module or callable.
    """
    module, colon, path = target.partition(":")
    if target.endswith(".py") or os.sep in target or os.path.isfile(target):
        return _file(target, args)
    _set_path_head(os.getcwd())
    if not all(part.isidentifier() for part in module.split(".")):
        raise TargetError(f"{target!r} is no file here, and not the name of a module")
    if colon:
        return _callable(target, module, path, args, run)
    return _module(module, args)


def _set_path_head(directory: str) -> None:
    """Puts ``directory`` where the one of the ``loopwright`` script is; ``python -P`` has none there."""
    if not sys.flags.safe_path:
        sys.path[0] = directory


def _file(target: str, args: list[str]) -> Callable[[], Any]:
    if not os.path.exists(target):
        raise TargetError(f"there is no file {target!r}")
    sys.argv[:] = [target, *args]
    if not os.path.isdir(target):
        _set_path_head(os.path.dirname(os.path.abspath(target)))
    return lambda: runpy.run_path(target, run_name="__main__")


def _module(module: str, args: list[str]) -> Callable[[], Any]:
    try:
        spec = importlib.util.find_spec(module)
    except ImportError as error:
        raise TargetError(f"module {module!r} cannot be imported: {error}") from error
    if spec is None:
        raise TargetError(f"there is no module {module!r}")
    if spec.submodule_search_locations is not None and importlib.util.find_spec(f"{module}.__main__") is None:
        raise TargetError(f"{module!r} is a package without __main__; name a module or {module}:callable")
    sys.argv[:] = [spec.origin or module, *args]
    return lambda: runpy.run_module(module, run_name="__main__", alter_sys=True)


def _callable(
    target: str, module: str, path: str, args: list[str], run: Callable[[Callable[..., Any]], Any]
) -> Callable[[], Any]:
    sys.argv[:] = [target, *args]

    def call() -> Any:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            try:
                found = getattr(found, part)
            except AttributeError:
                raise TargetError(f"module {module!r} has no {path!r}") from None
        if not callable(found):
            raise TargetError(f"{target!r} is not callable: {found!r}")
        if _is_async(found):
            return run(found)
        result = found()
        if inspect.iscoroutine(result):
            return run(lambda: result)
        return sys.exit(result)

    try:
        missing = importlib.util.find_spec(module) is None
    except ImportError as error:
        raise TargetError(f"module {module!r} cannot be imported: {error}") from error
    if missing:
        raise TargetError(f"there is no module {module!r}")
    return call


def _is_async(function: Any) -> bool:
    """Whether calling it gives a coroutine: an async function, a bound method, an object with an async ``__call__``."""
    call = getattr(type(function), "__call__", None)  # noqa: B004 - what kind of function it is, not whether
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
