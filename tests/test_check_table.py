"""What the analyser's table says of the standard library is true: each call stops the loop that it is made on."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support import blocking_calls

TESTS = Path(__file__).resolve().parent
EFFECTS = TESTS.parent / "crates" / "check" / "src" / "effects"

SINCE = {"pathlib.Path.walk": (3, 12), "dbm.sqlite3.open": (3, 13)}
"""The version of Python that a name came with."""

NOT_YET = {name for name, version in SINCE.items() if sys.version_info < version}

PROVED = {
    name: call
    for name, call in {**blocking_calls.CALLS, **blocking_calls.COMPUTES, **blocking_calls.RAISES}.items()
    if name not in NOT_YET
}

SAME = {
    "_socket.getaddrinfo": "socket.getaddrinfo",
    "selectors.BaseSelector.select": "selectors.DefaultSelector.select",
    "shutil._RmtreeType.__call__": "shutil.rmtree",
    "concurrent.futures.ThreadPoolExecutor.shutdown": "concurrent.futures.Executor.shutdown",
    "concurrent.futures.thread.ThreadPoolExecutor.shutdown": "concurrent.futures.Executor.shutdown",
    "multiprocessing.context.BaseContext.Manager": "multiprocessing.Manager",
    "asyncio.BaseEventLoop.run_until_complete": "asyncio.AbstractEventLoop.run_until_complete",
    "asyncio.base_events.BaseEventLoop.run_until_complete": "asyncio.AbstractEventLoop.run_until_complete",
    "asyncio.BaseEventLoop.run_forever": "asyncio.AbstractEventLoop.run_forever",
    "asyncio.base_events.BaseEventLoop.run_forever": "asyncio.AbstractEventLoop.run_forever",
}
"""Names of what is proved under another one: overrides of abstract methods, and names that only the stubs give."""

ELSEWHERE = {
    *("select.kqueue.control", "select.devpoll.poll", "selectors.KqueueSelector.select"),
    *("selectors.DevpollSelector.select", "nt.system"),
    *("pathlib.Path.copy", "pathlib.Path.copy_into", "pathlib.Path.move", "pathlib.Path.move_into"),
    *("dbm.gnu.open", "dbm.ndbm.open", "_gdbm.open", "_dbm.open"),
    *NOT_YET,
}
"""Not on this system, not in this version, or not built."""

UNPROVED = {
    "os.fsync": "waits for a disk; nothing holds that up, and no audit event precedes it",
    "os.fdatasync": "the same",
    "os.sync": "the same",
    "os.posix_fallocate": "the same",
    "tkinter.mainloop": "needs a display",
    "tkinter.Misc.mainloop": "needs a display",
}


def names(written: str) -> list[str]:
    """`a.{b,c}` is `a.b` and `a.c`."""
    braces = re.search(r"\{([^}]*)\}", written)
    if braces is None:
        return [written]
    before, after = written[: braces.start()], written[braces.end() :]
    return [name for choice in braces[1].split(",") for name in names(before + choice.strip() + after)]


def table() -> dict[str, dict[str, object]]:
    entries = tomllib.loads((EFFECTS / "stdlib.toml").read_text())["blocks"]
    return {name: entry for entry in entries for written in entry["names"] for name in names(written)}


def promised() -> list[str]:
    """Names of which the table is certain. What is tagged as short says itself that it is."""
    return [
        name
        for name, entry in table().items()
        if entry.get("level", "certain") == "certain" and not entry.get("pedantic") and not entry.get("tags")
    ]


def thing(name: str) -> object:
    """What a qualified name denotes, if anything does here."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            found = getattr(found, part, None)
        return found
    return None


@pytest.mark.default_only
def test_every_certain_name_has_its_proof() -> None:
    proved = {id(found): name for name in PROVED if (found := thing(name)) is not None}
    left = set()
    for name in promised():
        if name in PROVED or SAME.get(name) in PROVED or id(thing(name)) in proved:
            continue
        left.add(name)
    assert left - ELSEWHERE == set(UNPROVED)
    assert {name for name in left & ELSEWHERE if thing(name) is not None} <= {"_gdbm.open", "_dbm.open"}
    assert len(UNPROVED) <= 6
    assert set(PROVED) <= set(table()), "a proof of what the table does not say"


def verdicts(shares: list[list[str]], directory: Path) -> dict[str, str]:
    """What is wrong with each name. In processes of their own: the calls fork, replace stdin, are ended by signals."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    wrong: dict[str, str] = {}
    programs = []
    for number, calls in enumerate(shares):
        with (directory / f"{number}").open("w") as told:
            command = [sys.executable, "-m", "support.blocking_calls", *calls]
            program = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=told, env=environment, start_new_session=True
            )
            programs.append(program)
    for number, program in enumerate(programs):
        ended = program.wait()
        with contextlib.suppress(ProcessLookupError):  # what the calls have started, and does not end by itself
            os.killpg(program.pid, signal.SIGKILL)
        assert ended == 0
        wrong.update(json.loads((directory / f"{number}").read_text()))
    return wrong


@pytest.mark.default_only
def test_every_proved_call_stops_the_loop(tmp_path: Path) -> None:
    assert verdicts([list(PROVED)[start::3] for start in range(3)], tmp_path) == {}


@pytest.mark.default_only
def test_what_stops_no_loop_is_not_proved(tmp_path: Path) -> None:
    wrong = verdicts([list(blocking_calls.LOOK_ALIKES)], tmp_path)
    assert set(wrong) == set(blocking_calls.LOOK_ALIKES)
    assert all("it did not wait" in reason for reason in wrong.values()), wrong
