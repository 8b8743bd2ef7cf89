"""``loopwright run``: everything of this package put together."""

from __future__ import annotations

import asyncio
import atexit
import gc
import json
import os
import signal
import sys
from types import TracebackType
from typing import TypedDict

from loopwright._launch.guard import Guard
from loopwright._launch.loops import loop_factory
from loopwright._launch.supervisor import Supervisor
from loopwright._launch.target import TargetError, resolve

__all__ = ["RunOptions", "launch"]

_GRACE = 10.0
_USAGE = 2


class RunOptions(TypedDict):
    """The arguments of ``loopwright run``, parsed."""

    target: str
    args: list[str]
    grace: float | None
    loop: str
    eager: bool
    report: list[str]


def launch(options: RunOptions) -> int:
    """Runs the program and returns its exit code. The report is written at the end of the process."""
    if options["eager"] and not hasattr(asyncio, "eager_task_factory"):
        return _complain(f"--eager needs Python 3.12 or newer; this is {sys.version.split()[0]}")
    grace = _GRACE if options["grace"] is None else options["grace"]
    supervisor = Supervisor(grace=grace, report=options["report"], target=options["target"], launched=True)
    supervisor.grace_is_fixed = options["grace"] is not None
    supervisor.describe(eager=options["eager"])
    guard = Guard(supervisor, explicit=options["loop"] != "auto", eager=options["eager"])
    guard.install()  # Before uvloop is imported, which keeps functions of the signal module.
    try:
        supervisor.make_loop = loop_factory(options["loop"])
    except ValueError as error:
        return _complain(f"--loop: {error}")
    # First in, last out: the report also sees what the program's own functions do at exit.
    atexit.register(_end, supervisor, guard)
    supervisor.take_signals([signal.SIGTERM])
    supervisor.start()
    code, reason = _run(options, supervisor)
    if supervisor.reraised is not None:
        code, reason = _died_of(supervisor.reraised)
    supervisor.watchdog.put("exit", json.dumps({"code": code & 0xFF, "reason": reason}))
    return code


def _end(supervisor: Supervisor, guard: Guard) -> None:
    if not supervisor.is_ours:
        return
    guard.close_left_open()
    gc.collect()  # Exceptions that nobody retrieved are known when their tasks are collected.
    guard.uninstall()
    supervisor.conclude()


def _run(options: RunOptions, supervisor: Supervisor) -> tuple[int, str]:
    from loopwright.service import run  # noqa: PLC0415 - service imports this package

    try:
        resolve(options["target"], options["args"], run)()
    except TargetError as error:
        return _complain(str(error)), "nothing to run"
    except SystemExit as error:
        return _exit_code(error, supervisor)
    except KeyboardInterrupt:
        return _died_of(signal.SIGINT)
    except BaseException as error:
        if not (isinstance(error, asyncio.CancelledError) and supervisor.acted):
            error.__traceback__ = _own_part(error.__traceback__)
            sys.excepthook(type(error), error, error.__traceback__)
            return 1, f"exception {type(error).__name__}: {error}"[:300]
    if supervisor.acted and not supervisor.drained:
        return _died_of(supervisor.acted)
    return 0, "finished"


def _died_of(number: int) -> tuple[int, str]:
    return 128 + number, signal.Signals(number).name


def _exit_code(error: SystemExit, supervisor: Supervisor) -> tuple[int, str]:
    code = error.code
    if code is None:
        code = 0
    elif not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    if supervisor.acted and code == 128 + supervisor.acted:
        return _died_of(supervisor.acted)
    return code, f"exit {code}"


def _own_part(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback without our own frames and runpy's at its head."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if not file.startswith(here) and "runpy" not in file and "importlib" not in file:
            break
        traceback = traceback.tb_next
    return traceback


def _complain(problem: str) -> int:
    print(f"loopwright run: {problem}", file=sys.stderr)
    return _USAGE
