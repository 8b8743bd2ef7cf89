"""Crawls a web site into SQLite: bounded, with progress, resumable.

    loopwright run --report text examples/crawl.py          # a generated site, in a process of its own
    loopwright run --report text examples/crawl.py https://example.com/ --max-pages 200

Press Ctrl-C, or send SIGTERM: pages under way are finished, the rest stays queued, and the same command goes on from
there. Even ``kill -9`` loses at most the last batch of pages, which the next run fetches again.

Only links to the same scheme, host and port are followed. It does not read robots.txt: for your own sites.
Needs ``aiohttp`` and ``rich``.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sqlite3
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from html.parser import HTMLParser
from http import HTTPStatus
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from yarl import URL

import loopwright
from loopwright import Background, BoundedSemaphore, CancelToken, Queue, TaskGroup, amap, finish, race, timeout

ATTEMPTS = 2
PAUSE = 0.2
"""Of a page that answers with a 5xx: how often it is asked, and the seconds in between."""
MAX_REDIRECTS = 5
MAX_BYTES = 2_000_000
BATCH = 25
"""Pages that one transaction records."""


# What is stored


@dataclass(frozen=True, slots=True)
class Page:
    """What became of one page. An error is a result too."""

    path: str
    status: int | None = None
    error: str | None = None
    title: str = ""
    size: int = 0
    seconds: float = 0.0
    links: tuple[str, ...] = ()


class Store:
    """The crawl in SQLite. Its methods block: they are for threads, one at a time.

    A page is ``queued`` until the one transaction that records its result *and* the links found on it. So at any
    moment, whatever kills the program, every page that was ever found is in the database, once; and one that was under
    way is still queued, which is all that resuming takes.
    """

    SCHEMA = """
        CREATE TABLE IF NOT EXISTS crawl (site TEXT NOT NULL);
        CREATE TABLE IF NOT EXISTS pages (
            id      INTEGER PRIMARY KEY,
            path    TEXT NOT NULL UNIQUE,
            state   TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'done', 'failed')),
            status  INTEGER,
            error   TEXT,
            title   TEXT,
            size    INTEGER,
            seconds REAL
        );
    """
    RESULT = """
        UPDATE pages SET state = iif(:error IS NULL, 'done', 'failed'), status = :status, error = :error,
            title = :title, size = :size, seconds = :seconds
        WHERE path = :path
    """

    def __init__(self, file: Path, site: str, start: str) -> None:
        # Each call may come from another thread of the pool; there is never more than one at a time.
        self._db = sqlite3.connect(file, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.executescript(self.SCHEMA)
        with self._db:  # commits at its end, or rolls back
            known = self._db.execute("SELECT site FROM crawl").fetchone()
            if known is None:
                self._db.execute("INSERT INTO crawl VALUES (?)", [site])
                self._db.execute("INSERT INTO pages (path) VALUES (?)", [start])
        self.site: str = known[0] if known else site

    def save(self, pages: Iterable[Page]) -> None:
        """Records results and the links found, all or nothing."""
        with self._db:
            for page in pages:
                self._db.execute(self.RESULT, asdict(page))
                self._db.executemany("INSERT OR IGNORE INTO pages (path) VALUES (?)", [[link] for link in page.links])

    def paths(self) -> list[tuple[str, bool]]:
        """Every page that is known, in the order of discovery, and whether it is still queued."""
        return self._db.execute("SELECT path, state = 'queued' FROM pages ORDER BY id").fetchall()

    def count(self) -> dict[str, int]:
        """Pages by state."""
        return dict(self._db.execute("SELECT state, count(*) FROM pages GROUP BY state"))

    def errors(self) -> list[tuple[str, int]]:
        """Failed pages by kind of error, the most frequent first."""
        query = "SELECT error, count(*) FROM pages WHERE state = 'failed' GROUP BY error ORDER BY count(*) DESC, error"
        return self._db.execute(query).fetchall()

    def latencies(self) -> list[float]:
        """Seconds that the requests of each page took."""
        return [seconds for (seconds,) in self._db.execute("SELECT seconds FROM pages WHERE state != 'queued'")]

    def clear(self) -> None:
        """Forgets all but the first page."""
        with self._db:
            self._db.execute("DELETE FROM pages WHERE id != 1")
            self._db.execute("UPDATE pages SET state = 'queued'")

    def close(self) -> None:
        self._db.close()


# What is fetched


class Refused(Exception):
    """A page that cannot be had; its text is the kind of error that the summary counts."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One response: a page or a redirect."""

    url: URL
    status: int
    body: bytes = b""
    charset: str = "utf-8"
    location: str | None = None


