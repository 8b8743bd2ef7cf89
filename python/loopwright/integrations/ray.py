"""Ray: an executor, for ``amap(fn, items, on=ray.RayExecutor(), limit=...)``."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any, TypeVar

from loopwright.integrations._driver import load

__all__ = ["RayExecutor"]

R = TypeVar("R")


class RayExecutor(concurrent.futures.Executor):
    """A :class:`concurrent.futures.Executor` whose calls are Ray tasks.

    Args:
        idempotent: True lets Ray send a call again whose worker was lost, up to three times. False: each runs at most
            once; Ray's resubmission, and its reconstruction of lost results, are off. ``amap(idempotent=...)`` decides
            for its own calls.
        **options: as for ``ray.remote(...)``: ``num_cpus=2``, ``memory=...``, ``runtime_env=...``.

    Raises:
        ImportError: Ray is not installed; it has no wheels for the newest Pythons.

    ``ray.init(...)`` is yours to call; without it the first call starts a Ray on this machine. ``future.cancel()``
    interrupts a call that runs, at its next step of Python. ``shutdown`` waits for the calls and leaves Ray itself
    running.
    """

    def __init__(self, *, idempotent: bool = False, **options: Any) -> None:
        self._ray = load("ray", extra="ray")
        self._idempotent = idempotent
        self._options = options
        self._functions: dict[Callable[..., Any], Any] = {}
        self._pending: set[concurrent.futures.Future[Any]] = set()
        self._closed = False

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[R]:
        """One Ray task.

        Raises:
            RuntimeError: after ``shutdown``.
        """
        return self._submit(self._idempotent, fn, args, kwargs)

    def _submit(
        self, idempotent: bool, fn: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> concurrent.futures.Future[R]:
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        retries = {"max_retries": 3 if idempotent else 0, "retry_exceptions": False}
        reference = self._remote(fn).options(**(self._options | retries)).remote(*args, **kwargs)
        future: concurrent.futures.Future[R] = reference.future()
        self._pending.add(future)

        def ended(future: concurrent.futures.Future[R]) -> None:
            self._pending.discard(future)
            if future.cancelled():
                self._ray.cancel(reference)

        future.add_done_callback(ended)
        return future

    def _remote(self, fn: Callable[..., Any]) -> Any:
        """Ray's handle of a function; it is sent to the cluster once."""
        try:
            if fn not in self._functions:
                self._functions[fn] = self._ray.remote(_caller(fn))
            return self._functions[fn]
        except TypeError:  # not hashable: sent each time
            return self._ray.remote(_caller(fn))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """No more calls. Ray itself goes on."""
        self._closed = True
        pending = list(self._pending)
        if cancel_futures:
            for future in pending:
                future.cancel()
        if wait:
            concurrent.futures.wait(pending)

    def loopwright_adapter(self, idempotent: bool) -> _Adapter:
        """What ``amap`` needs to know of it."""
        return _Adapter(self, idempotent)


class _Adapter:
    def __init__(self, executor: RayExecutor, idempotent: bool) -> None:
        self._executor = executor
        self._idempotent = idempotent
        errors = executor._ray.exceptions
        names = ("WorkerCrashedError", "NodeDiedError", "ObjectLostError", "LocalRayletDiedError", "OutOfMemoryError")
        self._losses = tuple(getattr(errors, name) for name in names if hasattr(errors, name))

    def prepare(self) -> None:
        if not self._executor._ray.is_initialized():
            self._executor._ray.init()

    def submit(self, fn: Callable[[Any], Any], item: Any, /) -> concurrent.futures.Future[Any]:
        return self._executor._submit(self._idempotent, fn, (item,), {})

    def is_lost(self, error: BaseException, /) -> bool:
        return isinstance(error, self._losses)

    def takes_more(self) -> bool:
        return True


def _caller(fn: Callable[..., R]) -> Callable[..., R]:
    """A function, which Ray insists on: builtins and partials are none."""

    def call(*args: Any, **kwargs: Any) -> R:
        return fn(*args, **kwargs)

    return call
