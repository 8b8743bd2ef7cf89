"""Checkers of async code over released projects: CPU time, memory, findings, and what went wrong.

``python benches/check_corpus.py --checker target/analyser/loopwright-check --site`` takes the projects of
check_corpus.toml from the package registry, unpacks their sources, runs our checker and its peers over each, one after
the other, and writes ``results.json`` into the cache and, with ``--table``, a page. ``--site`` installs what the
projects depend on (check_site.txt), so that both type-aware tools see the same third-party code.

CPU time and memory are the kernel's account of the child. ``--cpu-limit`` ends a child that hangs; so it is told.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import threading
import time
import tomllib
import venv
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CACHE_OF_OURS = ".loopwright_cache"
SOURCES = (".py", ".pyi", "py.typed", "/METADATA")
OK = (0, 1)
"""Exit codes of a checker that has done its work: nothing found, something found."""


@dataclass(frozen=True, slots=True)
class Run:
    """One tool over one project."""

    tool: str
    project: str
    files: int
    cpu: float
    """Seconds of user and system time, children included."""
    wall: float
    megabytes: int
    """Largest resident set."""
    findings: int
    problem: str
    """Why its findings do not count; empty when all went well."""

    @property
    def speed(self) -> float:
        """Files per CPU second."""
        return self.files / self.cpu


@dataclass(frozen=True, slots=True)
class Tool:
    """A checker: how it is called in a project's folder, and how its findings are counted."""

    name: str
    command: Callable[[Path], list[str]]
    count: Callable[[str], int]
    environment: dict[str, str]


def main() -> None:
    options = arguments()
    cache: Path = options.cache.resolve()
    corpus = tomllib.loads((HERE / "check_corpus.toml").read_text())
    wanted = options.projects.split(",") if options.projects else list(corpus["projects"])
    folders = {name: unpacked(cache, name, corpus["projects"][name], corpus["python"]) for name in wanted}
    site = site_of(cache) if options.site else None
    tools = peers(cache, corpus["peers"], site)
    if options.checker:
        tools = {**ours(options.checker.resolve(), site), **tools}
    if options.tools:
        tools = {name: tools[name] for name in options.tools.split(",")}
    runs = []
    for project, folder in folders.items():
        for tool in tools.values():
            runs.append(measured(tool, project, folder, cache / "findings", options.cpu_limit))
            print(line(runs[-1]), flush=True)
    results = merged(cache / "results.json", runs)
    if options.table:
        options.table.write_text(page(results, corpus))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=ROOT / "target" / "check-corpus")
    parser.add_argument("--checker", type=Path, help="our binary; without it only the peers run")
    parser.add_argument("--site", action="store_true", help="with what the projects depend on")
    parser.add_argument("--projects", default="", help="only these, comma-separated")
    parser.add_argument(
        "--tools", default="", help="only these, comma-separated; ours is loopwright and 'loopwright again'"
    )
    parser.add_argument("--cpu-limit", type=int, default=1200, help="seconds of CPU time for one run")
    parser.add_argument("--table", type=Path, help="where the page is written")
    return parser.parse_args()


def unpacked(cache: Path, name: str, version: str, python: str) -> Path:
    """The folder with the sources of this release."""
    folder = cache / "projects" / f"{name}-{version}"
    if folder.exists():
        return folder
    download = cache / "download"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*command, "--python-version", python, "--dest", download, f"{name}=={version}"], check=True)
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for wheel in download.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(partial, [member for member in archive.namelist() if member.endswith(SOURCES)])
    (partial / ".git").mkdir()  # else the tools take over what is ignored in the folders above: all of `target`
    (partial / "pyproject.toml").write_text(
        f'[project]\nname = "{name}"\nversion = "{version}"\n'
    )  # and their settings
    partial.rename(folder)
    shutil.rmtree(download)
    return folder


def site_of(cache: Path) -> Path:
    """A virtual environment with everything the projects depend on; nothing is built for it, nothing compiled."""
    site = cache / "site"
    if not (site / "complete").exists():
        venv.create(site, clear=True, with_pip=True)
        install = [site / "bin" / "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--no-compile"]
        subprocess.run([*install, "--requirement", HERE / "check_site.txt"], check=True)
        (site / "complete").touch()
    return site


