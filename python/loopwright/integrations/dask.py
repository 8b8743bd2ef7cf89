"""Dask: ``amap(fn, items, on=client.get_executor(), limit=...)`` on a cluster. Nothing of this has to be called.

Dask sends a call again when its worker is lost, also after the call has run. With ``idempotent=False`` it must not: a
plugin on the scheduler, sent there by the first such map, gives up each call of such a map as soon as its worker is
gone, whether it ran there or its result lay there. No other work of the scheduler is touched.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import uuid
from collections.abc import Callable
from typing import Any

from loopwright.integrations._driver import load

__all__ = ["adapter"]

_PREFIX = "loopwright_once"


class _Dask:
    def __init__(self, executor: Any, idempotent: bool) -> None:
        self._distributed = load("distributed", extra="dask")
        self._executor = executor
        self._idempotent = idempotent

    def prepare(self) -> None:
        if not self._idempotent:
            self._executor._client.register_plugin(_at_most_once(self._distributed.SchedulerPlugin))

    def submit(self, fn: Callable[[Any], Any], item: Any, /) -> concurrent.futures.Future[Any]:
        options: dict[str, Any] = {"pure": False}
        if not self._idempotent:
            options |= {"key": f"{_PREFIX}-{uuid.uuid4().hex}", "retries": 0}
        client = self._executor._client
        # Not by the executor's own `submit`: a result that is lost while it is fetched never ends its future
        # (distributed 2026.8, `_cascade_future`).
        theirs = client.submit(fn, item, **(self._executor._kwargs | options))
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def ended(future: concurrent.futures.Future[Any]) -> None:
            if future.cancelled():
                theirs.cancel()

        future.add_done_callback(ended)
        client.loop.add_callback(_fetch, theirs, future)
        return future

    def is_lost(self, error: BaseException, /) -> bool:
        return isinstance(error, (_Gone, self._distributed.KilledWorker))

    def takes_more(self) -> bool:
        return True


class _Gone(Exception):
    """The scheduler knows nothing of a call any more."""


async def _fetch(theirs: Any, future: concurrent.futures.Future[Any]) -> None:
    """On the client's loop: hands the result over, and lets go of it there."""
    error: BaseException | None = None
    result = None
    try:
        result = await theirs._result()
    except asyncio.CancelledError as cancelled:
        error = _Gone(str(cancelled))
    except BaseException as raised:
        error = raised
    with contextlib.suppress(concurrent.futures.InvalidStateError):  # cancelled meanwhile, in another thread
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def adapter(executor: Any, idempotent: bool) -> _Dask:
    """What ``amap`` needs to know of a :class:`distributed.cfexecutor.ClientExecutor`."""
    return _Dask(executor, idempotent)


def _at_most_once(base: type) -> Any:
    """The plugin. Made here, so that it is pickled by value: the scheduler need not have this package."""
    prefix = _PREFIX

    class AtMostOnce(base):  # type: ignore[misc]
        name = "loopwright-at-most-once"
        idempotent = True

        async def start(self, scheduler: Any) -> None:
            self.scheduler = scheduler

        def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
            # A call that is released was under way, or its result was lost; the scheduler would send it again. One that
            # has lost what it depends on cannot be sent.
            if finish == "released" and start in ("processing", "memory") and str(key).startswith(prefix):
                task = self.scheduler.tasks.get(key)
                if task is not None:
                    task.has_lost_dependencies = True

    return AtMostOnce()
