#!/usr/bin/env python3
"""The mutation run: each variant of the core in ``mutants.py`` has to turn a sweep red.

Works on a copy of the crates in ``target/mutants``; the tree is not touched. Mutants whose tests cannot notice each
other are built together (``mutants.py`` says which), and while the tests of one build run, the next one is built.
Prints a table and fails when a mutant survives, when a text to be replaced is no longer there, when the tests fail on
the core as it is, or when they fail on a build that breaks only what they do not meet.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from mutants import MEETS, MUTANTS, SHARED, Mutant, batches

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "mutants"
TREE = WORK / "tree"
"""The copy that is broken."""
TARGET = WORK / "target"
PACKAGES = WORK / "python"
"""One directory per mutant, with the Python package and the broken extension."""

HUNG = 90.0
"""Seconds after which a mutant that neither passes nor fails counts as noticed; a test in it has 30."""

_KILLER = re.compile(r"^(?:FAILED|ERROR) (\S+::\S.*?)(?: - .*)?$", re.MULTILINE)


class Wrong(Exception):
    """The run itself is broken, whatever the mutants do."""


@dataclass(frozen=True, slots=True)
class Verdict:
    killer: str | None
    """The test that noticed; None: it survived."""
    built: float
    tested: float


def environment() -> dict[str, str]:
    """For cargo: the interpreter's own, and a target directory of our own."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    bits = 64 if sys.maxsize > 2**32 else 32
    ours = {
        "PYO3_PYTHON": sys.executable,
        "PYO3_ENVIRONMENT_SIGNATURE": f"cpython-{version}-{bits}bit",
        "PYO3_BUILD_EXTENSION_MODULE": "1",
    }
    if sys.platform == "darwin":
        ours["RUSTFLAGS"] = "-C link-arg=-undefined -C link-arg=dynamic_lookup"
    return os.environ | ours | {"CARGO_TARGET_DIR": str(TARGET), "CARGO_INCREMENTAL": "1"}


def prepare() -> None:
    """A fresh copy of the crates, and what is compiled already of their dependencies."""
    shutil.rmtree(TREE, ignore_errors=True)
    shutil.rmtree(PACKAGES, ignore_errors=True)
    TREE.mkdir(parents=True)
    for name in ("Cargo.toml", "Cargo.lock", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, TREE / name)
    shutil.copytree(ROOT / "crates", TREE / "crates")
    compiled = Path(os.environ.get("CARGO_TARGET_DIR", "")) / "fast"
    if os.environ.get("CARGO_TARGET_DIR") and compiled.is_dir() and not TARGET.exists():
        # Links, not copies: cargo finds PyO3 there and builds only the crates, whose names depend on where they are.
        for part in ("deps", "build", ".fingerprint"):
            with contextlib.suppress(OSError, shutil.Error):
                shutil.copytree(compiled / part, TARGET / "fast" / part, copy_function=os.link)


