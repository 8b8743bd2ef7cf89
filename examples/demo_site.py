"""A web site to crawl: some hundreds of generated pages on loopback, with the troubles of a real one.

    python examples/demo_site.py --pages 600 --port 8080

It prints its address and serves until its standard input ends (so that it never outlives the program that started it)
or Ctrl-C. ``/stats`` tells how many requests it saw, and how many at once.

Everything about it follows from ``--pages`` and ``--seed``, so that a crawl has a right answer: ``Site.reachable()``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable

from aiohttp import web

__all__ = ["Site", "serve"]

FAILS, FAILS_ONCE = 11, 13
"""Which of every 50 pages."""


class Site:
    """The pages, and what the server sees of those who read them.

    Page ``n`` links to pages ``2n+1`` and ``2n+2``, so that all are reachable, and to a few others at random. Of every
    20 pages one is slow; of every 50 one fails always and one at the first attempt. Some links lead into trouble:
    to a redirect, to a redirect that goes round in a circle, to nowhere, to another site, to a page that never answers.
    """

    def __init__(self, pages: int = 600, *, seed: int = 1, latency: float = 0.1) -> None:
        self.pages = pages
        self.requests: Counter[str] = Counter()
        self.peak = 0
        self._busy: set[asyncio.Transport] = set()
        self._latency = latency
        self._random = random.Random(seed)
        self._links = [self._links_of(page) for page in range(pages)]
        self._delays = [self._delay_of(page) for page in range(pages)]

    def _links_of(self, page: int) -> list[str]:
        children = [child for child in (2 * page + 1, 2 * page + 2) if child < self.pages]
        others = [self._random.randrange(self.pages) for _ in range(5)]
        links = [f"/page/{number}" for number in children + others]
        match page % 50:
            case 3:
                links.append(f"/moved/{page}")
            case 5:
                links.append(f"/missing/{page}")
            case 7:
                links += [
                    "/circle/1",
                    "/never",
                    "https://example.com/",
                    "mailto:nobody@example.com",
                    f"/page/{page}#top",
                ]
        return links

    def _delay_of(self, page: int) -> float:
        ordinary = self._random.uniform(0.2, 1.0) * self._latency
        return ordinary if page % 20 else 10 * ordinary

    def fails(self, page: int) -> bool:
        """Whether the page answers every request with a 500."""
        return page % 50 == FAILS

    def fails_once(self, page: int) -> bool:
        """Whether only the first request for it fails."""
        return page % 50 == FAILS_ONCE

    def reachable(self) -> set[str]:
        """The path of every page that a crawl of the whole site finds, the failing ones included."""
        found = {"/"}
        for page, links in enumerate(self._links):
            if not self.fails(page):
                found |= {link.partition("#")[0] for link in links if link.startswith("/")}
        return found

    # The server

    def app(self) -> web.Application:
        """The site as an application of aiohttp."""
        app = web.Application(middlewares=[self._count])
        app.router.add_get("/", self._page)
        app.router.add_get("/page/{number}", self._page)
        app.router.add_get("/moved/{number}", self._moved)
        app.router.add_get("/circle/{number}", self._circle)
        app.router.add_get("/never", self._never)
        app.router.add_get("/stats", self._stats)
        return app

    @web.middleware
    async def _count(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path == "/stats":
            return await handler(request)
        self.requests[request.path] += 1
        connection = request.transport
        assert connection is not None
        self._busy.add(connection)
        # A client that gave up is gone before its handler is told.
        self.peak = max(self.peak, sum(not connection.is_closing() for connection in self._busy))
        try:
            return await handler(request)
        finally:
            self._busy.discard(connection)

    async def _page(self, request: web.Request) -> web.Response:
        page = int(request.match_info.get("number", 0))
        await asyncio.sleep(self._delays[page])
        if self.fails(page) or (self.fails_once(page) and self.requests[request.path] == 1):
            raise web.HTTPInternalServerError
        links = "\n".join(f'<li><a href="{link}">{link}</a></li>' for link in self._links[page])
        html = f"<!doctype html><title>Page {page}</title><h1>Page {page}</h1><ul>\n{links}\n</ul>"
        return web.Response(text=html, content_type="text/html")

    async def _moved(self, request: web.Request) -> web.Response:
        raise web.HTTPFound(f"/page/{request.match_info['number']}")

    async def _circle(self, request: web.Request) -> web.Response:
        raise web.HTTPFound("/circle/2" if request.match_info["number"] == "1" else "/circle/1")

    async def _never(self, request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def _stats(self, request: web.Request) -> web.Response:
        return web.json_response({"requests": self.requests.total(), "peak": self.peak})


async def serve(site: Site, port: int = 0) -> tuple[web.AppRunner, str]:
    """Starts to serve on loopback, on any free port by default.

    Returns:
        The runner, whose ``cleanup()`` ends it, and the site's address.
    """
    # A handler whose client has gone is cancelled: otherwise /never would pile up.
    runner = web.AppRunner(site.app(), handler_cancellation=True, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    host, port = runner.addresses[0][:2]
    return runner, f"http://{host}:{port}/"


async def main() -> None:
    parser = argparse.ArgumentParser(description="A web site to crawl.")
    parser.add_argument("--pages", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    options = parser.parse_args()

    site = Site(options.pages, seed=options.seed)
    runner, address = await serve(site, options.port)
    print(address, flush=True)
    try:
        await _end_of_input()
    finally:
        await runner.cleanup()


async def _end_of_input() -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def read() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=read, daemon=True).start()  # a thread: an input that is a file or /dev/null ends as well
    await ended.wait()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
