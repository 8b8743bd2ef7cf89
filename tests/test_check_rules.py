"""Each rule of the analyser is complete, and the harm that its page speaks of is real: the page's program shows it.

And what the documentation says of the analyser is what its program says of itself.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import check_rules
import pytest
from check_rules import Rule

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "crates" / "check" / "tests"
RULES = check_rules.rules()


def parameters() -> list[object]:
    return [pytest.param(rule, id=rule.code) for rule in RULES]


@pytest.mark.parametrize("rule", parameters())
def test_a_rule_is_a_file_a_page_a_fixture_and_a_snapshot(rule: Rule) -> None:
    assert rule.source.stem == rule.code.lower()
    assert rule.page.exists()
    assert (TESTS / "fixtures" / rule.code).is_dir()
    assert list((TESTS / "snapshots").glob(f"{rule.code}*")), "no snapshot of what the fixture gives"
    listed = (check_rules.RULES / "mod.rs").read_text()
    assert re.search(rf"^(pub )?mod {rule.code.lower()};$", listed, re.MULTILINE)
    assert re.search(rf"&{rule.code.lower()}::\w+", listed)


@pytest.mark.parametrize("rule", parameters())
def test_a_page_says_what_why_how_to_mend_it_and_what_is_not_seen(rule: Rule) -> None:
    page = rule.page.read_text()
    assert page.startswith(f"# {rule.code} {rule.name}\n\n")
    headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
    wanted = ["Why", "Example", "Fix", "Limits"]
    assert [heading for heading in headings if heading in wanted] == wanted
    assert rule.proof(), f'{rule.page} has no block fenced as "python proof"'


def test_codes_and_names_are_each_given_once() -> None:
    assert len({rule.code for rule in RULES}) == len({rule.name for rule in RULES}) == len(RULES)
    assert [path.stem for path in sorted(check_rules.RULES.glob("lw[0-9]*.md"))] == [rule.page.stem for rule in RULES]


def test_the_index_has_a_row_for_each_rule() -> None:
    rows = [line for line in check_rules.index().splitlines() if line.startswith("| [LW")]
    assert len(rows) == len(RULES)
    for row, rule in zip(rows, RULES, strict=True):
        assert row.startswith(f"| [{rule.code}]({rule.code}.md) | `{rule.name}` | {rule.summary[:10]}")


@pytest.mark.default_only
def test_every_proof_shows_the_harm(tmp_path: Path) -> None:
    """Each is a program that ends well when the harm is there. They mostly wait, so they run beside each other."""

    def show(rule: Rule) -> str:
        directory = tmp_path / rule.code
        directory.mkdir()
        program = directory / f"{rule.code.lower()}_proof.py"
        program.write_text(rule.proof())
        try:
            done = subprocess.run(
                [sys.executable, program],
                capture_output=True,
                text=True,
                timeout=60,
                cwd=directory,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"{rule.code}: not over after a minute"
        return "" if done.returncode == 0 else f"{rule.code}: exit code {done.returncode}\n{done.stderr}"

    with ThreadPoolExecutor(max_workers=4) as executor:
        wrong = [text for text in executor.map(show, RULES) if text]
    assert not wrong, "\n".join(wrong)


# The documentation and the program


def test_the_program_knows_the_rules_of_the_index(analyser: Path) -> None:
    listed = subprocess.run([analyser, "rules", "--format=json"], capture_output=True, text=True, check=True).stdout
    assert json.loads(listed) == [
        {
            "code": rule.code,
            "name": rule.name,
            "summary": rule.summary,
            "pedantic": rule.pedantic,
            "fix": rule.fix or None,
        }
        for rule in RULES
    ]


def test_every_option_that_the_guide_shows_is_there(analyser: Path) -> None:
    known = subprocess.run([analyser, "--help"], capture_output=True, text=True, check=True).stdout
    lines = [line for line in (ROOT / "docs/check.md").read_text().splitlines() if "check " in line or "`--" in line]
    shown = {option for line in lines for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line)}
    assert {option for option in shown if option not in known} == set()


def test_the_guides_chain_is_what_the_program_finds(analyser: Path, tmp_path: Path) -> None:
    guide = (ROOT / "docs/check.md").read_text()
    for name, text in re.findall(r"^```python notest\n# (shop/\w+\.py)\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).with_name("__init__.py").touch()
        (tmp_path / name).write_text(text)
    command = [analyser, "--no-cache", "shop"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    shown = re.search(r"^```text\n(shop/.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert shown[1].strip() in found.stdout
    assert found.returncode == 1


def test_every_key_of_the_configuration_is_in_the_guide() -> None:
    keys = re.search(
        r"^const KEYS: &\[&str\] = &\[(.*?)\];", (check_rules.CRATE / "config.rs").read_text(), re.M | re.S
    )
    assert keys is not None
    section = (ROOT / "docs/check.md").read_text().partition("## Configuration")[2]
    documented = set(re.findall(r"`([a-z-]+)`", "".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))))
    assert documented == set(re.findall(r'"([a-z-]+)"', keys[1]))
