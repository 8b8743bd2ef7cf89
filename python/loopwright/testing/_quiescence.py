"""When virtual time may jump: when nothing outside of the loop can make anything ready before the next timer.

Lives here: the question, put to everything that can wake a loop, and the count of executor jobs. Does not live here:
the proofs about threads and child processes (:mod:`._threads`) and about file descriptors (:mod:`._ends`), and what the
loop does with the answer (:mod:`._loop`, ``crates/core/src/schedule/clock.rs``).

Whatever is not proven to be quiet is outside, and time runs at the real rate: a jump could let a timeout expire that in
truth is not due. Signals that other programs may send do not count, as nobody has announced them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import signal
import socket
from asyncio import selector_events
from time import monotonic
from typing import TYPE_CHECKING, Any

from loopwright.testing._ends import Ends
from loopwright.testing._threads import Children, Threads

__all__ = ["Quiescence"]

_ARRIVAL = 0.001
"""Seconds between two looks at something that is under way between two ends of this program."""

_LONGEST_ARRIVAL = 2.0
"""Seconds after which it counts as lost, and time runs at the real rate."""


class Quiescence(asyncio.SelectorEventLoop):
    """The part of a simulated loop that knows the outside."""

    if TYPE_CHECKING:  # what asyncio's loop has and its stubs do not tell
        _selector: Any
        _ssock: Any
        _transports: Any
        _default_executor: Any
        _signal_handlers: Any

        def _serve_events(self, events: list[Any]) -> None: ...
        def _involves_thread(self) -> None: ...
        def _check_closed(self) -> None: ...
        def _check_default_executor(self) -> None: ...

    def __init__(self, selector: Any = None) -> None:
        self._jobs: dict[concurrent.futures.Future[Any], Any] = {}
        self._threads = Threads()
        self._children = Children()
        self._ends = Ends()
        super().__init__(selector)

    def _outside(self) -> str | None:
        """None when only the next timer, or nothing, can make anything ready; else what else can, in words.

        To be asked when nothing is ready, and to be followed by a second look at the ready queue: a thread may have
        put something there and ended in the meantime, or something has arrived that was under way.
        """
        for function in self._jobs.copy().values():
            return f"an executor job is running: {_described(function)}"
        if self._signal_handlers and signal.SIGALRM in self._signal_handlers:
            left, _ = signal.getitimer(signal.ITIMER_REAL)
            if left:
                return f"an alarm is set, in {left:.3f} s"
        reason = self._threads.running() or self._children.running()
        if reason is not None:
            return reason
        return self._outside_of_descriptors()

    def _outside_of_descriptors(self) -> str | None:
        until = monotonic() + _LONGEST_ARRIVAL
        while len(descriptors := self._selector.get_map()) > (self._ssock is not None):
            own = -1 if self._ssock is None else self._ssock.fileno()
            waited_for = {key.fd: key.events for key in descriptors.values() if key.fd != own}
            reason, is_under_way = self._ends.outside(waited_for, list(self._transports), self._is_private)
            if reason is not None and not (is_under_way and monotonic() < until):
                return reason
            # The loop has looked before, but something may have arrived since. Between two ends of ours that takes no
            # virtual time: the order of things would hang on the machine.
            events = self._selector.select(0 if reason is None else _ARRIVAL)
            if events or reason is None:
                self._serve_events(events)
                return None
        return None

    def _is_private(self, inode: int) -> bool:
        return not self._children.hold(inode)

    # Executor jobs

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """See ``asyncio.loop.run_in_executor``.

        A job counts as running until it has ended and its result has been handed to the loop, also when nobody waits
        for it any more: a cancel of the future does not stop the function.
        """
        self._check_closed()
        # Here, not when the result comes: from 3.14 on asyncio takes that of a quick job without a call of the loop.
        self._involves_thread()
        if executor is None:
            self._check_default_executor()
            if self._default_executor is None:
                self._default_executor = concurrent.futures.ThreadPoolExecutor(thread_name_prefix="asyncio")
            executor = self._default_executor
        noting = _Noting(executor)
        future = super().run_in_executor(noting, func, *args)  # type: ignore[arg-type]
        job = noting.job
        if job is not None:
            self._jobs[job] = func, args
            job.add_done_callback(self._jobs.pop)  # after the callback that hands over the result
        return future

    # Datagrams: where each socket has sent to

    def _make_datagram_transport(self, sock: socket.socket, *args: Any, **kwargs: Any) -> asyncio.DatagramTransport:
        self._ends.sends(sock.fileno())
        return _NotingDatagrams(self, sock, *args, **kwargs)

    async def sock_sendto(self, sock: socket.socket, data: Any, address: Any) -> int:
        """See ``asyncio.loop.sock_sendto``."""
        self._ends.sends(sock.fileno(), address)
        return await super().sock_sendto(sock, data, address)


class _Noting:
    """An executor that keeps the future of the job submitted through it, which ``run_in_executor`` does not give."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self.job: concurrent.futures.Future[Any] | None = None

    def submit(self, *args: Any) -> concurrent.futures.Future[Any]:
        self.job = self._executor.submit(*args)
        return self.job


class _NotingDatagrams(selector_events._SelectorDatagramTransport):  # type: ignore[name-defined,misc]
    """asyncio's transport, which tells the loop where it sends to."""

    def sendto(self, data: Any, addr: Any = None) -> None:
        if not self.is_closing():
            self._loop._ends.sends(self._sock_fd, addr)
        super().sendto(data, addr)


def _described(job: tuple[Any, tuple[Any, ...]]) -> str:
    """What an executor was given, seen through ``asyncio.to_thread``."""
    function: Any
    function, args = job
    while isinstance(function, functools.partial):
        function, args = function.func, (*function.args, *args)
    if isinstance(getattr(function, "__self__", None), contextvars.Context) and args:
        function = args[0]
    name = getattr(function, "__qualname__", None) or repr(function)
    module = getattr(function, "__module__", None)
    return f"{module}.{name}" if module else name
