#!/usr/bin/env python3
"""What the Makefile's targets do, each with all of its set-up: ``python3 tools/ci.py test``.

Only the standard library is used. Every step prints its wall time; a failed step does not keep the later ones from
running (a failed build does), and the exit status tells whether all passed.

Environment:
    LOOPWRIGHT_PYTHONS: more interpreters to test on, paths separated by colons.
    LOOPWRIGHT_JOBS: test suites that run side by side (default: 2, or 1 on one core).
    CI: when ``true``, an interpreter or a server that is missing is a failure instead of a skip.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 (this message is for whoever starts it with an older one)
    sys.exit(f"Loopwright needs CPython 3.11 or newer; {sys.executable} is older. Try: make PYTHON=python3.13")

import debian
from envs import ROOT, Env
from pythons import SUPPORTED, Python, find, probe

CI = os.environ.get("CI") == "true"
TESTED = [f"{major}.{minor}" for major, minor in SUPPORTED]
BENCHED = ["3.11", "3.13", "3.14", "3.15"]
TOOLKIT = ["--workspace", "--exclude=loopwright-check"]
"""What cargo looks at where the analyser has a step of its own: see :meth:`House.analyser`."""
STUBTEST = ["--ignore-disjoint-bases", "--allowlist=tools/stubtest-allowed.txt", "--ignore-unused-allowlist"]
SHOWN = 8
"""Failed tests of one suite that are repeated at the end."""
THIN = set(TESTED[1:-1])
"""Versions between the oldest and the newest: no debug mode there, and fewer random cancels (see loops.py)."""
SUITE_LIMIT = 45 * 60
"""Seconds that one run of pytest may take before it is killed; a single test has 120."""

_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)\b")
_SUMMARY = re.compile(r"^(=+ )?(\d+ \w+, )*\d+ \w+ in [\d.]+s")
_printing = threading.Lock()


class Failed(Exception):
    """A step that ended badly and has said why."""


@dataclass(slots=True)
class Report:
    """What ran, how long it took, what pytest counted, and the tests that failed."""

    steps: list[tuple[str, float, bool]] = field(default_factory=list)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Times a step. A command that fails inside is noted, not raised."""
        say(f"\n── {name}")
        start, passed = time.monotonic(), False
        try:
            yield
            passed = True
        except (Failed, subprocess.CalledProcessError) as error:
            say(f"   {error}")
        finally:
            seconds = time.monotonic() - start
            self.steps.append((name, seconds, passed))
            say(f"── {name}: {'ok' if passed else 'FAILED'} in {seconds:.1f} s")

    def failed(self) -> list[str]:
        return [name for name, _, passed in self.steps if not passed]

    def finish(self) -> int:
        """Prints the table of steps, the tests that failed and, as the very last line, pytest's counts added up.

        Whoever sees only the end of a long log has to find in it what to look for.
        """
        say("")
        for name, seconds, passed in self.steps:
            say(f"{seconds:8.1f} s  {'ok    ' if passed else 'FAILED'}  {name}")
        for suite, counts in self.counts.items():
            say(f"pytest on {suite}: {_counted(counts)}")
        for suite, failures in self.failures.items():
            for failure in failures[:SHOWN]:
                say(f"{suite}: {failure}")
            if len(failures) > SHOWN:
                say(f"{suite}: and {len(failures) - SHOWN} more")
        seconds = time.monotonic() - self.started
        if self.counts:
            total = sum(self.counts.values(), Counter[str]())
            failed = f"; failed steps: {', '.join(self.failed())}" if self.failed() else ""
            interpreters = sum(name.startswith("py") for name in self.counts)
            say(f"{_counted(total)} in {seconds:.2f}s on {interpreters} interpreters{failed}")
        return 1 if self.failed() else 0


def _counted(counts: Counter[str]) -> str:
    always = {name: counts[name] for name in ("passed", "failed", "skipped")}
    return ", ".join(f"{number} {name}" for name, number in (always | dict(counts)).items())


def say(line: str) -> None:
    with _printing:
        print(line, flush=True)


