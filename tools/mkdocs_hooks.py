"""What MkDocs runs: the pages of the analyser's rules come from beside the rules, and fences lose what is for tests.

``python notest`` and ``python proof`` tell tests/test_docs.py and tests/test_check_rules.py what to do with a block; to
a reader both are Python.
"""

from __future__ import annotations

import re
from typing import Any

import check_rules
from mkdocs.structure.files import File  # type: ignore[import-not-found,unused-ignore]


def on_config(config: Any) -> Any:
    """The navigation lists every rule under its index."""

    def extend(entries: list[Any]) -> None:
        for entry in entries:
            for below in entry.values() if isinstance(entry, dict) else ():
                if below == ["rules/index.md"]:
                    below += [{f"{rule.code} {rule.name}": f"rules/{rule.code}.md"} for rule in check_rules.rules()]
                elif isinstance(below, list):
                    extend(below)

    extend(config.nav)
    return config


def on_files(files: Any, config: Any) -> Any:
    """The index of the rules and their pages; only here do they become files of the site."""
    files.append(File.generated(config, "rules/index.md", content=check_rules.index()))
    for rule in check_rules.rules():
        text = re.sub(
            r"\blw(\d+)\.md\b", r"LW\1.md", rule.page.read_text()
        )  # links between pages, as the site has them
        files.append(File.generated(config, f"rules/{rule.code}.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    return re.sub(r"^( *)```python (?:notest|proof)$", r"\1```python", markdown, flags=re.MULTILINE)
