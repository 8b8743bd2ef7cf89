"""A deadline for each request, and an honest answer where there is none in time. Pure ASGI: for any framework.

504 and 503 are told apart because clients and balancers act on them differently:

- **504**: the request was begun and did not end in time. What it did meanwhile is not known: nothing should repeat it
  blindly, and an alarm should point at what it waited for.
- **503 with Retry-After**: the request was turned away before it did anything: the line for a connection is full
  (``PoolFull``, at once) or did not move (``PoolTimeout``), or the database cannot be reached. To repeat it later is
  safe, and *later* is the point: without Retry-After, those turned away come back at once and are turned away again.

Without the line's limit an overloaded service serves nobody: every request waits nearly as long as its client does, and
the connections are spent on those that have given up.
"""

from __future__ import annotations

import json
import random

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loopwright import PoolClosed, PoolFull, PoolTimeout, timeout

TURNED_AWAY = (PoolFull, PoolTimeout, PoolClosed)


class Deadline:
    """Middleware: ``app.add_middleware(Deadline, seconds=2.0)``.

    Add it with ``add_middleware``, do not wrap the application in it: Starlette's own error handler stands outside of
    what is added, and would have answered 500 before a wrapper heard of the error.

    Args:
        app: what it protects.
        seconds: from the first byte of a request's head to the end of its answer.
        unreachable: errors that mean that something this service stands on cannot be reached.
    """

    def __init__(self, app: ASGIApp, seconds: float, unreachable: tuple[type[Exception], ...] = ()) -> None:
        self.app = app
        self.seconds = seconds
        self.refusals: tuple[type[Exception], ...] = (*TURNED_AWAY, *unreachable)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with timeout(self.seconds) as deadline:
                await self.app(scope, receive, sending)
        except self.refusals as error:
            if begun:
                raise  # the connection is cut: half an answer must not look like a whole one
            if deadline.expired() and not isinstance(error, TURNED_AWAY):  # every TimeoutError is an OSError, too
                await self._too_late(send)
                return
            # A small range, so that those turned away together do not come back together.
            await answer(send, 503, f"{type(error).__name__}: {error}", retry_after=random.randint(1, 3))
        except TimeoutError:
            if begun or not deadline.expired():
                raise
            await self._too_late(send)

    async def _too_late(self, send: Send) -> None:
        await answer(send, 504, f"not done within {self.seconds:g} s")


async def answer(send: Send, status: int, detail: str, *, retry_after: int | None = None) -> None:
    """A whole JSON answer, in FastAPI's form."""
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if retry_after is not None:
        headers.append((b"retry-after", b"%d" % retry_after))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
