"""The house is in order: the map shows every file, every public name has its page and its stub, the rules hold."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import loopwright
from loopwright import _loopwright
from loopwright._metrics import unknown_fields

ROOT = Path(__file__).resolve().parent.parent
UNSAFE_ALLOWED = {
    f"crates/python/src/{name}.rs" for name in ("aio", "async_method", "awaitable", "descriptor", "gil", "watchdog")
}
"""The rooms that may say ``unsafe``: see the rules in CONTRIBUTING.md."""

MAPPED = ["crates/*/src/**/*.rs", "python/loopwright/**/*.py", "python/loopwright/*.pyi"]


def read(path: str) -> str:
    return (ROOT / path).read_text()


# The map


def mapped() -> Iterator[str]:
    """The paths that the map in CONTRIBUTING.md shows: the first block fenced as ``text``, nested by indentation."""
    block = re.search(r"^```text\n(.*?)^```$", read("CONTRIBUTING.md"), re.MULTILINE | re.DOTALL)
    assert block, "CONTRIBUTING.md has no map"
    above: list[tuple[int, str]] = []
    for line in block[1].splitlines():
        indent = len(line) - len(line.lstrip())
        name = line.split()[0] if line.strip() else ""
        if not re.fullmatch(r"[\w./-]+", name):
            continue
        while above and above[-1][0] >= indent:
            above.pop()
        path = (above[-1][1] if above else "") + name
        if name.endswith("/"):
            above.append((indent, path))
        yield path


def test_the_map_shows_what_is_there() -> None:
    assert [path for path in mapped() if not (ROOT / path).exists()] == []


def test_every_file_is_on_the_map() -> None:
    """A file is on the map by its own name, or by its directory where that is shown without its files."""
    shown = set(mapped())
    closed = {path for path in shown if path.endswith("/") and not any(o != path and o.startswith(path) for o in shown)}
    files = {path.relative_to(ROOT).as_posix() for pattern in MAPPED for path in ROOT.glob(pattern)}
    missing = {path for path in files - shown if not any(path.startswith(directory) for directory in closed)}
    assert missing == set()


# The public names

NAMES = [name for name in loopwright.__all__ if not name.startswith("__")]


def reference_pages() -> dict[str, str]:
    return {page.stem: page.read_text() for page in (ROOT / "docs" / "reference").glob("[!_]*.md")}


@pytest.mark.parametrize("name", NAMES)
def test_public_name_has_a_page(name: str) -> None:
    """An object is in a heading of a reference page; an error or what ``stats()`` gives may also stand in its text."""
    pages = "\n".join(re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S) for page in reference_pages().values())
    headings = " ".join(re.findall(r"^#+ (.*)$", pages, re.MULTILINE))
    value = getattr(loopwright, name)
    minor = name.endswith("Stats") or (isinstance(value, type) and issubclass(value, BaseException))
    assert re.search(rf"\b{name}\b", headings) or (minor and f"`{name}`" in pages)


@pytest.mark.parametrize("name", NAMES)
def test_public_name_is_documented_and_exported(name: str) -> None:
    value = getattr(loopwright, name)
    assert (value.__doc__ or "").strip(), f"{name} has no docstring"
    if hasattr(_loopwright, name):
        assert re.search(rf"^(class|def|async def) {name}\b", read("python/loopwright/_loopwright.pyi"), re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("Stats")])
def test_public_stats_are_exported_as_metrics(name: str) -> None:
    """TABLE in loopwright/_metrics.py says of each field whether it is a total, a size, a flag, a state or words."""
    assert unknown_fields(getattr(loopwright, name)) == [], f"say in TABLE of loopwright/_metrics.py what {name} is"


def test_public_names_are_sorted_and_real() -> None:
    assert loopwright.__all__ == sorted(loopwright.__all__)
    assert [name for name in loopwright.__all__ if not hasattr(loopwright, name)] == []


def test_reference_pages_follow_the_model() -> None:
    """Each page of an object: promise, example that runs, cost, limits."""
    for name, page in reference_pages().items():
        if name not in ("index", "errors", "loopwright-run"):
            headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
            wanted = ["Promise", "Example", "Cost", "Limits"]
            assert [heading for heading in headings if heading in wanted] == wanted, f"docs/reference/{name}.md"
            assert "```python\n" in page, f"docs/reference/{name}.md has no example that runs"


# The rules


def test_unsafe_stays_in_its_rooms() -> None:
    code = {path: re.sub(r"//.*", "", path.read_text()) for path in ROOT.glob("crates/*/src/**/*.rs")}
    keyword = re.compile(r"\bunsafe\s*(\{|\(|fn\b|impl\b|trait\b|extern\b)")
    using = {path.relative_to(ROOT).as_posix() for path, text in code.items() if keyword.search(text)}
    assert using <= UNSAFE_ALLOWED


def test_crates_that_decide_forbid_unsafe() -> None:
    for crate in ("core", "cli"):
        assert "#![forbid(unsafe_code)]" in read(f"crates/{crate}/src/lib.rs")


def test_core_depends_on_nothing() -> None:
    """No Python, no clock, no I/O: the machines need no crate but the test's proptest."""
    manifest = tomllib.loads(read("crates/core/Cargo.toml"))
    assert manifest.get("dependencies", {}) == {}
    used = re.compile(r"\bstd::(time|net|fs|io|thread|env|process)\b|\bpyo3\b")
    for path in (ROOT / "crates/core/src").rglob("*.rs"):
        assert used.findall(re.sub(r"//.*", "", path.read_text())) == [], path