def build(name: str) -> Path:
    """Compiles the copy and puts the extension beside a copy of the Python package."""
    command = ["cargo", "build", "--quiet", "--offline", "--profile=fast", "--package=loopwright-python"]
    done = subprocess.run(command, cwd=TREE, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise Wrong(f"{name} does not compile:\n{done.stderr}")
    package = PACKAGES / re.sub(r"\W+", "-", name)
    shutil.copytree(ROOT / "python", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    suffix = "dylib" if sys.platform == "darwin" else "so"
    built = next((TARGET / "fast").glob(f"lib_loopwright.{suffix}"))
    shutil.copy2(built, package / "loopwright" / f"_loopwright{sysconfig.get_config_var('EXT_SUFFIX')}")
    return package


def test(package: Path, tests: tuple[str, str], limit: float = HUNG) -> str | None:
    """Runs the tests on an extension, without waiting for more than the first failure; gives that one's name."""
    file, chosen = tests
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout=30", "--tb=line"]
    command += ["--no-header", "-k", f"({chosen}) and not uvloop and not debug and not eager", file]
    ours = {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1", "LOOPWRIGHT_CORE_SUITE": "1"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | ours, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{file} (hangs)"
    if done.returncode == 0:
        return None
    if done.returncode == 1 and (killer := _KILLER.search(done.stdout)):
        return killer[1].removeprefix("tests/")
    if done.returncode < 0 or "Fatal Python error" in done.stderr:
        return f"{file} (the interpreter dies)"
    raise Wrong(f"pytest ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")


def check_import(package: Path) -> None:
    """The tests have to see the copy and not the installed package."""
    code = "import loopwright._loopwright as m; print(m.__file__)"
    seen = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if not Path(seen).is_relative_to(package):
        raise Wrong(f"the tests would run on {seen} instead of the copy in {package}")


def break_it(mutant: Mutant) -> str:
    """Applies a mutant to the copy; gives the text to restore."""
    path = TREE / mutant.file
    text = path.read_text()
    if (count := text.count(mutant.find)) != 1:
        raise Wrong(f"{mutant.name!r}: the text to replace is {count} times in {mutant.file}, not once; see mutants.py")
    path.write_text(text.replace(mutant.find, mutant.replace))
    return text


def main() -> int:
    wanted = sys.argv[1:]
    mutants = [mutant for mutant in MUTANTS if not wanted or any(part in mutant.name for part in wanted)]
    started = time.monotonic()
    prepare()
    for mutant in mutants:  # first of all: is every text there?
        (TREE / mutant.file).write_text(break_it(mutant))
    verdicts: dict[str, Verdict] = {}

    def judge(package: Path, mutant: Mutant, built: float) -> None:
        start = time.monotonic()
        killer = test(package, mutant.tests)
        verdicts[mutant.name] = Verdict(killer, built, time.monotonic() - start)
        say(f"{'survived' if killer is None else 'killed':8}  {mutant.name}  ({time.monotonic() - started:.0f} s)")

    def judge_unbroken(package: Path, tests: tuple[str, str], broken: str) -> None:
        if (killer := test(package, tests, limit=4 * HUNG)) is not None:  # however busy the machine is
            raise Wrong(f"{killer} fails on {broken}")

    groups = list(dict.fromkeys(mutant.tests for mutant in mutants))
    uncontrolled = [group for group in groups if group in MEETS]
    with ThreadPoolExecutor(max_workers=1) as tester:
        jobs: list[Future[None]] = []
        unbroken = build("unbroken")
        check_import(unbroken)
        say(f"built     the core as it is  ({time.monotonic() - started:.0f} s)")
        jobs += [tester.submit(judge_unbroken, unbroken, tests, "the core as it is") for tests in groups]
        try:
            for batch in batches(mutants):
                start = time.monotonic()
                texts = {mutant: break_it(mutant) for mutant in batch}
                package = build(batch[0].name)
                for mutant, text in texts.items():
                    (TREE / mutant.file).write_text(text)
                built = (time.monotonic() - start) / len(batch)
                jobs += [tester.submit(judge, package, mutant, built) for mutant in batch]
                machines = {mutant.machine for mutant in batch}
                for tests in [group for group in uncontrolled if not machines & (MEETS[group] | SHARED)]:
                    uncontrolled.remove(tests)
                    broken = f"a build that breaks only {', '.join(sorted(machines))}: correct MEETS in mutants.py"
                    jobs.append(tester.submit(judge_unbroken, package, tests, broken))
                tester.submit(shutil.rmtree, package)
            for job in jobs:
                job.result()
        except BaseException:
            tester.shutdown(wait=False, cancel_futures=True)
            raise
    width = max(len(mutant.name) for mutant in mutants)
    say(f"\n{'mutant':{width}}  build  tests  killed by")
    for mutant in mutants:
        verdict = verdicts[mutant.name]
        killer = verdict.killer or "NOBODY: it survived"
        say(f"{mutant.name:{width}}  {verdict.built:4.1f}s  {verdict.tested:4.1f}s  {killer}")
    survivors = [mutant.name for mutant in mutants if verdicts[mutant.name].killer is None]
    say(f"\n{len(mutants) - len(survivors)} of {len(mutants)} killed in {time.monotonic() - started:.0f} s")
    return 1 if survivors else 0


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Wrong as wrong:
        sys.exit(str(wrong))
