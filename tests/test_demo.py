"""The demo, ``examples/crawl.py``: what it finds, and what is left of it when it is stopped in the middle.

Each test serves the generated site from a thread of its own and crawls it in a process, as a user would.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support import requires

web = requires.module("aiohttp.web")
requires.module("rich")

import crawl  # noqa: E402
import demo_site  # noqa: E402
from yarl import URL  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PLAIN = [sys.executable]
LAUNCHED = [sys.executable, "-m", "loopwright", "run", "--report", "text"]
COMMANDS = [pytest.param(PLAIN, id="plain"), pytest.param(LAUNCHED, id="launched", marks=pytest.mark.default_only)]
LIMIT = 6
PAGES = 120


class HeldSite(demo_site.Site):
    """Answers so many requests for pages; those after them wait until they are let go.

    Without the page that never answers unless it is asked for: a crawl of it lasts as long as a request may take.
    """

    def __init__(self, hold_after: int | None = None, *, never: bool = False) -> None:
        self._never_too = never
        super().__init__(PAGES, latency=0.01)
        self.held = threading.Event()
        self._hold_after = hold_after
        self._gate = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.address = ""

    def let_go(self) -> None:
        assert self._loop is not None
        self._hold_after = None
        self._loop.call_soon_threadsafe(self._gate.set)

    def _links_of(self, page: int) -> list[str]:
        return [link for link in super()._links_of(page) if self._never_too or link != "/never"]

    async def _page(self, request: web.Request) -> web.Response:
        if self._hold_after is not None and self.requests.total() > self._hold_after:
            self.held.set()
            await self._gate.wait()
        return await super()._page(request)

    @contextmanager
    def served(self) -> Iterator[HeldSite]:
        started, over = threading.Event(), asyncio.Event()

        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            runner, self.address = await demo_site.serve(self)
            started.set()
            await over.wait()
            await runner.cleanup()

        thread = threading.Thread(target=asyncio.run, args=[main()])
        thread.start()
        try:
            assert started.wait(20)
            yield self
        finally:
            self._loop and self._loop.call_soon_threadsafe(over.set)
            thread.join()


def start(command: list[str], *arguments: object, db: Path) -> subprocess.Popen[str]:
    options = [f"--db={db}", f"--limit={LIMIT}", "--timeout=20"]
    return subprocess.Popen(
        [*command, str(ROOT / "examples" / "crawl.py"), *options, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (it may be ignored here)
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err


def states(db: Path) -> dict[str, str]:
    """The state of each page, in a database that is whole."""
    with closing(sqlite3.connect(db)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = connection.execute("SELECT path, state FROM pages").fetchall()
        assert len(rows) == len({path for path, _ in rows}), "a page is there twice"
        # What has a result has all of it, what is queued has none.
        assert connection.execute("SELECT count(*) FROM pages WHERE state = 'queued' AND seconds").fetchone() == (0,)
        assert connection.execute(
            "SELECT count(*) FROM pages WHERE state != 'queued' AND seconds IS NULL"
        ).fetchone() == (0,)
    return dict(rows)


def failing(site: demo_site.Site) -> dict[str, str]:
    """The pages that cannot be had, and why."""
    kinds = {"missing": "HTTP 404", "circle": "redirect loop", "never": "timeout"}
    found = {path: kinds[path.split("/")[1]] for path in site.reachable() if path.split("/")[1] in kinds}
    return found | {f"/page/{page}": "HTTP 500" for page in range(PAGES) if site.fails(page)}


def check_complete(db: Path, site: demo_site.Site) -> None:
    """Everything reachable is there, with the result it has to have."""
    found = states(db)
    assert set(found) == site.reachable()
    with closing(sqlite3.connect(db)) as connection:
        errors = dict(connection.execute("SELECT path, error FROM pages WHERE state = 'failed'"))
    assert errors == failing(site)
    assert {state for path, state in found.items() if path not in errors} == {"done"}


@pytest.mark.parametrize("command", COMMANDS)
def test_complete_run(command: list[str], tmp_path: Path) -> None:
    with HeldSite(never=True).served() as site:
        db = tmp_path / "crawl.db"
        code, out, err = finished(start(command, site.address, "--timeout=5", db=db))
    assert code == 0, err
    check_complete(db, site)
    assert site.peak == LIMIT, "never more requests at once, and as many as allowed"
    table = dict(re.findall(r"│ +(.+?) +│ +(.+?) +│", out))
    failures = failing(site)
    assert int(table["pages failed"]) == len(failures)
    assert int(table["pages done"]) == len(site.reachable()) - len(failures)
    assert {kind: int(table[kind]) for kind in set(failures.values())} == {
        kind: list(failures.values()).count(kind) for kind in failures.values()
    }
    assert table["requests at once, peak"] == f"{LIMIT} (limit {LIMIT})"
    if command is PLAIN:
        assert err == "", "no bar off a terminal, and nothing to complain of"


@pytest.mark.default_only
def test_each_page_is_fetched_once(tmp_path: Path) -> None:
    with HeldSite().served() as site:
        assert finished(start(PLAIN, site.address, db=tmp_path / "crawl.db"))[0] == 0
    expected = {f"/page/{page}": 1 + (site.fails(page) or site.fails_once(page)) for page in range(PAGES)}
    for moved in (path for path in site.reachable() if path.startswith("/moved/")):
        expected[moved.replace("moved", "page")] += 1
    assert {path: site.requests[path] for path in expected} == expected


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
def test_stopped_in_the_middle(command: list[str], number: signal.Signals, code: int, tmp_path: Path) -> None:
    """Pages under way are finished and recorded, and a second run does the rest and nothing twice."""
    db = tmp_path / "crawl.db"
    with HeldSite(hold_after=40).served() as site:
        process = start(command, site.address, db=db)
        assert site.held.wait(30)
        process.send_signal(number)
        site.let_go()
        status, out, err = finished(process)
        assert status == code, err
        assert f"stopped by {number.name}" in out
        first = states(db)
        assert set(first) <= site.reachable()
        recorded = {path for path, state in first.items() if state != "queued"}
        assert 0 < len(recorded) < len(first)
        again = {f"/page/{page}" for page in range(PAGES) if site.fails(page) or site.fails_once(page)}
        assert set(site.requests) & set(first) <= recorded | again, (
            "only the pause before a second attempt is cut short"
        )

        before = site.requests.copy()
        status, out, err = finished(start(command, site.address, db=db))
        assert status == 0, err
        assert f"going on with {len(first) - len(recorded)} pages queued" in out
        check_complete(db, site)
        moved = {path.replace("moved", "page") for path in site.reachable()}  # these are fetched under two names
        assert {path for path in recorded - moved if site.requests[path] != before[path]} == set()
        assert site.peak <= LIMIT


def test_killed_in_the_middle(tmp_path: Path) -> None:
    """Without any chance to tidy up: every page found is still there, and the next run does the rest."""
    db = tmp_path / "crawl.db"
    with HeldSite(hold_after=60).served() as site:
        process = start(PLAIN, site.address, db=db)
        assert site.held.wait(30)
        process.kill()
        assert finished(process)[0] == -signal.SIGKILL
        first = states(db)
        assert first
        assert set(first) <= site.reachable()
        site.let_go()
        assert finished(start(PLAIN, site.address, db=db))[0] == 0
        check_complete(db, site)


def test_cancelled_while_pages_hang(tmp_path: Path) -> None:
    """When pages do not end within the time to drain, they are given up, and are still queued."""
    db = tmp_path / "crawl.db"
    with HeldSite(hold_after=40).served() as site:
        process = start([*LAUNCHED, "--grace", "1"], site.address, db=db)
        assert site.held.wait(30)
        process.send_signal(signal.SIGTERM)
        status, _, err = finished(process)
        assert status == 143, err
        first = states(db)
        assert sum(state != "queued" for state in first.values()) > 0, "what was fetched before is recorded"
        site.let_go()
        assert finished(start(PLAIN, site.address, db=db))[0] == 0
        check_complete(db, site)


@pytest.mark.default_only
def test_max_pages_is_per_run(tmp_path: Path) -> None:
    db = tmp_path / "crawl.db"
    with HeldSite().served() as site:
        for run in (1, 2):
            assert finished(start(PLAIN, site.address, "--max-pages", 10, db=db))[0] == 0
            assert sum(state != "queued" for state in states(db).values()) == 10 * run


@pytest.mark.default_only
def test_a_database_belongs_to_one_site(tmp_path: Path) -> None:
    db = tmp_path / "crawl.db"
    with HeldSite().served() as site:
        assert finished(start(PLAIN, site.address, "--max-pages", 1, db=db))[0] == 0
    code, _, err = finished(start(PLAIN, "http://127.0.0.1:1/", db=db))
    assert code == 1
    assert f"holds a crawl of {site.address.rstrip('/')}, not of http://127.0.0.1:1" in err


@pytest.mark.default_only
def test_generated_site(tmp_path: Path) -> None:
    """What ``make demo`` shows: the site in a process of its own, which counts as well, and the health report."""
    code, out, err = finished(start(LAUNCHED, "--timeout=2", "--limit=16", db=tmp_path / "crawl.db"))
    assert code == 0, err
    table = dict(re.findall(r"│ +(.+?) +│ +(.+?) +│", out))
    assert table["still queued"] == "0"
    assert table["as the site counted them"] == "16"


@pytest.mark.parametrize(
    ("link", "path"),
    [
        ("b?q=1#top", "/a/b?q=1"),
        ("/c", "/c"),
        ("", "/a/"),
        ("//other.example/", None),
        ("https://site.example/", None),
        ("http://site.example:8080/", None),
        ("mailto:somebody@site.example", None),
        ("javascript:void(0)", None),
        ("http://[", None),
    ],
)
def test_links_within_the_site(link: str, path: str | None) -> None:
    target = crawl.resolve(URL("http://site.example/a/"), link)
    assert (target and target.raw_path_qs) == path


def test_html_that_is_broken() -> None:
    html = b"<title>One</title><a href=/1><a href='/1'>again</a><a>none</a><![broken <a href=/2>"
    title, links = crawl.read_html(crawl.Answer(URL("http://site.example/"), 200, html, "no-such-charset"))
    assert title == "One"
    assert links[0] == "/1"


def test_site_does_not_outlive_its_input() -> None:
    program = [sys.executable, ROOT / "examples" / "demo_site.py", "--pages", "10"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as site:
        assert site.stdin is not None
        assert site.stdout is not None
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\n", site.stdout.readline())
        site.stdin.close()
        assert site.wait(20) == 0
