"""The rules of ``loopwright check``, read from crates/check/src/rules: one file of Rust and one page for each.

What the documentation and the tests of the house know of a rule comes from here, so that nothing is written twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CRATE = Path(__file__).resolve().parent.parent / "crates" / "check" / "src"
RULES = CRATE / "rules"

FAMILIES = {
    "1": ("Blocking", "What keeps the event loop's thread from everything else."),
    "2": ("Tasks and cancellation", "What is lost, forgotten or swallowed."),
    "3": ("Resources and scopes", "What is held too long, not long enough, or once too often."),
    "4": ("Time and limits", "What can wait for ever, and what has no bound."),
    "5": ("Structure", "What is in the wrong order, or counted wrongly."),
}
"""By the first digit of a code: a title, and what its rules have in common."""

_STRING = r'"((?:[^"\\]|\\[\s\S])*)"'


@dataclass(frozen=True, slots=True)
class Rule:
    """What its ``RuleMeta`` says, and its page."""

    code: str
    name: str
    summary: str
    pedantic: bool
    fix: str
    """``safe``, ``unsafe`` or nothing."""
    source: Path
    page: Path

    def proof(self) -> str:
        """The program in its page that shows the harm; empty where there is none."""
        found = re.search(r"^```python proof\n(.*?)^```$", self.page.read_text(), re.MULTILINE | re.DOTALL)
        return found[1] if found else ""


def rules() -> list[Rule]:
    """Every rule, by code."""
    return [_read(path) for path in sorted(RULES.glob("lw[0-9]*.rs"))]


def _read(path: Path) -> Rule:
    text = path.read_text()
    start = text.find("RuleMeta {")
    if start < 0:
        raise ValueError(f"{path} has no RuleMeta {{ ... }}")
    meta = text[start:]

    def string(field: str) -> str:
        found = re.search(rf"\b{field}:\s*{_STRING}", meta)
        if found is None:
            raise ValueError(f"{path}: RuleMeta has no {field} as a string")
        joined = re.sub(r"\\\n\s*", "", found[1])  # a string over two lines
        return re.sub(r"\\(.)", r"\1", joined)

    fix = re.search(r"\bfix:\s*(?:None|Some\((?:\w+::)*(Safe|Unsafe)\))", meta)
    pedantic = re.search(r"\bpedantic:\s*(true|false)", meta)
    if fix is None or pedantic is None:
        raise ValueError(f"{path}: RuleMeta has no fix or no pedantic")
    return Rule(
        code=string("code"),
        name=string("name"),
        summary=string("summary"),
        pedantic=pedantic[1] == "true",
        fix=(fix[1] or "").lower(),
        source=path,
        page=path.with_suffix(".md"),
    )


def index() -> str:
    """The page that lists every rule."""
    return "\n".join(_index()) + "\n"


def _index() -> Iterator[str]:
    every = rules()
    pedantic = sum(rule.pedantic for rule in every)
    yield "# Rules of loopwright check"
    yield ""
    yield (
        f"{len(every)} rules; {pedantic} of them are off unless `--pedantic` is given or they are selected by their "
        "code. A code is never given to another rule. Each page has a program that shows the harm, and is run by the "
        "tests."
    )
    for digit, (title, what) in FAMILIES.items():
        family = [rule for rule in every if rule.code.startswith(f"LW{digit}")]
        if not family:
            continue
        yield from ("", f"## LW{digit}xx: {title}", "", what, "")
        yield "| code | name | what it finds | fix | default |"
        yield "|---|---|---|---|---|"
        for rule in family:
            link = f"[{rule.code}]({rule.code}.md)"
            summary = rule.summary.replace("|", r"\|")
            yield f"| {link} | `{rule.name}` | {summary} | {rule.fix} | {'' if rule.pedantic else 'on'} |"
