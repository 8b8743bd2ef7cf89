"""What README.md shows of the proof kit is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "test_bank.py"
PLUGINS = [
    "-p",
    "pytest_loopwright",
    "-p",
    "no:asyncio",
    "-p",
    "no:anyio",
    "-p",
    "no:aiohttp",
    "-p",
    "no:cacheprovider",
]


def run_example(path: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *PLUGINS, f"--rootdir={path.parent}", str(path), *arguments],
        env=os.environ | {"PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """A copy: this repository's own pytest settings stay out of it."""
    path = tmp_path / EXAMPLE.name
    path.write_text(EXAMPLE.read_text())
    return path


def test_the_kit_finds_both_defects_and_its_commands_repeat_them(bank: Path) -> None:
    text = run_example(bank)
    assert "2 failed" in text
    assert "await asyncio.sleep(0.1)  # connect" in text
    commands = re.findall(r"^pytest \S*(test_bank.py::\w+) (--loopwright-replay=\S+)$", text, re.MULTILINE)
    assert [name.split("::")[1] for name, _ in commands] == [
        "test_the_account_is_never_overdrawn",
        "test_the_pool_never_shrinks",
    ]
    for name, replay in commands:
        again = run_example(bank, "-k", name.split("::")[1], replay)
        assert "1 failed" in again, again
        assert replay in again


def test_what_is_put_right_passes(bank: Path) -> None:
    program = bank.read_text()
    program = program.replace(
        "        if self.balance >= amount:\n            await asyncio.sleep(0.01)  # the ledger, over the network\n"
        "            self.balance -= amount\n",
        "        if self.balance >= amount:\n            self.balance -= amount\n"
        "            await asyncio.sleep(0.01)  # the ledger, over the network\n",
    )
    program = program.replace(
        "        await asyncio.sleep(0.1)  # connect\n        try:\n",
        "        try:\n            await asyncio.sleep(0.1)  # connect\n",
    )
    assert program != EXAMPLE.read_text()
    bank.write_text(program)
    assert "2 passed" in run_example(bank)
