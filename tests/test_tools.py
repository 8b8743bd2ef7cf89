"""The tools behind the Makefile: which interpreters they take, what they count, what they call a failure."""

from __future__ import annotations

import json
import stat
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import ci
import debian
import envs
import pytest
import pythons

pytestmark = pytest.mark.default_only


def interpreter(path: Path, *, implementation: str, version: str, free_threaded: bool = False) -> Path:
    """A program that answers the probe as the interpreter would."""
    minor = [int(part) for part in version.split(".")[:2]]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{json.dumps([implementation, version, minor, free_threaded])}'\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_this_interpreter_is_taken() -> None:
    python = pythons.probe(Path(sys.executable))
    assert isinstance(python, pythons.Python)
    assert python.minor == f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.mark.parametrize(
    ("implementation", "version", "free_threaded", "reason"),
    [
        ("PyPy", "3.11.0", False, "is PyPy"),
        ("CPython", "3.14.8", True, "is a free-threaded build"),
        ("CPython", "3.10.1", False, "is 3.10.1; 3.11 to 3.15 are supported"),
    ],
)
def test_others_are_refused_with_the_reason(
    implementation: str, version: str, free_threaded: bool, reason: str, tmp_path: Path
) -> None:
    path = interpreter(tmp_path / "python", implementation=implementation, version=version, free_threaded=free_threaded)
    assert pythons.probe(path) == pythons.Rejected(path, reason)


def test_what_does_not_start_is_refused(tmp_path: Path) -> None:
    assert pythons.probe(tmp_path / "python") == pythons.Rejected(tmp_path / "python", "does not start")


