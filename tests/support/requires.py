"""What a test needs beyond CPython and pytest.

A skip whose reason starts with ``missing:`` is an accident of the machine: under ``CI=true`` it is a failure (see
``conftest.py``). A skip that is meant (another version's feature, another platform) gives any other reason.
"""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NoReturn, TypeVar

import pytest

MISSING = "missing:"
ROOT = Path(__file__).resolve().parent.parent.parent

T = TypeVar("T", pytest.TestReport, pytest.CollectReport)


def missing(what: str) -> NoReturn:
    """Skips the test, or at its top a whole module; under CI that is a failure."""
    pytest.skip(f"{MISSING} {what}", allow_module_level=True)


def no_accidental_skip(report: T) -> T:
    """Under CI, what is missing was promised: turns such a skip into a failure."""
    if os.environ.get("CI") == "true" and report.skipped and isinstance(report.longrepr, tuple):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        if reason.startswith(MISSING):
            report.outcome = "failed"
            report.longrepr = f"{reason} (a skip elsewhere, a failure under CI)"
    return report


def module(name: str) -> ModuleType:
    """The module, imported; for what ``[dependency-groups]`` installs."""
    try:
        return importlib.import_module(name)
    except ImportError:
        missing(f"the module {name}")


def command(name: str) -> str:
    """The path of a command, looked for beside the interpreter first (where pip puts scripts)."""
    found = shutil.which(name, path=os.path.dirname(sys.executable)) or shutil.which(name)
    return found or missing(f"the command {name}")


def analyser() -> Path:
    """The program that ``cargo build -p loopwright-check --profile analyser`` makes, or the one that CI has made."""
    program = Path(os.environ.get("LOOPWRIGHT_CHECK_BIN") or ROOT / "target/analyser/loopwright-check").resolve()
    return program if os.access(program, os.X_OK) else missing(f"the analyser's program, {program}")


def interpreter(minor: str) -> str:
    """The path of another CPython that starts, for example ``interpreter("3.14")``."""
    listed = os.environ.get("LOOPWRIGHT_PYTHONS", "").split(":")
    for candidate in [*(path for path in listed if path.endswith(f"python{minor}")), shutil.which(f"python{minor}")]:
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    missing(f"CPython {minor}")


def server(host: str, port: int) -> tuple[str, int]:
    """The address of a server that accepts connections."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        missing(f"a server on {host}:{port}")
    return host, port
