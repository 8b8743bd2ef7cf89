"""The servers that the tests start: PostgreSQL, Redis, OpenSSH. Where their programs are, and how Debian installs them.

Only the programs are wanted. The tests start instances of their own on free ports (``tests/support/servers.py``), so
nothing that a package would start by itself is started: ``policy-rc.d`` says so for as long as apt-get runs.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PACKAGES = {"postgres": "postgresql", "redis-server": "redis-server", "sshd": "openssh-server"}
"""The program that has to be there, and the package that brings it."""

POLICY = Path("/usr/sbin/policy-rc.d")
LISTS = Path("/var/lib/apt/lists")
WHERE = ("/usr/sbin", "/usr/local/sbin", "/usr/lib/postgresql/*/bin")
"""Directories that are not on everybody's PATH. Of several PostgreSQLs the newest is taken."""


class NotInstalled(Exception):
    """A program is missing and could not be installed; the message says what to do."""


def find(program: str) -> str | None:
    """The path of a program, also where Debian hides it."""
    hidden = [directory for pattern in WHERE for directory in Path("/").glob(pattern.lstrip("/"))]
    newest_first = sorted(hidden, key=lambda path: [int(n) for n in re.findall(r"\d+", str(path))], reverse=True)
    return shutil.which(program) or shutil.which(program, path=os.pathsep.join(map(str, newest_first)))


def missing() -> dict[str, str]:
    """Programs that are not there, with their packages."""
    return {program: package for program, package in PACKAGES.items() if find(program) is None}


def install(run: Callable[[Sequence[str | Path]], None]) -> None:
    """Installs what is missing, as root or through ``sudo -n``.

    Raises:
        NotInstalled: there is no apt-get, no way to be root, or apt-get failed.
    """
    absent = missing()
    if not absent:
        return
    packages = sorted(absent.values())
    advice = f"install {', '.join(packages)} by hand, and make sure that {', '.join(sorted(absent))} can be found"
    if shutil.which("apt-get") is None:
        raise NotInstalled(f"this is no Debian: {advice}")
    if os.geteuid() != 0 and shutil.which("sudo") is None:
        raise NotInstalled(f"apt-get needs root, and there is no sudo: {advice}")
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    apt = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o=Dpkg::Use-Pty=0"]
    wanted = [*apt, "install", "--yes", "--no-install-recommends", *packages]
    try:
        with _nothing_started(run, root):
            if not any(LISTS.glob("*_Packages*")):
                run([*apt, "update"])
                run(wanted)
            else:
                try:
                    run(wanted)
                except Exception:  # lists of long ago name files that are gone
                    run([*apt, "update"])
                    run(wanted)
    except Exception as error:
        raise NotInstalled(f"{error}: {advice}") from error
    if still := missing():
        raise NotInstalled(f"apt-get installed {', '.join(packages)}, but {', '.join(sorted(still))} is not found")


@contextmanager
def _nothing_started(run: Callable[[Sequence[str | Path]], None], root: Sequence[str]) -> Iterator[None]:
    """Packages start no service meanwhile. A policy that is there already is the administrator's: it stays."""
    if POLICY.exists():
        yield
        return
    run([*root, "sh", "-c", f"printf '#!/bin/sh\\nexit 101\\n' > {POLICY} && chmod 755 {POLICY}"])
    try:
        yield
    finally:
        run([*root, "rm", "-f", POLICY])
