"""Writes ``docs/found.md``: each example of ``examples/found``, its command, and what it printed here and now.

``PYTHONPATH=tests python -m corpus.found`` from the root of the repository.
"""

from __future__ import annotations

import ast
import datetime
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from loopwright import __version__

__all__ = ["ROOT", "page", "shortened"]

ROOT = Path(__file__).parents[2]
EXAMPLES = ("connection_pool", "http_pool", "sql_pool", "memory_stream")

HEAD = """\
# Found in released libraries

Each of these is a released library, unmodified, and a scenario of a page's length: two tasks that share one thing. The
kit cancels each task at each of its await points, one run each, and tells which of them breaks what. Nothing here is
random, nothing takes a server, and each takes about a second from start to end.

Run on {date} with Loopwright {version} on CPython {python}. The output is what was printed, with the directories of the
interpreter cut off the paths. `tests/test_found.py` keeps it true; `PYTHONPATH=tests python -m corpus.found` writes
this page.
"""


def shortened(text: str) -> str:
    """Output without the directories of this machine's interpreter."""
    for name in ("purelib", "stdlib"):
        directory = Path(sysconfig.get_path(name))
        text = text.replace(f"{directory}/", f"{directory.name}/")
    text = re.sub(r"\S*/(site-packages|lib/python3\.\d+)/", r"\1/", text).replace(f"{ROOT}/", "")
    return re.sub(r"(?<=\S)  +(?=\S)", "  ", text)  # the columns are of another width now


def page() -> Iterator[str]:
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    yield HEAD.format(date=date, version=__version__, python=platform.python_version())
    for name in EXAMPLES:
        path = ROOT / "examples" / "found" / f"{name}.py"
        title, command, *text = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")
        command = command.strip()
        yield f"## {title.rstrip('.')}\n"
        yield "\n\n".join(text) + "\n"
        done = subprocess.run(
            [sys.executable, *command.split()[1:]], cwd=ROOT, capture_output=True, text=True, check=True, timeout=100
        )
        yield f"```text\n$ {command}\n{shortened(done.stdout).rstrip()}\n```\n"


if __name__ == "__main__":
    target = ROOT / "docs" / "found.md"
    target.write_text("\n".join(page()).rstrip() + "\n")
    print(f"wrote {target}", file=sys.stderr)