class Crawler:
    """One run over one site.

    Args:
        root: where the site begins; only what has the same scheme, host and port belongs to it.
        limit: the most requests at once.
        patience: seconds for one request, from the moment it may start to the last byte; a page has five times as long
            in all: waiting for its turn, redirects, a second attempt and the pause before it.
        max_pages: the most pages that this run fetches; None for all.
        token: cancelled when it is time to stop.
    """

    def __init__(  # noqa: PLR0913 (each is a part of its own)
        self,
        root: URL,
        store: Store,
        http: aiohttp.ClientSession,
        *,
        limit: int,
        patience: float,
        max_pages: int | None,
        token: CancelToken,
    ) -> None:
        self.root = root
        self.store = store
        self.http = http
        self.token = token
        self.host = BoundedSemaphore(limit)
        self.frontier: Queue[str] = Queue()
        self.known: set[str] = set()
        self.scheduled = self.fetched = self.peak = 0
        self._patience = patience
        self._max_pages = max_pages
        self._batch: list[Page] = []

    async def run(self) -> None:
        """Fetches what is queued, and what that leads to, until nothing is left or the token is cancelled."""
        for path, queued in await asyncio.to_thread(self.store.paths):
            self._discover(path, fetch=queued)
        try:
            async with TaskGroup() as group:
                group.create_task(self._close_frontier())
                # Twice as many pages as requests: one that pauses before another attempt holds up no request.
                async with amap(self.visit, self.frontier, limit=2 * self.host.limit, ordered=False) as pages:
                    async for page in pages:
                        if page is not None:
                            await self._record(page)
                        self.frontier.task_done()
        finally:
            await self._save()

    def _discover(self, path: str, *, fetch: bool = True) -> None:
        if path not in self.known:
            self.known.add(path)
            enough = self._max_pages is not None and self.scheduled >= self._max_pages
            if fetch and not enough and not self.token.cancelled:
                self.scheduled += 1
                self.frontier.put_nowait(path)

    async def _close_frontier(self) -> None:
        """Ends the crawl: every page is done and has led to no other, or it is time to stop."""

        async def all_done() -> None:
            await self.frontier.join()

        async def told_to_stop() -> None:
            await self.token.wait()

        await race(all_done(), told_to_stop())
        self.frontier.shutdown(immediate=True)  # what it holds is dropped here, and still queued in the database

    async def _record(self, page: Page) -> None:
        self.fetched += 1
        for link in page.links:
            self._discover(link)
        self._batch.append(page)
        if len(self._batch) >= BATCH:
            await self._save()

    async def _save(self) -> None:
        batch, self._batch = self._batch, []
        if batch:
            # A thread cannot be cancelled. Without `finish` a cancel would go on at once and close the database under
            # a transaction that still runs.
            await finish(asyncio.to_thread(self.store.save, batch))

    async def visit(self, path: str) -> Page | None:
        """Fetches a page, whatever comes of it; None when it was stopped before that was known."""
        clock = Stopwatch()
        try:
            async with timeout(5 * self._patience):
                answer = await self._follow(path, clock)
                for _ in range(1, ATTEMPTS):
                    if answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                        break
                    if await self.token.sleep(PAUSE):  # without the host's permit: others use it meanwhile
                        return None
                    answer = await self._follow(path, clock)
        except TimeoutError:
            return Page(path, error="timeout", seconds=clock.seconds)
        except Refused as refused:
            return Page(path, error=str(refused), seconds=clock.seconds)
        except aiohttp.ClientError as error:
            return Page(path, error=type(error).__name__, seconds=clock.seconds)
        if answer.status >= HTTPStatus.BAD_REQUEST:
            return Page(path, answer.status, f"HTTP {answer.status}", seconds=clock.seconds)
        title, links = await asyncio.to_thread(read_html, answer)  # it computes: not on the loop
        return Page(path, answer.status, None, title, len(answer.body), clock.seconds, links)

    async def _follow(self, path: str, clock: Stopwatch) -> Answer:
        """Requests a page and goes where its redirects lead, within the site."""
        url = self.root.join(URL(path, encoded=True))
        for _ in range(1 + MAX_REDIRECTS):
            async with self.host, timeout(self._patience):
                self.peak = max(self.peak, self.host.limit - self.host.value)
                with clock:
                    answer = await self._request(url)
            if answer.location is None:
                return answer
            target = resolve(url, answer.location)
            if target is None:
                raise Refused("redirect to another site")
            url = target
        raise Refused("redirect loop")

    async def _request(self, url: URL) -> Answer:
        async with self.http.get(url, allow_redirects=False) as response:
            if response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                return Answer(url, response.status, location=response.headers["Location"])
            body = bytearray()
            if response.content_type == "text/html":  # anything else is not read: leaving drops the connection
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise Refused("too large")
            return Answer(url, response.status, bytes(body), response.charset or "utf-8")


