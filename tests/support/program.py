"""A program in a process of its own, run by ``loopwright run`` or by plain Python."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Ended", "Program"]

#: How long a step may take on a loaded machine before the test gives up.
PATIENCE = 60.0


@dataclass
class Ended:
    """How a program ended."""

    code: int
    out: str
    err: str
    #: The report, if it was asked for as JSON.
    report: dict[str, Any]
    #: Seconds from the first signal that the test sent to the end.
    took: float

    @property
    def phases(self) -> list[str]:
        return [phase["name"] for phase in self.report["phases"]]


@dataclass
class Program:
    """Starts ``source`` (or a target) and talks to it.

    Parameters:
        directory: where its files are; also its working directory.
        source: text of ``app.py``.
        command: what runs it; ``{python}`` stands for the interpreter. By default ``loopwright run`` with a JSON report
            in a file.
        target: what to run, ``app.py`` by default.
    """

    directory: Path
    source: str = ""
    options: list[str] = field(default_factory=list)
    target: str = "app.py"
    args: list[str] = field(default_factory=list)
    command: list[str] | None = None
    env: dict[str, str] = field(default_factory=dict)
    prefix: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.source:
            (self.directory / "app.py").write_text(textwrap.dedent(self.source))
        self._report = self.directory / "report.json"
        command = self.command or [sys.executable, "-m", "loopwright", "run", "--report", str(self._report)]
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **self.env}
        for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
            if name not in self.env:
                env.pop(name, None)
        self._out = (self.directory / "out.txt").open("wb+")
        self._err = (self.directory / "err.txt").open("wb+")
        self.process = subprocess.Popen(
            [*self.prefix, *command, *self.options, self.target, *self.args],
            cwd=self.directory,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
        )
        self._first_signal: float | None = None

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._out.close()
        self._err.close()

    def wait_for(self, text: str, *, in_err: bool = False) -> Program:
        """Waits until the program has printed ``text``."""
        name = "err.txt" if in_err else "out.txt"
        until = time.monotonic() + PATIENCE
        while text not in (self.directory / name).read_text(errors="replace"):
            if self.process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"{text!r} was not printed; {self._texts()}")
            time.sleep(0.02)
        return self

    def send(self, number: int = signal.SIGTERM, *, pid: int | None = None) -> Program:
        """Sends a signal."""
        if self._first_signal is None:
            self._first_signal = time.monotonic()
        os.kill(self.process.pid if pid is None else pid, number)
        return self

    def end(self) -> Ended:
        """Waits for the end."""
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running; {self._texts()}") from None
        took = time.monotonic() - (self._first_signal or time.monotonic())
        out, err = self._texts()
        report = json.loads(self._report.read_text()) if self._report.exists() else {}
        return Ended(code, out, err, report, took)

    def _texts(self) -> tuple[str, str]:
        return tuple((self.directory / name).read_text(errors="replace") for name in ("out.txt", "err.txt"))  # type: ignore[return-value]
