"""A pytest plugin that checks each test of somebody else's suite for leaks and writes what it finds to a file.

Set-up and teardown are inside: what a fixture opens, it closes. Nothing is failed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from typing import Any

import pytest

from loopwright.testing import leak_checks


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    with leak_checks(fail=False, grace=2.0) as leaks:
        outcome = yield
    with open(os.environ["LOOPWRIGHT_SUITE_LEAKS"], "a", encoding="utf-8") as file:
        file.write(json.dumps({"test": item.nodeid}) + "\n")
        for leak in leaks:
            row = {"kind": leak.kind, "what": leak.what, "where": str(leak.where), "made": str(leak.created)}
            file.write(json.dumps({"test": item.nodeid, "text": str(leak), **row}) + "\n")
    return outcome
