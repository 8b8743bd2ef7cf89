"""What MkDocs runs on each page: ``python notest`` is for tests/test_docs.py, to a reader it is Python."""

from __future__ import annotations

import re


def on_page_markdown(markdown: str, **_: object) -> str:
    return re.sub(r"^( *)```python notest$", r"\1```python", markdown, flags=re.MULTILINE)
