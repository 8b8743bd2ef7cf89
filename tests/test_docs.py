"""Every example in the documentation runs, and prints what the page says it prints.

A block fenced as ``python`` is a complete program. What follows its last ``# output:`` line, as comments, is what it
has to print (``...`` stands for any text within a line); a program without one has to end without an error. A block
fenced as ``python notest`` is not run: for what cannot run here, and for the guides' broken versions.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Example:
    page: Path
    line: int
    program: str

    def expected(self) -> str | None:
        """The pattern of what it prints; None where the page does not say."""
        before, marker, after = self.program.rpartition("\n# output:\n")
        if not marker:
            return None
        del before
        lines = [line.removeprefix("#").removeprefix(" ") for line in after.rstrip("\n").split("\n")]
        return "\n".join(re.escape(line).replace(r"\.\.\.", "[^\n]*") for line in lines) + "\n"


def examples(page: Path) -> list[Example]:
    text = page.read_text()
    found = []
    for fence in FENCE.finditer(text):
        if fence["info"].split() == ["python"]:
            body = re.sub(f"^{fence['indent']}", "", fence["body"], flags=re.MULTILINE)
            found.append(Example(page, text.count("\n", 0, fence.start()) + 1, body))
    return found


def parameters() -> list[object]:
    return [
        pytest.param(example, id=f"{example.page.relative_to(ROOT)}:{example.line}")
        for page in PAGES
        for example in examples(page)
    ]


@pytest.mark.default_only
@pytest.mark.parametrize("example", parameters())
def test_example_runs(example: Example, tmp_path: Path) -> None:
    name = example.page.stem  # a program called logging.py would be taken for the module
    program = tmp_path / (f"{name}_page.py" if name in sys.stdlib_module_names else f"{name}.py")
    program.write_text(example.program)
    environment = os.environ | {
        "PYTHONWARNINGS": "error::RuntimeWarning",
        "PYTHONUNBUFFERED": "1",
        "CI": "true",  # hypothesis does not mind a slow machine then
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "-p loopwright.testing.plugin -p no:cacheprovider",
    }
    done = subprocess.run(
        [sys.executable, program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "an example leaves nothing on stderr"
    expected = example.expected()
    if expected is not None:
        assert re.fullmatch(expected, done.stdout), f"it printed\n{done.stdout}"


def test_fences_are_known() -> None:
    """A misspelt fence would be an example that nobody runs."""
    infos = {(page.name, fence["info"]) for page in PAGES for fence in FENCE.finditer(page.read_text())}
    known = {"", "console", "diff", "json", "mermaid", "python", "python notest", "rust", "text", "toml", "yaml"}
    assert {(page, info) for page, info in infos if info not in known} == set()