def peers(cache: Path, versions: dict[str, str], site: Path | None) -> dict[str, Tool]:
    """The other tools, from a virtual environment of their own."""
    folder = cache / "peers"
    if not (folder / "complete").exists():
        venv.create(folder, clear=True, with_pip=True)
        install = [folder / "bin" / "pip", "install", "--quiet", "--only-binary", ":all:"]
        pins = [f"{name}=={version}" for name, version in versions.items() if name != "evloop-lint"]
        subprocess.run([*install, *pins], check=True)
        clone = folder / "evloop-lint"
        subprocess.run(["git", "clone", "--quiet", "https://github.com/agusmdev/evloop-lint", clone], check=True)
        subprocess.run(["git", "-C", clone, "checkout", "--quiet", versions["evloop-lint"]], check=True)
        (folder / "complete").touch()
    bin_ = folder / "bin"
    evloop_lint = [str(bin_ / "python"), "-m", "evloop_lint.cli", "--format", "json", "--isolated"]
    path = {"PYTHONPATH": str(folder / "evloop-lint" / "src")}
    ruff = [str(bin_ / "ruff"), "check", "--isolated", "--no-cache", "--preview", "--select", "ASYNC,RUF006,RUF029"]
    flake8_async = [str(bin_ / "flake8-async"), "--asyncio"]
    ty = [str(bin_ / "ty"), "check", "--output-format", "concise", "--no-progress"]
    ty += ["--python", str(site)] if site else []
    blockpath = [str(bin_ / "blockpath"), "check", "--no-config", "--json", "."]
    tools = [
        Tool("ruff", lambda _: [*ruff, "--output-format", "json", "."], lambda out: len(json.loads(out)), {}),
        Tool("flake8-async", lambda at: [*flake8_async, *sources(at)], lambda out: out.count(": ASYNC"), {}),
        Tool("blockpath", lambda _: blockpath, lambda out: len(json.loads(out)["findings"]), {}),
        Tool("evloop-lint", lambda _: [*evloop_lint, "."], lambda out: len(json.loads(out)), path),
        Tool(
            "evloop-lint probable",
            lambda _: [*evloop_lint, "--confidence", "probable", "."],
            lambda out: len(json.loads(out)),
            path,
        ),
        Tool(
            "ty", lambda _: ty, lambda out: sum(": error[" in row or ": warning[" in row for row in out.split("\n")), {}
        ),
    ]
    return {tool.name: tool for tool in tools}


def ours(checker: Path, site: Path | None) -> dict[str, Tool]:
    """Our checker, with an empty cache and with the one that this has filled."""
    command = [str(checker), ".", "--format", "json", *(["--python", str(site)] if site else [])]

    def cold(folder: Path) -> list[str]:
        shutil.rmtree(folder / CACHE_OF_OURS, ignore_errors=True)
        return command

    def count(output: str) -> int:
        return len(json.loads(output)["findings"])

    return {
        "loopwright": Tool("loopwright", cold, count, {}),
        "loopwright again": Tool("loopwright again", lambda _: command, count, {}),
    }


