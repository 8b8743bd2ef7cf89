"""``loopwright check``: the analyser is a program and a distribution of its own; found here, and run in our place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["find", "run"]

_NAME = "loopwright-check"
_OVERRIDE = "LOOPWRIGHT_CHECK_BIN"
_MISSING = f"loopwright: {_NAME} is not installed here; pip install 'loopwright[check]' installs it"
_USAGE = 2


def run(arguments: Sequence[str]) -> int:
    """Becomes the analyser, its arguments untouched. Returns where it is absent, or where there is no exec."""
    program = find()
    if program is None:
        print(_MISSING, file=sys.stderr)
        return _USAGE
    command = [program, *arguments]
    if sys.platform == "win32":  # exec gives the terminal back there before the new process has ended
        return subprocess.run(command, check=False).returncode
    try:
        os.execv(program, command)  # its own exit code, signals and terminal
    except OSError as error:
        print(f"loopwright: {program} cannot be run: {error.strerror}", file=sys.stderr)
        return _USAGE


def find() -> str | None:
    """The path of the analyser: what ``LOOPWRIGHT_CHECK_BIN`` says, else beside this interpreter, else on ``PATH``."""
    override = os.environ.get(_OVERRIDE)
    if override:
        return override
    for directory in _scripts():
        found = shutil.which(_NAME, path=directory)
        if found is not None:
            return found
    return shutil.which(_NAME)


def _scripts() -> Iterator[str]:
    """Where pip puts programs: of this environment, of this user, and beside a package that ``--target`` placed."""
    yield sysconfig.get_path("scripts")
    yield sysconfig.get_path("scripts", scheme=sysconfig.get_preferred_scheme("user"))
    yield str(Path(__file__).parents[2] / "bin")
