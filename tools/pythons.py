"""Finds the interpreters to test on: one CPython per minor version, from 3.11 to 3.15.

Looked at in this order, the first of a minor version wins: ``LOOPWRIGHT_PYTHONS`` (paths separated by colons),
``python3.N`` on ``PATH``, pyenv's versions. What does not start, is not CPython or has no GIL is left out, and named.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SUPPORTED = tuple((3, minor) for minor in range(11, 16))

_PROBE = """
import json, platform, sys, sysconfig
print(json.dumps([platform.python_implementation(), platform.python_version(), list(sys.version_info[:2]),
                  bool(sysconfig.get_config_var("Py_GIL_DISABLED"))]))
"""


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter that runs."""

    path: Path
    version: str
    """For example ``3.13.0``."""
    minor: str
    """For example ``3.13``."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """An interpreter that is there and cannot be used."""

    path: Path
    reason: str


def probe(path: Path) -> Python | Rejected:
    """Starts ``path`` and asks what it is."""
    try:
        done = subprocess.run([path, "-I", "-c", _PROBE], capture_output=True, text=True, timeout=60, check=True)
        implementation, version, minor, free_threaded = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return Rejected(path, "does not start")
    if implementation != "CPython":
        return Rejected(path, f"is {implementation}")
    if free_threaded:
        return Rejected(path, "is a free-threaded build")
    if tuple(minor) not in SUPPORTED:
        return Rejected(path, f"is {version}; 3.11 to 3.15 are supported")
    return Python(path, version, ".".join(map(str, minor)))


def _candidates() -> list[Path]:
    listed = [Path(part) for part in os.environ.get("LOOPWRIGHT_PYTHONS", "").split(":") if part]
    names = [f"python{major}.{minor}" for major, minor in SUPPORTED]
    on_path = [Path(found) for name in names if (found := shutil.which(name))]
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return listed + on_path + sorted(root.glob("versions/3.*/bin/python"), reverse=True)


def find() -> tuple[dict[str, Python], list[Rejected]]:
    """The interpreters by minor version, and what was refused for being free-threaded or broken though listed."""
    found: dict[str, Python] = {}
    refused: list[Rejected] = []
    listed = set(os.environ.get("LOOPWRIGHT_PYTHONS", "").split(":"))
    for path in _candidates():
        python = probe(path)
        if isinstance(python, Python):
            found.setdefault(python.minor, python)
        elif str(path) in listed or "free-threaded" in python.reason:
            refused.append(python)
    return dict(sorted(found.items(), key=lambda item: int(item[0].split(".")[1]))), refused