def test_dependencies_are_pinned_once() -> None:
    groups = tomllib.loads(read("pyproject.toml"))["dependency-groups"]
    pins = [entry for group in groups.values() for entry in group if isinstance(entry, str)]
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[\d.]+", pin)] == []
    names = {pin.split("==")[0] for pin in pins}
    assert len(names) == len(set(pins)), "two groups pin different versions of one package"


def test_ci_runs_make_test_and_nothing_else() -> None:
    script = read(".ci/run")
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert "export CI=true" in script
    assert script.rstrip().endswith("\nmake test")


# What is missing


@pytest.mark.default_only
@pytest.mark.parametrize(("ci", "outcome"), [("true", "1 failed, 1 skipped, 1 error"), ("", "3 skipped")])
def test_missing_is_a_failure_under_ci(ci: str, outcome: str, tmp_path: Path) -> None:
    (tmp_path / "test_module.py").write_text("from support import requires\nrequires.module('no_such_module')\n")
    test = tmp_path / "test_skips.py"
    test.write_text(
        textwrap.dedent("""
        import pytest
        from support import requires

        def test_missing():
            requires.module("no_such_module")

        def test_meant():
            pytest.skip("another platform")
        """)
    )
    flags = ["-q", "-p", "conftest", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *flags, "--rootdir", tmp_path, tmp_path],
        env=os.environ | {"CI": ci, "PYTHONPATH": str(ROOT / "tests")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome in done.stdout


# Free-threaded builds


def test_free_threaded_build_is_refused_at_import() -> None:
    program = """
import sysconfig
real = sysconfig.get_config_var
sysconfig.get_config_var = lambda name: 1 if name == "Py_GIL_DISABLED" else real(name)
try:
    import loopwright
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Loopwright does not support free-threaded builds of CPython yet")


@pytest.mark.default_only
def test_free_threaded_build_is_refused_by_cargo(tmp_path: Path) -> None:
    config = tmp_path / "pyo3.cfg"
    config.write_text(
        "implementation=CPython\nversion=3.14\nshared=true\n"
        "build_flags=Py_GIL_DISABLED\nsuppress_build_script_link_lines=true\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYO3_")}
    done = subprocess.run(
        ["cargo", "check", "--quiet", "--package=loopwright-python"],
        cwd=ROOT,
        env=environment | {"PYO3_CONFIG_FILE": str(config), "CARGO_TARGET_DIR": str(ROOT / "target" / "free-threaded")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Loopwright does not support free-threaded builds of CPython yet" in done.stderr