class Stopwatch:
    """Adds up the seconds of several blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self.seconds -= time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter()


def resolve(base: URL, link: str) -> URL | None:
    """Where a link leads, without its fragment; None when that is another site, or nowhere."""
    try:
        target = base.join(URL(link.strip())).with_fragment(None)
        same = target.origin() == base.origin()
    except ValueError:  # `mailto:` has no origin; some have no meaning
        return None
    return target if same else None


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.links: list[str] = []
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_title = tag == "title"
        if tag == "a" and (link := dict(attrs).get("href")):
            self.links.append(link)

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False


def read_html(answer: Answer) -> tuple[str, tuple[str, ...]]:
    """The title of a page, and the paths of the pages of the same site that it links to."""
    try:
        html = answer.body.decode(answer.charset, errors="replace")
    except LookupError:  # a charset that nobody has heard of
        html = answer.body.decode(errors="replace")
    reader = _Reader()
    with suppress(AssertionError):  # how the parser refuses some broken declarations; what came before them counts
        reader.feed(html)
    targets = (resolve(answer.url, link) for link in reader.links)
    return reader.title.strip(), tuple(dict.fromkeys(target.raw_path_qs for target in targets if target is not None))


# What is shown


def progress_bar() -> Progress:
    """A bar on stderr; silent when that is no terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("crawling"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[active]} at once"),
        TimeElapsedColumn(),
        console=console,
        auto_refresh=False,  # we say when, on the loop: one thread less
        disable=not console.is_terminal,
    )


@asynccontextmanager
async def shown(crawler: Crawler) -> AsyncIterator[None]:
    """Shows the progress of a crawl while the block runs."""
    with progress_bar() as bar:
        task = bar.add_task("", active=0)

        def update() -> None:
            limit = crawler.host.limit
            done = len(crawler.known) - crawler.frontier.stats().unfinished
            bar.update(task, completed=done, total=len(crawler.known), active=limit - crawler.host.value)
            bar.refresh()

        # An error in here is reported, and costs the crawl nothing.
        async with Background() as jobs:
            jobs.every(0.1, update)
            yield
        update()


def summary(store: Store, crawler: Crawler, seconds: float) -> Table:
    """What the database knows, and what this run did."""
    counts = store.count()
    table = Table("", "", title=f"Crawl of {crawler.root}", show_header=False)
    table.add_row("pages done", str(counts.get("done", 0)))
    table.add_row("pages failed", str(counts.get("failed", 0)))
    for kind, number in store.errors():
        table.add_row(f"  {kind}", f"  {number}")
    table.add_row("still queued", str(counts.get("queued", 0)))
    table.add_row("this run", f"{crawler.fetched} pages in {seconds:.1f} s")
    latencies = store.latencies()
    if len(latencies) > 1:
        cuts = statistics.quantiles(latencies, n=100, method="inclusive")
        table.add_row("time per page, p50 / p99", f"{cuts[49] * 1000:.0f} ms / {cuts[98] * 1000:.0f} ms")
    table.add_row("requests at once, peak", f"{crawler.peak} (limit {crawler.host.limit})")
    return table


