"""Slices of the suites of aiohttp, anyio and httpx under the leak checks, in `make stress`: every report is true.

What they brought to light stands in ``docs/testing-leaks.md``, with the reason why it is no false alarm; a report that
is not there fails. The source distributions come from the package registry; nothing else is fetched.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import requires

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [
    pytest.mark.default_only,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.environ.get("LOOPWRIGHT_STRESS") != "1", reason="other people's suites: in make stress"),
]


@dataclass(frozen=True)
class Suite:
    """A slice of a suite."""

    release: str
    arguments: tuple[str, ...]
    least: int
    """How many tests have to run for the result to mean something."""
    known: dict[tuple[str, str], str]
    """What is reported, (kind, part of the test's name), and why it is true."""


SUITES = [
    Suite(
        "aiohttp-3.14.5",
        (
            "tests/test_web_functional.py",
            "tests/test_client_functional.py",
            "tests/test_web_server.py",
            "tests/test_client_ws_functional.py",
            "tests/test_web_websocket_functional.py",
            "-paiohttp.pytest_plugin",
        ),
        600,
        {
            ("exceptions", "test_readline_error_on_conn_close"): "create_task() is given no coroutine, a second later",
            ("sockets", "test_non_close_detached_session_on_error_cm"): "the session is not closed, on purpose",
            ("sockets", "test_aiohttp_request_coroutine"): "the session is not closed, on purpose",
            ("cancels", "test_stalled_parser_outlives_connection_lost"): "the handler says in a comment that it does",
            ("tasks", "test_normal_closure_while_client_sends_msg"): "sleep(0.5) is left to asyncio.wait()",
        },
    ),
    Suite(
        "anyio-4.16.0",
        (
            "tests/test_taskgroups.py",
            "tests/test_synchronization.py",
            "tests/test_to_thread.py",
            "tests/test_contextmanagers.py",
            "tests/streams",
            "-panyio.pytest_plugin",
            "-oanyio_mode=auto",
            "-kasyncio",
        ),
        1000,
        {
            ("cancels", "test_cleanup_after_native_cancel"): "pytest.raises() keeps a cancel of the test's own task",
            ("cancels", "test_cancel_message_replaced"): "the test keeps a cancel of its own task",
            ("cancels", "test_uncancel_after_taskgroup_cancelled"): "and asserts that cancelling() is still 1",
            ("exceptions", "test_base_exception"): "KeyboardInterrupt breaks the loop off; the group's error is lost",
        },
    ),
    Suite(
        "httpx-0.28.1",
        (
            "tests/client",
            "tests/test_asgi.py",
            "-panyio.pytest_plugin",
            "-knot trio and not proxy_close and not decode",
        ),
        240,
        {
            ("threads", ""): "the server in a thread is a fixture of the session, and meant to stay",
            ("sockets", ""): "and so are its loop and its socket",
        },
    ),
]


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.release)
def test_what_is_reported_of_a_suite_is_true(suite: Suite, tmp_path: Path) -> None:
    for name in "pytest_mock", "trustme", "trio", "sniffio", "chardet":
        requires.module(name)
    name, _, version = suite.release.partition("-")
    download = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--no-binary",
        ":all:",
        f"{name}=={version}",
    ]
    if subprocess.run(download, cwd=tmp_path, check=False).returncode:
        requires.missing(f"the source of {suite.release} from the package registry")
    with tarfile.open(tmp_path / f"{suite.release}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    plugins = ["-psupport.suite_leaks", "-ppytest_mock", "-ppytest_timeout"]
    options = ["-q", "-c/dev/null", "--rootdir=.", "-omarkers=network", "-Wignore", "--timeout=60"]
    environment = {
        "LOOPWRIGHT_SUITE_LEAKS": str(tmp_path / "leaks"),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "",
    }
    command = [sys.executable, "-m", "pytest", *options, *plugins, *suite.arguments]
    subprocess.run(command, cwd=tmp_path / suite.release, env=os.environ | environment, check=False)
    rows = [json.loads(line) for line in (tmp_path / "leaks").read_text().splitlines()]
    leaks = [row for row in rows if "kind" in row]
    assert len(rows) - len(leaks) >= suite.least
    new = [row for row in leaks if not any(row["kind"] == kind and test in row["test"] for kind, test in suite.known)]
    assert not new, "\n\n".join(f"{row['test']}\n{row['text']}" for row in new)
