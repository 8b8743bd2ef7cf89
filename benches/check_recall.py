"""Recall on the seeded set of crates/check: which bugs a checker finds, which look-alikes it reports.

    python benches/check_recall.py target/check/analyser/loopwright-check
    python benches/check_recall.py --venv .venv-peers ruff flake8-async blockpath evloop-lint
    python benches/check_recall.py --misses --only dispatch CHECKER...

Each case is copied without the comments that tell the answer, its ``site/`` as the site-packages of a ``.venv``, and
the checker is run in the copy. Peers have other rules than ours and other ideas of the place: for them any finding on
the marked line counts, and any in an ``async def`` of the case.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

SET = Path(__file__).resolve().parent.parent / "crates" / "check" / "tests" / "seeded"
MARK = re.compile(r"\s*# (?:BUG: (?P<rule>\w+)|OK).*")


@dataclass(frozen=True)
class Found:
    """A finding: its rule and the places it names, of which the first is its own."""

    rule: str
    places: tuple[tuple[str, int], ...]
    pedantic: bool = False


@dataclass(frozen=True)
class Case:
    """One folder of the set: a bug, of whose lines one is enough, or a look-alike that has none."""

    folder: Path
    bugs: tuple[tuple[str, str, int], ...]

    @property
    def construct(self) -> str:
        return self.folder.parent.name

    @property
    def name(self) -> str:
        return f"{self.construct}/{self.folder.name}"


def cases(only: str) -> Iterator[Case]:
    for folder in sorted(path for path in SET.glob("*/*") if path.is_dir()):
        if only not in str(folder.relative_to(SET)):
            continue
        bugs = []
        for path in folder.rglob("*.py"):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if (mark := MARK.search(line)) and mark["rule"]:
                    bugs.append((mark["rule"], str(path.relative_to(folder)), number))
        yield Case(folder, tuple(bugs))


def copy(case: Case, target: Path) -> None:
    """The case without its answers. What it has installed lies where tools look for it."""
    installed = target / ".venv" / "lib" / "python3.13" / "site-packages"
    for path in case.folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(case.folder)
            to = installed / Path(*name.parts[1:]) if name.parts[0] == "site" else target / name
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_text("".join(MARK.sub("", line) + "\n" for line in path.read_text().splitlines()))
    if installed.exists():
        (target / ".venv" / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.13.0\n")


def output(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    if not done.stdout and done.returncode not in {0, 1}:
        sys.exit(f"{command}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def ours(program: str, folder: Path) -> list[Found]:
    report = json.loads(output(program, "--all", "--pedantic", "--format", "json", "--no-cache", ".", cwd=folder))
    return [
        Found(
            one["rule"],
            tuple((place["path"], place["line"]) for place in [one, *one["frames"]]),
            one["level"] == "pedantic",
        )
        for one in report["findings"]
    ]


def ruff(program: str, folder: Path) -> list[Found]:
    text = output(
        program, "check", "--isolated", "--no-cache", "--select=ASYNC,RUF006,RUF029", "--output-format=json", ".",
        cwd=folder,
    )  # fmt: skip
    return [
        Found(one["code"], ((str(Path(one["filename"]).relative_to(folder.resolve())), one["location"]["row"]),))
        for one in json.loads(text)
    ]


def sources(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.py") if ".venv" not in path.parts)


def by_line(program: str, *arguments: str, cwd: Path) -> list[Found]:
    """Tools that print ``path:line``, each step of a chain on its own line."""
    pattern = re.compile(r"(?P<path>[\w./-]+\.py):(?P<line>\d+)(?::\d+)?:?\s*(?P<rule>\w*)")
    return [
        Found(match["rule"], ((str(Path(match["path"])), int(match["line"])),))
        for match in pattern.finditer(output(program, *arguments, cwd=cwd))
    ]


CHECKERS: dict[str, Callable[[str, Path], list[Found]]] = {
    "ruff": ruff,
    "flake8-async": lambda program, folder: by_line(program, "--asyncio", *sources(folder), cwd=folder),
    "blockpath": lambda program, folder: by_line(program, "check", ".", cwd=folder),
    "evloop-lint": lambda program, folder: by_line(program, ".", cwd=folder),
}


def coroutines(case: Case) -> set[tuple[str, int]]:
    """The lines of all coroutines of a case."""
    places = set()
    for path in case.folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AsyncFunctionDef):
                lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                places |= {(str(path.relative_to(case.folder)), line) for line in lines}
    return places


def judge(case: Case, findings: list[Found], *, own: bool) -> tuple[bool, bool]:
    """Whether the bug is found (the look-alike reported), and whether only by a pedantic rule."""
    if not case.bugs:
        loud = [one for one in findings if not one.pedantic and not one.places[0][0].startswith(".venv")]
        return bool(loud), False
    rule = case.bugs[0][0]
    wanted = {(file, line) for _, file, line in case.bugs} | (set() if own else coroutines(case))
    hits = [one for one in findings if (one.rule == rule or not own) and not wanted.isdisjoint(one.places)]
    return bool(hits), bool(hits) and all(one.pedantic for one in hits)


def run(program: str, check: Callable[[str, Path], list[Found]], case: Case) -> list[Found]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "project"
        folder.mkdir()
        copy(case, folder)
        return check(program, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkers", nargs="+", help=f"a loopwright-check, or {', '.join(CHECKERS)}")
    parser.add_argument("--venv", type=Path, help="where peers are installed")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--misses", action="store_true", help="name each bug missed and each look-alike reported")
    options = parser.parse_args()
    every = list(cases(options.only))
    bugs = sum(bool(case.bugs) for case in every)
    for checker in options.checkers:
        own = checker not in CHECKERS
        found = shutil.which(checker, path=options.venv and options.venv / "bin")
        program = str(Path(found or checker).resolve()) if own else found
        if program is None:
            sys.exit(f"{checker} is not installed in {options.venv or 'PATH'}")
        with ThreadPoolExecutor(2) as executor:
            answers = list(executor.map(partial(run, program, CHECKERS.get(checker, ours)), every))
        verdicts = [judge(case, answer, own=own) for case, answer in zip(every, answers, strict=True)]
        pairs = list(zip(every, verdicts, strict=True))
        hits = [case for case, (hit, _) in pairs if hit]
        recall = sum(bool(case.bugs) for case in hits)
        pedantic = sum(only for _, (_, only) in pairs)
        print(f"{Path(checker).name}: {recall} of {bugs} bugs found ({recall / max(bugs, 1):.1%}),", end=" ")
        look_alikes = f"{len(hits) - recall} of {len(every) - bugs} look-alikes reported"
        print(f"{pedantic} of them by pedantic rules only; {look_alikes}")
        missed = [case for case, (hit, _) in pairs if case.bugs and not hit]
        total = Counter(case.construct for case in every if case.bugs)
        for construct, count in sorted(Counter(case.construct for case in missed).items()):
            print(f"  {construct}: {count} of {total[construct]} missed")
        if options.misses:
            for case, answer in zip(every, answers, strict=True):
                if case in missed or (case in hits and not case.bugs):
                    told = ", ".join(f"{one.rule} {one.places[0][0]}:{one.places[0][1]}" for one in answer)
                    print(f"  {case.name}: {case.bugs or 'look-alike'}; found {told or 'nothing'}")


if __name__ == "__main__":
    main()
