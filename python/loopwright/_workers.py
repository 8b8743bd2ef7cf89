"""The worker processes of :func:`loopwright.offload`: who gets which, and the end of each.

A call has a worker for itself, and a thread of ours that waits for its answer; so there is nothing that one call could
break for another. A worker that dies takes its own call with it. One whose caller has gone is killed, with the whole
process group, and the next call gets another.

Does not live here: what runs in the worker, and the messages (:mod:`._worker`).
"""

from __future__ import annotations

import contextlib
import multiprocessing.util  # it ends what is left at exit, and has to be registered for that before we are
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from loopwright import _worker
from loopwright.errors import RemoteError, WorkerLost
from loopwright.logs import bound, carry

__all__ = ["Workers"]

_IDLE = 60.0
"""Seconds after which a worker that was given nothing is ended, when another one comes back."""

_PATIENCE = 5.0
"""Seconds that a killed worker gets to be gone before nobody waits for it any more."""


class _Worker:
    """One process."""

    def __init__(self) -> None:
        self._sock, theirs = socket.socketpair()
        self._lifeline, lifeline = socket.socketpair()
        self._gone = False
        self.rests_since = 0.0
        method = "forkserver" if sys.platform == "linux" else "spawn"
        context: Any = multiprocessing.get_context(method)
        self._process = context.Process(
            target=_worker.main, args=(theirs, lifeline), name="loopwright worker", daemon=False
        )
        try:
            with _starting, theirs, lifeline:
                self._process.start()
        except BaseException:
            self._sock.close()
            self._lifeline.close()
            raise

    def wait_until_ready(self) -> None:
        """Raises :class:`WorkerLost` when it does not come up."""
        try:
            _worker.unpack(_worker.receive(self._sock))
        except (EOFError, OSError):
            raise WorkerLost(
                f"offload: the worker process ended before it was ready ({self.end()}). It imports the main module "
                "first: what a program does when it is run, and not when it is imported, belongs below "
                "`if __name__ == '__main__':`"
            ) from None

    def is_alive(self) -> bool:
        """Whether it waits for a call: nothing is to be read from it, not even the end."""
        return not select.select([self._sock], [], [], 0)[0]

    def call(self, packed: _worker.Packed) -> _worker.Received:
        """Sends a call and waits for the answer."""
        _worker.send(self._sock, packed)
        return _worker.receive(self._sock)

    def descriptors(self) -> tuple[int, ...]:
        """Our ends."""
        return self._sock.fileno(), self._lifeline.fileno(), self._process.sentinel

    def kill(self) -> None:
        """Kills it and whatever it has started. Whoever waits for its answer finds that it has gone."""
        if self._gone or self._process.pid is None:
            return
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self._process.kill()

    def end(self) -> str:
        """Makes sure that it is gone, and says how it went. Not to be called in the loop's thread."""
        self.kill()
        self._process.join(_PATIENCE)
        self._gone = True
        self._sock.close()
        self._lifeline.close()
        return _how(self._process.exitcode)


def _how(exitcode: int | None) -> str:
    if exitcode is None:
        return "it is not gone yet"
    if exitcode >= 0:
        return f"exit code {exitcode}"
    number = -exitcode
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    hint = ": the system's memory may have run out" if number == signal.SIGKILL else ""
    return f"killed by {name}{hint}"


_starting = threading.Lock()
"""One at a time: multiprocessing was not made for several threads."""


class Workers:
    """The workers of this process. Its methods are called in threads of ours, not in the loop's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._alive: set[_Worker] = set()
        self.started = self.lost = self.killed = 0

    @property
    def alive(self) -> int:
        """Workers that have not ended."""
        return len(self._alive)

    def run(self, job: Any, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs ``function(*args, **kwargs)`` in a worker."""
        named = _named(function)
        packed = _worker.pack((carry(named) if bound() else named, args, kwargs))
        worker = self._take(job)
        try:
            received = worker.call(packed)
        except (EOFError, OSError):
            how = self._drop(worker)
            self.killed += job.abandoned
            self.lost += not job.abandoned
            raise WorkerLost(f"offload: the worker process died in the middle of the call ({how})") from None
        except BaseException:
            self._drop(worker)
            raise
        if not job._on_abandon(None):
            self._drop(worker)  # The kill may be under way already.
            self.killed += 1
            raise WorkerLost("offload: the caller has gone")
        self._give_back(worker)
        return _result(received)

    def _take(self, job: Any) -> _Worker:
        while (worker := self._rested()) is not None:
            if worker.is_alive():
                if not job._on_abandon(worker.kill):
                    self._give_back(worker)
                    raise WorkerLost("offload: the caller has gone")
                return worker
            self._drop(worker)
        worker = _Worker()
        self.started += 1
        self._alive.add(worker)
        if not job._on_abandon(worker.kill):
            worker.kill()
        try:
            worker.wait_until_ready()
        except BaseException:
            self._drop(worker)
            self.killed += job.abandoned
            raise
        return worker

    def _rested(self) -> _Worker | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _give_back(self, worker: _Worker) -> None:
        now = worker.rests_since = time.monotonic()
        with self._lock:
            self._idle.append(worker)
            tired = [other for other in self._idle if now - other.rests_since > _IDLE]
            self._idle = self._idle[len(tired) :]  # The first have rested longest.
        for other in tired:
            self._drop(other)

    def _drop(self, worker: _Worker) -> str:
        how = worker.end()
        self._alive.discard(worker)
        return how

    def descriptors(self) -> set[int]:
        """Our ends of what connects us with them."""
        return {descriptor for worker in list(self._alive) for descriptor in worker.descriptors()}

    def close(self) -> None:
        """Kills all of them; what they do is lost."""
        with self._lock:
            self._idle.clear()
        workers = list(self._alive)
        for worker in workers:
            worker.kill()
        for worker in workers:
            self._drop(worker)


def _named(function: Callable[..., Any]) -> Any:
    """The function as it is to be pickled: one that ``@offloaded`` stands in front of is found through that."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    found: Any = module
    for name in getattr(function, "__qualname__", "").split("."):
        found = getattr(found, name, None)
    if found is not function and getattr(found, "__wrapped__", None) is function:
        return _worker.Original(found)
    return function


def _result(received: _worker.Received) -> Any:
    is_result, *rest = _worker.unpack(received)
    if is_result:
        return rest[0]
    pickled, words = rest
    remote = RemoteError(f'\n"""\n{words}"""')
    if pickled is None:
        remote.add_note("the error itself cannot be pickled")
        raise remote
    try:
        error = pickle.loads(pickled)
    except Exception as trouble:
        remote.add_note(f"the error itself cannot be unpickled here: {type(trouble).__name__}: {trouble}")
        raise remote from None
    error.__cause__ = remote
    raise error
