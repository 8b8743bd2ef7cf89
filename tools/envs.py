"""Virtual environments: made, filled and rebuilt only when what they are made of has changed.

``.venv`` belongs to the default interpreter, ``.venv-3.N`` to each other one. Each carries a small JSON file with the
digests of what went into it. ``target/py3.N`` is the interpreter's own: PyO3 is compiled anew whenever the interpreter
changes, so a shared target directory would build it again at each turn. What does not know the interpreter is compiled
once and copied.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pythons import Python

ROOT = Path(__file__).resolve().parent.parent

Run = Callable[[Sequence[str | Path], Mapping[str, str]], None]
"""Runs a command with additions to the environment; raises :class:`subprocess.CalledProcessError`."""


def requirements(group: str) -> list[str]:
    """What ``[dependency-groups]`` in pyproject.toml lists under ``group``, with the groups it includes."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]

    def expand(name: str) -> Iterable[str]:
        for entry in groups[name]:
            if isinstance(entry, str):
                yield entry
            else:
                yield from expand(entry["include-group"])

    return sorted(set(expand(group)))


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def sources() -> str:
    """A digest of everything the extension is built from; the analyser is not."""
    files = [ROOT / name for name in ("Cargo.toml", "Cargo.lock", "pyproject.toml")]
    crates = [ROOT / "crates" / name for name in ("core", "python", "cli")]
    files += sorted(path for crate in crates for path in crate.rglob("*") if path.suffix in {".rs", ".toml", ".py"})
    return _digest(part for path in files for part in (str(path.relative_to(ROOT)).encode(), path.read_bytes()))


@dataclass(frozen=True, slots=True)
class Env:
    """The virtual environment of one interpreter."""

    base: Python
    path: Path
    run: Run

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    @property
    def target(self) -> Path:
        return ROOT / "target" / f"py{self.base.minor}"

    def bin(self, name: str) -> Path:
        return self.path / "bin" / name

    def cargo_env(self) -> dict[str, str]:
        """What cargo has to be told so that it finds what maturin built (maturin sets the same)."""
        bits = 64 if sys.maxsize > 2**32 else 32
        return {
            "CARGO_TARGET_DIR": str(self.target),
            "PYO3_PYTHON": str(self.python),
            "PYO3_ENVIRONMENT_SIGNATURE": f"cpython-{self.base.minor}-{bits}bit",
            "PYO3_BUILD_EXTENSION_MODULE": "1",
        }

    def _stamp(self) -> dict[str, Any]:
        try:
            stamp: dict[str, Any] = json.loads((self.path / "loopwright.json").read_text())
        except (OSError, ValueError):
            return {}
        return stamp

    def _note(self, **entries: Any) -> None:
        (self.path / "loopwright.json").write_text(json.dumps(self._stamp() | entries))

    def create(self, virtualenv: Path | None = None) -> None:
        """Makes the environment, unless it is there and runs the wanted version.

        Args:
            virtualenv: the ``virtualenv`` command to use. Without it the interpreter's own ``venv`` is used, which
                not every build carries.
        """
        if self._stamp().get("version") == self.base.version and os.access(self.python, os.X_OK):
            return
        shutil.rmtree(self.path, ignore_errors=True)
        if virtualenv is None:
            self.run([self.base.path, "-m", "venv", self.path], {})
        else:
            self.run([virtualenv, "--quiet", "--no-download", "--python", self.base.path, self.path], {})
        self._note(version=self.base.version)

    def install(self, *groups: str) -> None:
        """Installs the dependency groups, unless these very requirements are installed."""
        wanted = sorted({requirement for group in groups for requirement in requirements(group)})
        have = self._stamp().get("requirements", [])
        if set(wanted) <= set(have):
            return
        command: list[str | Path] = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        self.run([*command, "--no-compile", *wanted], {})  # most of it is never imported
        names = {requirement.split("==")[0] for requirement in wanted}
        self._note(requirements=sorted(wanted + [kept for kept in have if kept.split("==")[0] not in names]))

    def seed(self, other: Env, profile: str) -> None:
        """Takes over what another interpreter's build has compiled; cargo sees by itself what is this one's own."""
        compiled = other.target / profile
        if compiled.is_dir() and not self.target.exists():
            names = shutil.ignore_patterns("incremental", "examples")
            shutil.copytree(compiled, self.target / profile, ignore=names)

    def build(self, maturin: Path, profile: str, jobs: int | None = None) -> None:
        """Builds the extension and installs the package in place, unless nothing has changed since the last build."""
        digest = _digest([sources().encode(), profile.encode()])
        stamp = self._stamp()
        if stamp.get("build") == digest and stamp.get("extension") == self._extension():
            return
        environment = self.cargo_env() | {"VIRTUAL_ENV": str(self.path)}
        if jobs is not None:
            environment["CARGO_BUILD_JOBS"] = str(jobs)
        self.run([maturin, "develop", "--quiet", "--profile", profile], environment)
        self._note(build=digest, extension=self._extension())

    def _extension(self) -> list[int]:
        """Tells one built file from another, in case somebody built by hand in between."""
        tag = "cpython-" + self.base.minor.replace(".", "")
        built = sorted((ROOT / "python" / "loopwright").glob(f"_loopwright.{tag}-*.so"))
        return [stat for path in built for stat in (path.stat().st_mtime_ns, path.stat().st_size)]