def sources(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.py"))


def measured(tool: Tool, project: str, folder: Path, findings: Path, cpu_limit: int) -> Run:
    """Runs a tool in the folder and keeps what it printed."""
    kept = findings / tool.name / project
    kept.parent.mkdir(parents=True, exist_ok=True)
    command = tool.command(folder)

    began = time.monotonic()
    with open(f"{kept}.out", "wb") as out, open(f"{kept}.err", "wb") as err:
        environment = {**os.environ, **tool.environment}
        child = subprocess.Popen(command, cwd=folder, stdout=out, stderr=err, env=environment)
        resource.prlimit(child.pid, resource.RLIMIT_CPU, (cpu_limit, cpu_limit + 5))
        alarm = threading.Timer(4 * cpu_limit, child.kill)  # for one that hangs without using any
        alarm.start()
        _, status, used = os.wait4(child.pid, 0)
        alarm.cancel()
    child.returncode = os.waitstatus_to_exitcode(status)  # or Popen would wait for it once more
    cpu = used.ru_utime + used.ru_stime
    problem, count = "", 0
    if child.returncode not in OK:
        last = Path(f"{kept}.err").read_text(errors="replace").strip().split("\n")[-1]
        problem = f"more than {cpu_limit} CPU seconds" if cpu >= cpu_limit else f"exit code {child.returncode}: {last}"
    else:
        try:
            count = tool.count(Path(f"{kept}.out").read_text(errors="replace"))
        except (ValueError, KeyError, TypeError) as error:
            problem = f"its output cannot be read: {error}"
    files, megabytes = len(sources(folder)), used.ru_maxrss // 1024
    return Run(tool.name, project, files, round(cpu, 2), round(time.monotonic() - began, 2), megabytes, count, problem)


def line(run: Run) -> str:
    told = f"{run.project:22} {run.tool:20} {run.files:6} files {run.cpu:8.2f} CPU s {run.wall:8.2f} s"
    return f"{told} {run.speed:7.0f} files/s {run.megabytes:5} MB {run.findings:5} findings {run.problem}"


def merged(path: Path, runs: list[Run]) -> list[Run]:
    """The results of earlier calls, with these in place of theirs; written."""
    before = [Run(**entry) for entry in json.loads(path.read_text())] if path.exists() else []
    by_key = {(run.tool, run.project): run for run in [*before, *runs]}
    results = sorted(by_key.values(), key=lambda run: (run.project.lower(), run.tool))
    path.write_text(json.dumps([asdict(run) for run in results], indent=1))
    return results


def page(results: list[Run], corpus: dict[str, dict[str, str]]) -> str:
    """The tables: each tool over everything, each project with ours."""
    projects = len({run.project for run in results})
    pins = ", ".join(f"{name} {version}" for name, version in corpus["peers"].items())
    parts = [
        "## loopwright check and its peers over released projects\n",
        f"Written by `benches/check_corpus.py --table`; do not edit. {projects} projects (benches/check_corpus.toml), "
        f"on {platform.system()} {platform.machine()}, {os.cpu_count()} processors; {pins}. One run of each tool over "
        'each project; CPU seconds of the process, which a busy machine makes larger. "again" is a second run over '
        "the unchanged tree. Projects on which a tool failed are left out of its sums.\n",
        "| tool | projects | failed | files | CPU s | files per CPU s | slowest | most MB | wall s | findings |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    names = list(dict.fromkeys(run.tool for run in results))
    for name in sorted(names, key=lambda name: (not name.startswith("loopwright"), name)):
        parts.append(total(name, [run for run in results if run.tool == name]))
    cells = {(run.tool, run.project): run for run in results}
    parts += [
        "",
        "| project | files | CPU s | files per CPU s | MB | again, CPU s | ty, CPU s | findings | ruff |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for project in dict.fromkeys(run.project for run in results):
        ours_, again, ty, ruff = (
            cells.get((name, project)) for name in ("loopwright", "loopwright again", "ty", "ruff")
        )
        if ours_ is None:
            continue
        version = corpus["projects"][project]
        row = [f"{project} {version}", ours_.files, ours_.cpu, f"{ours_.speed:.0f}", ours_.megabytes]
        row += [again.cpu if again else "", (ty.problem or ty.cpu) if ty else "", ours_.problem or ours_.findings]
        parts.append("| " + " | ".join(str(cell) for cell in [*row, ruff.findings if ruff else ""]) + " |")
    failures = [run for run in results if run.problem]
    parts += [""] + [f"- {run.tool} on {run.project}: {run.problem}" for run in failures]
    return "\n".join(parts).rstrip() + "\n"


def total(name: str, runs: list[Run]) -> str:
    good = [run for run in runs if not run.problem]
    if not good:
        return f"| {name} | 0 | {len(runs)} | | | | | | | |"
    files, cpu = sum(run.files for run in good), sum(run.cpu for run in good)
    slowest = min(good, key=lambda run: run.speed)
    cells = [name, len(good), len(runs) - len(good), files, f"{cpu:.0f}", f"{files / cpu:.0f}"]
    cells += [f"{slowest.project}, {slowest.speed:.0f}", max(run.megabytes for run in good)]
    cells += [f"{sum(run.wall for run in good):.0f}", sum(run.findings for run in good)]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


if __name__ == "__main__":
    main()