def test_listed_then_path_then_pyenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = interpreter(tmp_path / "listed" / "python", implementation="CPython", version="3.12.9")
    threaded = interpreter(tmp_path / "t" / "python", implementation="CPython", version="3.14.0", free_threaded=True)
    on_path = interpreter(tmp_path / "bin" / "python3.13", implementation="CPython", version="3.13.5")
    for version in ("3.12.1", "3.13.0", "3.15.0"):
        path = tmp_path / "pyenv" / "versions" / version / "bin" / "python"
        interpreter(path, implementation="CPython", version=version)
    monkeypatch.setenv("LOOPWRIGHT_PYTHONS", f"{listed}:{threaded}")
    monkeypatch.setenv("PATH", f"{on_path.parent}:/usr/bin:/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    found, refused = pythons.find()
    ours = {minor: python.version for minor, python in found.items() if tmp_path in python.path.parents}
    assert ours == {"3.12": "3.12.9", "3.13": "3.13.5", "3.15": "3.15.0"} | {
        minor: version for minor, version in ours.items() if minor == "3.14"
    }
    assert pythons.Rejected(threaded, "is a free-threaded build") in refused


@pytest.mark.parametrize("under_ci", [True, False])
def test_missing_interpreter_fails_under_ci(under_ci: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ci, "CI", under_ci)
    monkeypatch.setattr(ci, "find", lambda: ({}, []))
    house = ci.House()
    house.look_for_others(["3.11", "3.12", "3.13", "3.14", "3.15"])
    assert house.report.failed() == (["interpreters"] if under_ci else [])


SUMMARIES = {
    "12 passed in 1.02s": {"passed": 12},
    "1 failed, 12 passed, 3 skipped, 2 xfailed in 65.10s (0:01:05)": {
        "failed": 1,
        "passed": 12,
        "skipped": 3,
        "xfailed": 2,
    },
    "2 errors in 0.10s": {"errors": 2},
    "no tests ran in 0.01s": {"failed": 1},
    "Fatal Python error: Timeout": {"failed": 1},
}


@pytest.mark.parametrize("summary", SUMMARIES)
def test_counts_and_failures_come_from_the_summary(
    summary: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that says nothing counts as failed: a suite that died must not look like one with nothing to do.

    Which tests failed is said again at the end.
    """

    def run(command: Sequence[str | Path], environment: Mapping[str, str], *, into: list[str], **_: object) -> None:
        into += ["..... [100%]", "FAILED tests/test_x.py - 3 passed things", summary]

    monkeypatch.setattr(ci, "run", run)
    house = ci.House()
    house.pytest(house.default)
    assert dict(*house.report.counts.values()) == SUMMARIES[summary]
    house.report.finish()
    assert ": FAILED tests/test_x.py - 3 passed things" in capsys.readouterr().out


def test_last_line_adds_everything_up(capsys: pytest.CaptureFixture[str]) -> None:
    report = ci.Report(counts={"py3.11": Counter(passed=5, skipped=1), "py3.15": Counter(passed=3, failed=2)})
    with report.step("clippy"):
        raise ci.Failed("a warning")
    assert report.finish() == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("8 passed, 2 failed, 1 skipped in ")
    assert last.endswith("on 2 interpreters; failed steps: clippy")


def test_requirements_include_groups() -> None:
    assert set(envs.requirements("test")) < set(envs.requirements("all"))


def test_install_and_build_only_what_changed(tmp_path: Path) -> None:
    commands: list[Sequence[str | Path]] = []

    def run(command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        commands.append(command)

    python = pythons.probe(Path(sys.executable))
    assert isinstance(python, pythons.Python)
    env = envs.Env(python, tmp_path, run)
    for _ in range(2):
        env.install("lint")
        env.build(tmp_path / "maturin", "fast")
    assert len(commands) == 2
    env.build(tmp_path / "maturin", "release")
    env.install("lint", "docs")
    assert len(commands) == 4


def test_a_build_begins_with_what_another_interpreters_has_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envs, "ROOT", tmp_path)
    path = Path(sys.executable)
    one, other = (envs.Env(pythons.Python(path, f"{minor}.0", minor), tmp_path, ci.run) for minor in ("3.11", "3.12"))
    for part in ("deps", "incremental"):
        (one.target / "fast" / part).mkdir(parents=True)
    (one.target / "fast" / "deps" / "libserde.rlib").touch()
    other.seed(one, "fast")
    assert [path.name for path in sorted((other.target / "fast").rglob("*"))] == ["deps", "libserde.rlib"]
    (one.target / "fast" / "deps" / "later.rlib").touch()
    other.seed(one, "fast")
    assert not (other.target / "fast" / "deps" / "later.rlib").exists(), "what is there is cargo's"


# The servers


@pytest.mark.parametrize("under_ci", [True, False])
def test_missing_server_fails_under_ci(
    under_ci: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ci, "CI", under_ci)
    monkeypatch.setattr(debian, "find", lambda program: None)
    monkeypatch.setattr(debian.shutil, "which", lambda program: None)
    house = ci.House()
    house.servers()
    assert bool(house.report.failed()) == under_ci
    assert "install openssh-server, postgresql, redis-server by hand" in capsys.readouterr().out


@pytest.mark.parametrize(("root", "lists"), [(True, True), (True, False), (False, True)])
def test_missing_server_is_installed_and_not_started(
    root: bool, lists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root or by ``sudo -n``; the lists first when there are none; no service is started meanwhile."""
    commands: list[str] = []

    def run(command: Sequence[str | Path]) -> None:
        commands.append(" ".join(map(str, command)))
        if " install " in commands[-1]:
            monkeypatch.setattr(debian, "find", lambda program: f"/usr/bin/{program}")

    if lists:
        (tmp_path / "debian_Packages").touch()
    monkeypatch.setattr(debian, "LISTS", tmp_path)
    monkeypatch.setattr(debian, "POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(debian, "find", lambda program: None if program == "redis-server" else f"/usr/bin/{program}")
    monkeypatch.setattr(debian.shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(debian.os, "geteuid", lambda: 0 if root else 1000)
    debian.install(run)
    policy, *apt, removed = commands
    assert "exit 101" in policy
    assert removed.endswith(f"rm -f {tmp_path}/policy-rc.d")
    assert [command.split(" -o=")[1].split()[1] for command in apt] == (["install"] if lists else ["update", "install"])
    assert apt[-1].endswith(" redis-server")
    assert all(command.startswith("sudo -n ") is not root for command in commands)
    debian.install(run)
    assert len(commands) == 2 + len(apt), "what is there is not installed again"