# The program


@asynccontextmanager
async def generated_site() -> AsyncIterator[URL]:
    """The site of ``demo_site.py`` in a process of its own; gives its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        Path(__file__).with_name("demo_site.py"),
        stdin=asyncio.subprocess.PIPE,  # it ends with its input, so it cannot outlive us
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us: the site answers until we are done
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield URL((await process.stdout.readline()).decode().strip())
    finally:
        process.stdin.close()
        await finish(process.wait())


@asynccontextmanager
async def opened(file: Path, site: str, start: str) -> AsyncIterator[Store]:
    """The database; opening and closing it may wait for the disk, so threads do it."""
    store = await asyncio.to_thread(Store, file, site, start)
    try:
        yield store
    finally:
        await finish(asyncio.to_thread(store.close))


async def main(token: CancelToken) -> int:
    """Crawls, tells what came of it, and returns the exit code."""
    options = parse_arguments()
    async with AsyncExitStack() as stack:
        root = options.url or await stack.enter_async_context(generated_site())
        # The generated site has another port each time: its database goes by a name.
        name = str(root.origin()) if options.url else "the generated site"
        store = await stack.enter_async_context(opened(options.db, name, root.raw_path_qs))
        if store.site != name:
            sys.exit(f"{options.db} holds a crawl of {store.site}, not of {name}: give another --db")
        http = await stack.enter_async_context(
            # Limits and timeouts are ours.
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None))
        )
        counts = await asyncio.to_thread(store.count)
        if options.fresh or (options.url is None and "queued" not in counts):
            await asyncio.to_thread(store.clear)
        elif len(counts) > 1:
            print(f"{options.db}: going on with {counts.get('queued', 0)} pages queued, {counts.get('done', 0)} done")

        crawler = Crawler(
            root,
            store,
            http,
            limit=options.limit,
            patience=options.timeout,
            max_pages=options.max_pages,
            token=token,
        )
        begun = time.perf_counter()
        async with shown(crawler):
            await crawler.run()
        seconds = time.perf_counter() - begun

        table = await asyncio.to_thread(summary, store, crawler, seconds)
        if options.url is None:
            async with http.get(root / "stats") as response:
                table.add_row("  as the site counted them", f"  {(await response.json())['peak']}")
        Console().print(table)
    if token.cancelled:
        print(f"stopped by {token.reason}; the same command goes on from {options.db}")
        return 128 + signal.Signals[token.reason or "SIGTERM"]  # as a shell says it: 130, 143
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Crawl a web site into SQLite. Only links to the same host are followed."
    )
    parser.add_argument("url", nargs="?", type=URL, help="where to begin (default: a generated site on this machine)")
    parser.add_argument("--limit", type=int, default=16, help="the most requests at once (default: 16)")
    parser.add_argument("--timeout", type=float, default=2.0, help="seconds that a request may take (default: 2)")
    parser.add_argument("--max-pages", type=int, help="the most pages to fetch in this run (default: all)")
    parser.add_argument("--db", type=Path, default=Path("crawl.db"), help="the database (default: crawl.db)")
    parser.add_argument("--fresh", action="store_true", help="forget what the database holds and begin anew")
    options = parser.parse_args()
    if options.url is not None and (options.url.scheme not in ("http", "https") or not options.url.host):
        parser.error(f"{options.url} is no http:// or https:// address")
    if options.limit < 1 or options.timeout <= 0:
        parser.error("--limit must be 1 or more, --timeout more than 0")
    return options


if __name__ == "__main__":
    sys.exit(loopwright.run(main))
