"""``loopwright check``: which program is found, what it is given, and what is said when there is none.

The analyser itself is tested in crates/check; here a script stands in its place.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from support import requires

from loopwright._launch import analyser

ROOT = Path(__file__).resolve().parent.parent

STAND_IN = """#!/bin/sh
printf '<%s>' "$(basename "$(dirname "$0")")" "$@"
exit 7
"""


def stand_in(directory: Path) -> Path:
    """A program in the analyser's place: prints the name of its directory and its arguments, and ends with 7."""
    directory.mkdir(parents=True)
    program = directory / "loopwright-check"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    return program


def loopwright(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loopwright", *arguments]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Each place where the analyser may lie, empty, in the order in which they are looked at."""
    places = {name: tmp_path / name / "bin" for name in ("environment", "user", "path")}

    def get_path(_: str, scheme: str = "environment") -> str:
        return str(places["environment" if scheme == "environment" else "user"])

    monkeypatch.setattr(sysconfig, "get_path", get_path)
    monkeypatch.setenv("PATH", str(places["path"]))
    monkeypatch.delenv("LOOPWRIGHT_CHECK_BIN", raising=False)
    return places


@pytest.mark.parametrize("arguments", [["--help"], ["--", "-x"], [], ["src/", "--format=json", "--", "run", "a b"]])
def test_the_analyser_takes_our_place_with_its_arguments_untouched(tmp_path: Path, arguments: list[str]) -> None:
    program = stand_in(tmp_path / "override")
    done = loopwright("check", *arguments, LOOPWRIGHT_CHECK_BIN=str(program))
    assert (done.stdout, done.stderr, done.returncode) == (
        "".join(f"<{word}>" for word in ["override", *arguments]),
        "",
        7,
    )


def test_the_environment_comes_first_then_the_user_then_path(places: dict[str, Path]) -> None:
    assert analyser.find() is None
    for name in reversed(places):
        stand_in(places[name])
        assert analyser.find() == str(places[name] / "loopwright-check")


def test_a_file_that_is_no_program_is_passed_by(places: dict[str, Path]) -> None:
    stand_in(places["environment"]).chmod(0o644)
    wanted = stand_in(places["path"])
    assert analyser.find() == str(wanted)


def test_an_absent_analyser_is_said_in_one_line_that_says_how_to_install_it(
    places: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert analyser.run(["src/"]) == 2
    captured = capsys.readouterr()
    assert captured.err == (
        "loopwright: loopwright-check is not installed here; pip install 'loopwright[check]' installs it\n"
    )
    assert captured.out == ""


def test_a_path_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    done = loopwright("check", LOOPWRIGHT_CHECK_BIN=str(tmp_path / "nothing"))
    assert done.stderr == f"loopwright: {tmp_path / 'nothing'} cannot be run: No such file or directory\n"
    assert done.returncode == 2


def test_the_help_lists_it() -> None:
    assert "check" in loopwright("--help").stdout


def test_the_extra_asks_for_the_distribution_that_crates_check_makes() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    own = tomllib.loads((ROOT / "crates/check/pyproject.toml").read_text())
    assert [requirement.split(">=")[0] for requirement in extras["check"]] == [own["project"]["name"]]


@pytest.mark.default_only
def test_the_hook_for_pre_commit_runs_the_program_that_crates_check_makes() -> None:
    yaml = requires.module("yaml")
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    own = tomllib.loads((ROOT / "crates/check/pyproject.toml").read_text())
    assert hook["id"] == hook["entry"] == own["project"]["name"]
    assert hook["language"] == "python"
    assert hook["pass_filenames"] is False
    assert [(ROOT / path).resolve() for path in hook["additional_dependencies"]] == [ROOT / "crates" / "check"]


def test_the_built_program_starts(analyser: Path, tmp_path: Path) -> None:
    done = subprocess.run([analyser, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
