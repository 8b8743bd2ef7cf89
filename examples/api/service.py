"""The process: uvicorn in the hands of ``loopwright.run``.

    API_DATABASE=postgresql://... API_CACHE=redis://... python -m api.service

At SIGTERM, in this order and within ``API_GRACE`` seconds whatever happens:

1. ``/readyz`` says 503 and every answer ``Connection: close``; all requests are served. The balancer has
   ``API_DRAIN_DELAY`` seconds to look elsewhere.
2. uvicorn closes the listening socket and waits for the requests under way; each has a deadline, so that this ends.
3. The lifespan ends, in the reverse order of its beginning: the refresher, the pools, the connections.
4. The process exits with 0. A second signal, or the end of the grace, ends it at once, and says what it was doing.

uvicorn by itself begins with 2, and with its own signal handlers nothing bounds 2 and 3.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial

import uvicorn

import loopwright
from api.app import Settings, create_app
from api.draining import Draining


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: ``loopwright.run`` has them."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(token: loopwright.CancelToken, settings: Settings) -> None:
    """Serves until it is told to stop, and then until nothing is left to do."""
    items = create_app(settings)
    app = items.state.requests = Draining(items)  # /stats shows what it counts
    server = Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            lifespan="on",
            access_log=False,
            log_level="warning",
            # Longer than any client or balancer keeps an idle connection: who closes first must not be the server.
            timeout_keep_alive=75,
            timeout_graceful_shutdown=int(settings.deadline) + 1,
        )
    )

    async def stop() -> None:
        await token.wait()
        app.draining = True
        await asyncio.sleep(settings.drain_delay)
        server.should_exit = True

    async with loopwright.TaskGroup() as group:
        group.create_task(stop())
        await server.serve()
        group.cancel()


def settings_from_environment() -> Settings:
    """``API_DEADLINE=1.5`` is the setting ``deadline``."""
    given = {field: os.environ.get(f"API_{field.name.upper()}") for field in fields(Settings)}
    kinds = {"float": float, "int": int, "str": str}
    return Settings(**{field.name: kinds[str(field.type)](text) for field, text in given.items() if text is not None})


if __name__ == "__main__":
    chosen = settings_from_environment()
    loopwright.run(partial(serve, settings=chosen), grace=chosen.grace)
