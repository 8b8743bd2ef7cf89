"""How an instance takes its leave: /healthz, /readyz, and what the balancer and its kept connections are told.

Two connections are lost in a restart that only "finishes what it has begun":

- one that is **on its way** while the listening socket is closed: the kernel has accepted it, nobody will ever read it,
  and its client sees a reset. So first ``/readyz`` says 503 for as long as the balancer needs to notice, while all that
  still comes is served as ever; the socket is closed when nobody uses it any more.
- one that is **kept alive** and idle at the moment the server closes it, while the next request is on its way to it. So
  from the first moment on every answer says ``Connection: close``: whoever has read this sends nothing more there.
"""

from __future__ import annotations

import time
from collections import Counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.deadline import answer
from api.stats import Histogram


class Draining:
    """The outermost layer: it sees every request, its own two paths included, and every answer, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.draining = False
        self.in_flight = 0
        self.answers: Counter[int] = Counter()
        self.times = Histogram()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"] == "/healthz":
            # The loop turns: that is all an orchestrator may restart a process for. A database that is down is not
            # mended by restarting its clients.
            await answer(send, 200, "alive")
        elif scope["path"] == "/readyz":
            # Nor is the database asked here: when it is down it is down for all instances, and a balancer without any
            # ready one answers worse than they do. uvicorn listens once the lifespan has begun, so that pools are warm.
            await (answer(send, 503, "draining") if self.draining else answer(send, 200, "ready"))
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.answers[message["status"]] += 1
                if self.draining:
                    message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            await send(message)

        began = time.perf_counter()
        self.in_flight += 1
        try:
            await self.app(scope, receive, sending)
        finally:
            self.in_flight -= 1
            self.times.add(time.perf_counter() - began)