def run(
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    *,
    prefix: str = "",
    limit: float | None = None,
    into: list[str] | None = None,
) -> None:
    """Runs a command in the repository and passes its output on line by line, also ``into`` a list."""
    text = [str(part) for part in command]
    say(f"{prefix}$ {' '.join(text).replace(f'{ROOT}/', '')}")
    process = subprocess.Popen(
        text,
        cwd=ROOT,
        env=os.environ | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    watchdog = threading.Timer(limit, process.kill) if limit else None
    if watchdog:
        watchdog.start()
    assert process.stdout is not None
    try:
        for line in process.stdout:
            say(prefix + line.rstrip("\n"))
            if into is not None:
                into.append(line)
        status = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        if watchdog:
            watchdog.cancel()
    if status:
        raise subprocess.CalledProcessError(status, " ".join(text[:4]))


@dataclass(slots=True)
class House:
    """The interpreters, their environments, and the steps that use them."""

    report: Report = field(default_factory=Report)
    default: Env = field(init=False)
    others: dict[str, Python] = field(init=False)

    def __post_init__(self) -> None:
        python = probe(Path(sys.executable))
        if not isinstance(python, Python):
            sys.exit(f"{sys.executable} {python.reason}; Loopwright supports CPython 3.11 to 3.15 with the GIL")
        self.default = Env(python, ROOT / ".venv", run)
        self.others = {}

    # What the steps stand on

    def require(self, *groups: str) -> None:
        """The default environment with these dependency groups."""
        if shutil.which("cargo") is None:
            sys.exit("Loopwright's core is Rust: install it first, https://rustup.rs")
        with self.report.step(f"environment .venv ({self.default.base.version}, {', '.join(groups)})"):
            self.default.create()
            self.default.install(*groups)
        self.stop_if_failed()

    def build(self, profile: str = "fast") -> None:
        """The extension, in the default environment."""
        with self.report.step(f"build ({profile}, py{self.default.base.minor})"):
            self.default.build(self.default.bin("maturin"), profile)
        self.stop_if_failed()

    def look_for_others(self, wanted: Sequence[str]) -> None:
        """Finds the other interpreters. Under CI all of them have to be there."""
        found, refused = find()
        for rejected in refused:
            say(f"left out: {rejected.path} {rejected.reason}")
        own = self.default.base.minor
        self.others = {minor: python for minor, python in found.items() if minor != own and minor in wanted}
        for minor, python in self.others.items():
            say(f"CPython {minor}: {python.path} ({python.version})")
        missing = [minor for minor in wanted if minor != own and minor not in self.others]
        if missing:
            say(f"not found: CPython {', '.join(missing)} (looked at LOOPWRIGHT_PYTHONS, PATH and pyenv)")
            if CI:
                with self.report.step("interpreters"):
                    raise Failed(f"CI tests on CPython {', '.join(wanted)}; missing: {', '.join(missing)}")

    def other(self, python: Python, *, prefix: str = "") -> Env:
        """The environment of another interpreter."""

        def prefixed(command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
            run(command, environment, prefix=prefix)

        return Env(python, ROOT / f".venv-{python.minor}", prefixed)

    def stop_if_failed(self) -> None:
        if self.report.failed():
            sys.exit(self.report.finish())

    # The steps

    def lint(self) -> None:
        """Formatting, lints and types, of Rust and of Python."""
        cargo, bin_ = self.default.cargo_env(), self.default.bin
        checks: dict[str, list[list[str | Path]]] = {
            "rustfmt": [["cargo", "fmt", "--all", "--check"]],
            "clippy": [
                ["cargo", "clippy", *TOOLKIT, "--all-targets", "--quiet", "--profile=fast", "--", "-D", "warnings"]
            ],
            "ruff": [[bin_("ruff"), "check", "--quiet"], [bin_("ruff"), "format", "--check", "--quiet"]],
            "mypy": [[bin_("mypy"), "--no-error-summary"]],
            "stubtest": [[bin_("stubtest"), "--concise", *STUBTEST, "loopwright._loopwright"]],
        }
        for name, commands in checks.items():
            with self.report.step(name):
                for command in commands:
                    run(command, cargo)

    def rust_tests(self, **environment: str) -> None:
        """The machines' own tests and proptest models."""
        which = [*TOOLKIT, "--exclude=loopwright-python"]
        environment = {**self.default.cargo_env(), **environment}
        with self.report.step("Rust tests"):
            if shutil.which("cargo-nextest"):
                command = ["cargo", "nextest", "run", "--cargo-profile=fast", "--cargo-quiet", "--no-tests=pass"]
                run([*command, "--status-level=fail", *which], environment)
            else:
                run(["cargo", "test", "--profile=fast", "--quiet", *which], environment)

    def analyser(self, *, prefix: str = "", **environment: str) -> None:
        """The analyser: its lints, its tests and its program, then the Python tests that need the program.

        The type inference that it stands on takes most of the time, so it is compiled once: clippy stands in the
        compiler's place while the tests are built, since ``cargo clippy`` would read all of it a second time.
        """
        driver = shutil.which("clippy-driver")
        program = ROOT / "target" / "analyser" / "loopwright-check"
        environment |= {"CARGO_TARGET_DIR": str(ROOT / "target")}
        if driver:
            environment |= {"RUSTC_WORKSPACE_WRAPPER": driver, "CLIPPY_ARGS": "-D__CLIPPY_HACKERY__warnings"}
        command = ["cargo", "test", "--package=loopwright-check", "--all-targets", "--profile=analyser", "--quiet"]
        building = "analyser: clippy, tests, program"
        with self.report.step(building):
            run(command, environment, prefix=prefix, limit=SUITE_LIMIT)
        if building not in self.report.failed():
            self.pytest(
                self.default, "-m", "analyser", prefix=prefix, suite="analyser", LOOPWRIGHT_CHECK_BIN=str(program)
            )

    def pytest(self, env: Env, *arguments: str, prefix: str = "", suite: str = "", **environment: str) -> None:
        """One run of pytest, counted under the suite's name or the interpreter's."""
        name = suite or f"py{env.base.minor}"
        with self.report.step(f"pytest on {env.base.version}{suite and f' ({suite})'}"):
            lines: list[str] = []
            command: list[str | Path] = [env.python, "-m", "pytest", "-q", "--color=no", *arguments]
            try:
                run(command, environment, prefix=prefix, limit=SUITE_LIMIT, into=lines)
            finally:
                summary = next((line for line in reversed(lines) if _SUMMARY.match(line)), "")
                counts = Counter({outcome: int(number) for number, outcome in _COUNT.findall(summary)})
                self.report.counts[name] = counts or Counter(failed=1)
                failures = [line.strip() for line in lines if line.startswith(("FAILED ", "ERROR "))]
                if failures:
                    self.report.failures[name] = failures

    def suites(self) -> None:
        """The full suite on the default interpreter beside all else: Rust's tests, the analyser, core suites, mutants.

        So many at a time as there are lanes: whichever is free takes the next, so that no core rests while another
        one works through its last suite.
        """
        lanes = int(os.environ.get("LOOPWRIGHT_JOBS", min(2, os.cpu_count() or 1)))
        share = max(1, (os.cpu_count() or 1) // lanes)

        def core(python: Python) -> None:
            prefix = f"[{python.minor}] "
            env = self.other(python, prefix=prefix)
            building = f"environment .venv-{python.minor} and build"
            with self.report.step(building):
                env.create(self.default.bin("virtualenv"))
                env.install("test")
                env.build(self.default.bin("maturin"), "fast", jobs=share)
            if building in self.report.failed():
                self.report.counts[f"py{python.minor}"] = Counter(failed=1)
            else:
                suite = {"LOOPWRIGHT_CORE_SUITE": "thin" if python.minor in THIN else "1"}
                self.pytest(env, "-m", "not default_only and not analyser", prefix=prefix, **suite)

        for python in self.others.values():
            self.other(python).seed(self.default, "fast")  # before anything else builds there
        with ThreadPoolExecutor(max_workers=lanes) as executor:
            full = executor.submit(
                self.pytest, self.default, "-m", "not analyser", prefix=f"[{self.default.base.minor}] "
            )
            one_lane = {
                "CARGO_BUILD_JOBS": str(share),
                "NEXTEST_TEST_THREADS": str(share),
                "RUST_TEST_THREADS": str(share),
            }
            rust = [executor.submit(self.rust_tests, **one_lane)]
            rust += [executor.submit(self.analyser, prefix="[analyser] ", **one_lane)]
            cores = [executor.submit(core, python) for python in self.others.values()]
            for future in [full, *rust, *cores, executor.submit(self.mutants)]:
                future.result()

    def servers(self) -> None:
        """The programs of the servers that the tests start: Debian's packages, where they are missing."""
        absent = debian.missing()
        if not absent:
            return
        with self.report.step(f"servers: {', '.join(absent.values())}"):
            try:
                debian.install(run)
            except debian.NotInstalled as error:
                if CI:
                    raise Failed(str(error)) from error
                say(f"   tests that need them will be skipped: {error}")

    def mutants(self) -> None:
        """Breaks the core by hand, variant after variant: each has to turn a test red."""
        with self.report.step("mutants"):
            script = ROOT / "tests" / "mutations" / "run.py"
            if not script.exists():
                raise Failed(f"{script.relative_to(ROOT)} is not there")
            run([self.default.python, script], self.default.cargo_env(), prefix="[mutants] ", limit=SUITE_LIMIT)

    def docs(self) -> None:
        """The documentation; a dead link or a page outside of the navigation is an error."""
        with self.report.step("docs"):
            run([self.default.bin("mkdocs"), "build", "--strict", "--quiet"], {"NO_MKDOCS_2_WARNING": "1"})

    def bench(self) -> None:
        """Each ``benches/bench_*.py`` on each interpreter, in release builds, one after the other."""
        results = ROOT / "target" / "bench"
        results.mkdir(parents=True, exist_ok=True)
        for minor in BENCHED:
            if minor == self.default.base.minor:
                env = self.default
            elif minor in self.others:
                env = self.other(self.others[minor])
            else:
                continue
            with self.report.step(f"release build, py{minor}"):
                env.create(self.default.bin("virtualenv"))
                env.install("bench", "servers", *(["peers"] if minor != "3.11" else []))
                env.build(self.default.bin("maturin"), "release")
            for script in sorted((ROOT / "benches").glob("bench_*.py")):
                with self.report.step(f"{script.name} on {env.base.version}"):
                    run([env.python, script, results / f"py{minor}-{script.stem}.json"])
        with self.report.step("docs/benchmarks.md"):
            run([self.default.python, ROOT / "benches" / "report.py", results])


# The commands


def setup(house: House) -> None:
    house.require("all")
    house.build()


def lint(house: House) -> None:
    setup(house)
    house.lint()


def test(house: House) -> None:
    lint(house)
    house.docs()
    house.look_for_others(TESTED)
    house.servers()
    house.suites()


def analyser(house: House) -> None:
    setup(house)
    house.analyser()


def mutants(house: House) -> None:
    setup(house)
    house.mutants()


def stress(house: House) -> None:
    house.require("all", "suites")
    house.build()
    house.servers()
    house.rust_tests(LOOPWRIGHT_STRESS="1")
    house.pytest(
        house.default, "-m", "not analyser", "--timeout=7200", "-o", "faulthandler_timeout=0", LOOPWRIGHT_STRESS="1"
    )


def docs(house: House) -> None:
    house.require("all")
    house.docs()


def bench(house: House) -> None:
    house.require("all")
    house.look_for_others(BENCHED)
    house.servers()
    house.bench()


def demo(house: House) -> None:
    house.require("demo", "build")
    house.build()
    program = ["-m", "loopwright", "run", "--report", "text", "examples/crawl.py"]
    python = str(house.default.python)
    os.chdir(ROOT)
    os.execv(python, [python, *program])  # exec: the terminal and Ctrl-C are the demo's own


def example_api(house: House) -> None:
    house.require("example-api", "build")
    house.build()
    house.servers()
    paths = {"PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("examples", "tests", "tools"))}
    with house.report.step("examples/api"):
        run([house.default.python, "-m", "support.example_api"], paths)


def test_cluster(house: House) -> None:
    house.require("all", "cluster")
    house.build()
    house.pytest(house.default, "tests/test_ray.py", "-s", LOOPWRIGHT_CLUSTER="1")


def example_etl(house: House) -> None:
    house.require("example-etl", "build")
    house.build()
    house.servers()
    paths = {"PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("examples", "tests", "tools"))}
    with house.report.step("examples/etl.py"):
        run([house.default.python, "-m", "support.example_etl"], paths)


_ALL = (setup, lint, test, test_cluster, analyser, mutants, stress, docs, bench, demo, example_api, example_etl)
COMMANDS = {command.__name__.replace("_", "-"): command for command in _ALL}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    house = House()
    COMMANDS[parser.parse_args().command](house)
    return house.report.finish()


if __name__ == "__main__":
    sys.exit(main())
