"""Running a service: from the first signal to the end of the process in bounded time."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from loopwright._launch.loops import LoopFactory, loop_factory
from loopwright._launch.supervisor import Supervisor, current
from loopwright.cancellation import CancelToken

__all__ = ["run"]

T = TypeVar("T")

_log = logging.getLogger("loopwright.run")

#: Of the grace, the share in which a main that was told to stop may end by itself, before it is cancelled.
_DRAIN = 0.6


def run(
    main: Callable[[CancelToken], Awaitable[T]] | Callable[[], Awaitable[T]],
    *,
    grace: float = 10.0,
    loop: str | LoopFactory = "auto",
) -> T:
    """Runs ``main`` on a new event loop and returns its result; SIGTERM and SIGINT end it in phases and in time.

    From the first signal on::

        stop accepting   the token is cancelled: main stops taking new work
        drain            main may end by itself, for 60 % of the grace
        cancel           main is cancelled
        close            what is left is cancelled, then async generators, executor and loop are closed

    A ``main`` without parameters knows nothing of the token and is cancelled at once. A second signal, or the end of
    ``grace``, ends the *process*, whatever blocks: a native thread that needs neither the loop nor the interpreter
    writes every Python stack and a report to standard error and exits with 128 plus the number of the signal.

    Parameters:
        main: called as ``main(token)`` if it has a required positional parameter or one named ``token``, else as
            ``main()``. The :class:`CancelToken` is cancelled at the first signal with the signal's name as reason.
        grace: seconds from the first signal to the end of the process, above 0. Counting goes on after ``run`` has
            returned, until the process has ended: a thread that nothing stops must not keep it. Under
            ``loopwright run --grace`` the command line wins.
        loop: ``"auto"`` (uvloop when installed), ``"asyncio"``, ``"uvloop"``, ``"pkg.mod:factory"`` or a callable that
            makes a loop. ``"auto"`` under ``loopwright run --loop`` is the loop chosen there.

    Returns:
        What ``main`` returned, also when it ended by itself after a signal.

    Raises:
        KeyboardInterrupt: ``main`` was cancelled because of SIGINT; exit code 130.
        SystemExit: ``main`` was cancelled because of SIGTERM; exit code 143.
        TypeError: ``main`` is not a function of at most one required parameter, or returned nothing to await.
        ValueError: ``grace`` is not a number above 0, or ``loop`` names no loop.
        RuntimeError: called while an event loop runs in this thread.
        BaseException: what ``main`` raised.

    The handlers for both signals are ours while ``main`` runs; one that the program had set before is called after
    ours, a signal that is ignored stays ignored, and ``loop.add_signal_handler`` in ``main`` replaces ours: then the
    phases are the program's, and the grace still ours. In a thread other than the main one no signal is handled.

    What is bound (:class:`loopwright.bind`) when it is called is bound in ``main``. The phases are told to the logger
    ``loopwright.run`` of :mod:`logging`, at level info. A forced end, too, leaves log lines a moment to be written.
    """
    _check_no_loop_runs()
    grace = _check_grace(grace)
    takes_token = _check_main(main)
    make_loop = loop_factory(loop)
    supervised = current()
    if supervised is not None and supervised.launched and loop == "auto":
        make_loop = supervised.make_loop
    with _supervision(main, grace) as supervisor:
        conductor = _Conductor(supervisor, takes_token=takes_token)
        with conductor.in_charge(), asyncio.Runner(loop_factory=make_loop) as runner:
            return conductor.conduct(runner, main)


class _Conductor:
    """Runs main and turns signals into phases."""

    def __init__(self, supervisor: Supervisor, *, takes_token: bool) -> None:
        self._supervisor = supervisor
        self._takes_token = takes_token
        self._token = CancelToken()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[Any] | None = None
        self._signal: int | None = None
        self._cancelled = False

    @contextmanager
    def in_charge(self) -> Iterator[None]:
        """From before the loop exists until after it is closed, signals come here."""
        supervisor = self._supervisor
        held = supervisor.take_signals()
        supervisor.handlers.append(self._on_signal)
        try:
            yield
        finally:
            supervisor.handlers.remove(self._on_signal)
            supervisor.release_signals(held)

    def conduct(self, runner: asyncio.Runner, main: Callable[..., Awaitable[T]]) -> T:
        supervisor = self._supervisor
        self._loop = runner.get_loop()
        if self._signal is not None:
            self._loop.call_soon(self._stop_accepting, self._signal)
        if supervisor.launched:  # The guard watches every loop.
            return self._conduct(runner, main)
        supervisor.watchdog.phase("run")
        stop_heart = supervisor.watch(self._loop)
        try:
            return self._conduct(runner, main)
        finally:
            stop_heart()
            supervisor.watchdog.phase("close")

    def _conduct(self, runner: asyncio.Runner, main: Callable[..., Awaitable[T]]) -> T:
        try:
            return runner.run(self._lead(main))
        except asyncio.CancelledError:
            if not self._cancelled or self._signal is None:
                raise
            if self._signal == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + self._signal) from None
        finally:
            if self._signal is not None:
                self._supervisor.drained = not self._cancelled

    async def _lead(self, main: Callable[..., Awaitable[T]]) -> T:
        self._main = asyncio.current_task()
        self._supervisor.ready()
        awaitable = main(self._token) if self._takes_token else main()
        if not inspect.isawaitable(awaitable):
            raise TypeError(
                f"main must return an awaitable, as an async function does; {main!r} returned {awaitable!r}"
            )
        return await awaitable

    def _on_signal(self, number: int) -> None:
        """In the main thread, between two bytecodes: only schedules."""
        self._signal = number
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop_accepting, number)

    def _stop_accepting(self, number: int) -> None:
        if self._main is not None and self._main.done():
            return
        watchdog = self._supervisor.watchdog
        watchdog.phase("stop accepting")
        _log.info("%s: stopping", signal.Signals(number).name)
        self._token.cancel(signal.Signals(number).name)
        if not self._takes_token:
            self._cancel()
            return
        watchdog.phase("drain")
        grace = watchdog.grace
        remaining = grace if watchdog.remaining is None else watchdog.remaining
        asyncio.get_running_loop().call_later(max(0.0, remaining - grace * (1 - _DRAIN)), self._cancel)

    def _cancel(self) -> None:
        if self._main is None:  # It has not begun.
            asyncio.get_running_loop().call_soon(self._cancel)
        elif not self._main.done():
            self._supervisor.watchdog.phase("cancel")
            _log.info("main is cancelled")
            self._cancelled = True
            self._main.cancel()


@contextmanager
def _supervision(main: Callable[..., Any], grace: float) -> Iterator[Supervisor]:
    """The supervisor of the process: that of ``loopwright run``, one that already counts, or a new one."""
    supervisor = current()
    if supervisor is not None:
        if not supervisor.grace_is_fixed:
            supervisor.watchdog.grace = grace
            supervisor.describe(grace=grace)
        yield supervisor
        return
    name = getattr(main, "__qualname__", None) or repr(main)
    supervisor = Supervisor(grace=grace, report=[], target=f"{getattr(main, '__module__', '?')}:{name}")
    supervisor.start()
    try:
        yield supervisor
    finally:
        # After a signal the clock runs until the process has ended; only then is there nothing left that could block.
        if supervisor.watchdog.arrivals == 0:
            supervisor.stop()


def _check_no_loop_runs() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("run() starts an event loop of its own; inside a running one, await main(token) instead")


def _check_grace(grace: float) -> float:
    if isinstance(grace, bool) or not isinstance(grace, (int, float)) or not math.isfinite(grace) or grace <= 0:
        raise ValueError(f"grace must be a number of seconds above 0, not {grace!r}")
    return float(grace)


def _check_main(main: Any) -> bool:
    """Whether ``main`` takes the token."""
    if inspect.iscoroutine(main):
        main.close()
        raise TypeError("main must be the function, not the coroutine it returns: run(main), not run(main())")
    if not callable(main):
        raise TypeError(f"main must be an async function, not {main!r}")
    try:
        parameters = inspect.signature(main).parameters.values()
    except (TypeError, ValueError):
        return True
    positional = [each for each in parameters if each.kind in {each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD}]
    required = [each.name for each in positional if each.default is each.empty]
    named = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY and each.default is each.empty]
    if len(required) > 1 or named:
        names = ", ".join(required + named)
        raise TypeError(f"main is called as main(token) or main(), but {main!r} requires {names}")
    return bool(required) or any(each.name == "token" for each in positional[:1])
