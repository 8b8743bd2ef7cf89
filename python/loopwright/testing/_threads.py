"""Who else runs in this program: other threads and child processes, and the proof that they sleep.

Lives here: the proof that no other thread can act before this one does something, and which children are alive. Does
not live here: file descriptors (:mod:`._ends`), what follows for the time (:mod:`._quiescence`).

The proof, on Linux: the kernel counts how often a thread was put on a CPU, so one whose count stands still has not run;
one that is listed as sleeping has not been woken either. If both hold for all the others over a moment in which this
thread let go of the interpreter lock, none of them waits for that lock, so each is blocked where its Python frame says;
and if what it is blocked in ends only when another thread gives it something, it stays blocked until this one does.
Frames alone would prove nothing: a worker that has just taken a job and waits for the lock looks like one that waits
for a job.
"""

from __future__ import annotations

import concurrent.futures.thread
import contextlib
import functools
import inspect
import itertools
import linecache
import operator
import os
import queue
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from time import clock_gettime_ns, monotonic, pthread_getcpuclockid, sleep
from types import CodeType, FrameType
from typing import Any

from loopwright import offloading

__all__ = ["Children", "Threads", "bystander"]

_TASKS = "/proc/self/task"
"""A directory for each thread of the operating system."""

_ONE_THREAD = 3
"""Links of that directory in a program of one thread."""

_SETTLING = 20
"""How often a thread that has just handed in its result is looked at again: it needs a moment to go to sleep."""

_USUAL_START = 0.005
_LONGEST_START = 1.0
"""Seconds that a thread which is awake when a loop is made gets to go to sleep; more, if it has hardly run yet."""

_YOUNG = 5_000_000
"""CPU time in ns that a thread needs to start."""

_MOMENT = 0.00005
"""Seconds between those looks."""

_BYSTANDERS = ("_pydev", "debugpy", "execnet", "pydevd", "pytest_timeout", "tqdm", "xdist")
"""Modules whose threads do nothing that a program waits for: debuggers, test runners, progress bars."""

_WRITER = b"loopwright-logs\n"
"""What the kernel calls the thread of a :class:`loopwright.LogSink`, which is not Python's and wakes nobody."""

_bystanders: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def bystander(thread: threading.Thread) -> threading.Thread:
    """Declares that a thread does nothing that a simulated loop waits for, and returns it.

    A running thread holds virtual time to the real rate, for it could wake the loop at any moment. A heartbeat or an
    exporter of metrics never does. Threads of debuggers, pytest-timeout, pytest-xdist and tqdm are known.

    Example::

        bystander(threading.Thread(target=send_metrics, daemon=True)).start()
    """
    _bystanders.add(thread)
    return thread


def _cpu_time(tid: int) -> int:
    """CPU time of a thread in ns; -1 when it has ended."""
    try:
        return clock_gettime_ns((~tid << 3) | 6)  # MAKE_THREAD_CPUCLOCK(tid, CPUCLOCK_SCHED) of Linux
    except OSError:
        return -1


def _runs(tid: int) -> object:
    """What changes whenever a thread runs; None when it has ended.

    The kernel counts how often it was put on a CPU. CPU time alone would not do: on a virtual machine whose host is
    busy, short runs take none.
    """
    if not _COUNTS_RUNS:
        return _cpu_time(tid)
    try:
        return _read(f"{_TASKS}/{tid}/schedstat")
    except OSError:
        return None


def _read(path: str) -> bytes:
    """A file of the kernel's; open() takes five times as long."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)


def _sleeps(tid: int) -> bool:
    """Whether a thread sleeps; one that was woken does not, even before it gets to run."""
    try:
        return _read(f"{_TASKS}/{tid}/stat").rpartition(b")")[2].split(None, 1)[0] == b"S"
    except (FileNotFoundError, ProcessLookupError):
        return True  # it has ended


def _writes_logs(tid: int) -> bool:
    """Whether a thread only writes what was logged: a bystander that :mod:`threading` does not know."""
    try:
        return _read(f"{_TASKS}/{tid}/comm") == _WRITER
    except OSError:
        return False


def _sleeps_on_a_lock(tid: int) -> bool:
    """Whether a thread waits for a lock, or for a time to pass, and not for data, which may come from anywhere."""
    try:
        where = _read(f"{_TASKS}/{tid}/wchan")
    except OSError:
        where = b""
    if where in (b"", b"0"):  # it runs, or this kernel does not tell
        return _sleeps(tid)
    return where.startswith((b"futex", b"hrtimer", b"do_nanosleep"))


def _has_proofs() -> bool:
    """Whether this system shows threads, and tells when they run."""
    try:
        own = threading.get_native_id()
        return os.stat(_TASKS).st_nlink >= _ONE_THREAD and not _sleeps(own) and _cpu_time(own) != _cpu_time(own)
    except (OSError, IndexError):
        return False


def _counts_runs() -> bool:
    try:
        return int(_read(f"{_TASKS}/{threading.get_native_id()}/schedstat").split()[2]) > 0
    except (OSError, IndexError):
        return False


_CAN_ASK_FOR_CHILDREN = hasattr(os, "waitid")
_COUNTS_RUNS = _counts_runs()
_PROOFS = sys.platform == "linux" and _has_proofs()


def _stack(frame: FrameType | None) -> Iterable[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_bystander(thread: threading.Thread | None, frame: FrameType | None) -> bool:
    if thread is not None:
        if thread in _bystanders:
            return True
        called = getattr(thread, "function", None)  # of a threading.Timer: all its frames are of threading
        if str(getattr(called, "__module__", "")).startswith(_BYSTANDERS):
            return True
    return any(str(outer.f_globals.get("__name__", "")).startswith(_BYSTANDERS) for outer in _stack(frame))


_pool_queues: Any = getattr(concurrent.futures.thread, "_threads_queues", {})
"""The queue from which each worker of a thread pool takes its jobs."""


def _code(function: object) -> CodeType | None:
    return getattr(function, "__code__", None)


_pool_worker = _code(getattr(concurrent.futures.thread, "_worker", None))
_offload_worker = _code(offloading._work)
_condition_wait = _code(threading.Condition.wait)  # Queue.get, Event.wait, Barrier.wait stand on it
_joins = {_code(threading.Thread.join), _code(getattr(threading.Thread, "_wait_for_tstate_lock", None))} - {None}


def _unless_woken(thread: threading.Thread | None, frame: FrameType | None, tid: int) -> Callable[[], bool] | None:
    """Says whether a thread, if it is blocked at all, is so until another thread of this program gives it something.

    Returns None if not; else what is true as long as nobody has. An empty queue would not do for that: since CPython
    3.13 a ``SimpleQueue`` hands an item to who waits for it, and never has it itself.
    """
    if thread is None or frame is None:
        return None
    if frame.f_code is _pool_worker:  # its jobs and initializers have frames of their own
        jobs = _pool_queues.get(thread)
        return functools.partial(_sleeps, tid) if jobs is not None and jobs.empty() else None
    if frame.f_code is _offload_worker:  # the same
        return functools.partial(_sleeps, tid)
    taken_from = _queue_taken_from(frame)
    if taken_from is not None:
        return functools.partial(_sleeps, tid) if taken_from.empty() else None
    is_for_ever = frame.f_locals.get("timeout", 0) in (None, -1)
    if is_for_ever and (frame.f_code is _condition_wait or frame.f_code in _joins):
        return functools.partial(_sleeps, tid)
    return None


_GET = re.compile(r"([A-Za-z_][\w.]*)\.get\((?:block=True|True)?\)")


def _queue_taken_from(frame: FrameType) -> queue.SimpleQueue[Any] | None:
    """The ``SimpleQueue`` from whose ``get()`` a frame has not returned yet: that is C's and has no frame."""
    place = next(itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), None)
    if place is None or None in place or place[0] != place[1]:
        return None
    line, _, begins, ends = place
    called = linecache.getline(frame.f_code.co_filename, line or 0).encode()[begins:ends].decode(errors="replace")
    match = _GET.fullmatch(called)
    if match is None:
        return None
    first, *rest = match[1].split(".")
    found = frame.f_locals.get(first, frame.f_globals.get(first))
    for name in rest:
        found = inspect.getattr_static(found, name, None)  # runs nobody's code
    return found if type(found) is queue.SimpleQueue else None


def _process_pool_threads(threads: Iterable[threading.Thread]) -> dict[Any, dict[int, Any]]:
    """The threads that run process pools, and the jobs of each pool.

    A pool without jobs waits for this program: its threads for jobs, or for processes that have nothing to do.
    """
    manager: Any = getattr(sys.modules.get("concurrent.futures.process"), "_ExecutorManagerThread", None)
    found: dict[Any, dict[int, Any]] = {}
    for thread in () if manager is None else threads:
        if isinstance(thread, manager):
            jobs = getattr(thread, "pending_work_items", None)
            if jobs is not None:
                found[thread] = jobs
                found[getattr(getattr(thread, "call_queue", None), "_thread", None)] = jobs
    found.pop(None, None)
    return found


def _name(thread: threading.Thread | None, frame: FrameType | None, tid: int) -> str:
    who = f"thread {thread.name!r}" if thread is not None else f"a thread that threading does not know ({tid})"
    if frame is None:
        return f"{who} is running"
    return f"{who} is running: {frame.f_code.co_qualname}, {frame.f_code.co_filename}:{frame.f_lineno}"


class Threads:
    """The other threads, from the moment on at which this was made."""

    def __init__(self) -> None:
        self._older: dict[int, object] = {}
        self._older_objects: Iterable[threading.Thread] = ()
        self._idle: dict[int, tuple[object, Callable[[], bool]]] = {}
        self._bystanders: dict[int, bool] = {}
        self._last: int | None = None
        if not _PROOFS:
            self._older_objects = weakref.WeakSet(threading.enumerate())
        elif os.stat(_TASKS).st_nlink != _ONE_THREAD:
            self._older = _asleep_with_runs()

    def running(self) -> str | None:
        """None when no other thread can act before this one does; else which, in words.

        Threads that waited through all the time since this was made are let be, as they know nothing of the loop; not
        those that wait for data, which may bring them something for it. So are idle workers of pools, threads blocked
        in ``Queue.get()`` and the like, and bystanders.
        """
        if not _PROOFS:
            return self._running_by_frames()
        count = os.stat(_TASKS).st_nlink - _ONE_THREAD
        if count == 0 or self._all_are_known_to_sleep(count):
            return None
        found = self._look()
        for _ in range(_SETTLING):
            if found is None or found[0] == self._last:
                break
            sleep(_MOMENT)
            found = self._look()
        self._last, reason = found or (None, None)
        return reason

    def _look(self) -> tuple[int, str] | None:
        """The first thread that runs, and the words for it."""
        own = threading.get_native_id()
        threads = {thread.native_id: thread for thread in threading.enumerate()}
        others = [tid for tid in map(int, os.listdir(_TASKS)) if tid != own]
        writers = {tid: _runs(tid) for tid in others if tid not in threads and _writes_logs(tid)}
        others = [tid for tid in others if tid not in writers]
        suspects = [tid for tid in others if not self._is_known_to_sleep(tid)]
        if not suspects:
            self._idle |= {tid: (runs, _always) for tid, runs in writers.items()}
            return None
        asleep = {tid for tid in others if _sleeps(tid)}
        before = {tid: _runs(tid) for tid in others}
        # One that slept when it was looked at may have been woken since, by one that was looked at after it.
        suspects += [tid for tid in others if tid not in suspects and before[tid] != self._runs_when_asleep(tid)]
        pools = _process_pool_threads(threads.values())
        idle: dict[int, tuple[object, Callable[[], bool]]] = {}
        for tid in [tid for tid in suspects if threads.get(tid) in pools]:
            jobs = pools[threads[tid]]
            if jobs or tid not in asleep:
                return tid, "a job of a process pool is running"
            idle[tid] = before[tid], functools.partial(operator.not_, jobs)
            suspects.remove(tid)
        # Not taken without need: a thread that ends while its frames are held leaves them to the garbage collector, and
        # that of CPython 3.13.0 stumbles over what multiprocessing's have.
        frames = _frames_by_tid(threads) if suspects else {}
        for tid in suspects:
            thread, frame = threads.get(tid), frames.get(tid)
            if _is_bystander(thread, frame):
                continue
            still = _unless_woken(thread, frame, tid)
            if still is None or tid not in asleep:
                return tid, _name(thread, frame, tid)
            idle[tid] = before[tid], still
        moved = _moved(before, len(writers)) if idle else None
        if moved is not None:
            return moved, _name(threads.get(moved), None, moved)
        idle |= {tid: (runs, _always) for tid, runs in writers.items()}
        self._idle = {tid: known for tid, known in self._idle.items() if tid in before} | idle
        return None

    def _all_are_known_to_sleep(self, count: int) -> bool:
        """The common case: as many others as before, and none has moved."""
        known = {*self._older, *self._idle} - {threading.get_native_id()}
        return len(known) == count and all(map(self._is_known_to_sleep, known))

    def _is_known_to_sleep(self, tid: int) -> bool:
        idle = self._idle.get(tid)
        if idle is not None and idle[1]() and _runs(tid) == idle[0]:
            return True
        older = self._older.get(tid)
        if older is None:
            return False
        rests = _sleeps_on_a_lock(tid) or (self._is_sleeping_bystander(tid) and _sleeps(tid))
        return rests and _runs(tid) == older

    def _runs_when_asleep(self, tid: int) -> object:
        """What a thread had run when it was proven to sleep."""
        idle = self._idle.get(tid)
        return self._older.get(tid) if idle is None else idle[0]

    def _is_sleeping_bystander(self, tid: int) -> bool:
        """pytest-xdist's worker has a thread that reads a pipe, for example: it takes nothing that is a program's."""
        known = self._bystanders.get(tid)
        if known is None:
            threads = {thread.native_id: thread for thread in threading.enumerate()}
            known = self._bystanders[tid] = _is_bystander(threads.get(tid), _frames_by_tid(threads).get(tid))
        return known

    def _running_by_frames(self) -> str | None:
        frames = sys._current_frames()
        for thread in set(threading.enumerate()) - {threading.current_thread(), *self._older_objects}:
            frame = frames.get(thread.ident or 0)
            if not _is_bystander(thread, frame) and _unless_woken(thread, frame, 0) is None:
                return _name(thread, frame, thread.native_id or 0)
        return None


_restless: set[int] = set()
"""Threads that did not go to sleep when a loop waited for that once: the next one does not wait for them again."""


_asleep_at: dict[int, object] = {}
"""What a thread had run when a loop that was made last saw it asleep: most never run again."""


def _asleep_with_runs() -> dict[int, object]:
    """The threads that sleep, and what they have run; those that are just starting get time to go to sleep first."""
    own = threading.get_native_id()
    threads = [int(tid) for tid in os.listdir(_TASKS)]
    found = {tid: _runs(tid) for tid in threads}
    awake = {tid for tid in threads if tid != own and _asleep_at.get(tid) != found[tid] and not _sleeps(tid)}
    began = monotonic()
    while (starting := awake - _restless) and monotonic() - began < _LONGEST_START:
        sleep(_MOMENT)
        is_late = monotonic() - began > _USUAL_START
        awake = {tid for tid in awake if not _sleeps(tid)}
        _restless.update(tid for tid in starting & awake if is_late and _cpu_time(tid) > _YOUNG)
    _restless.update(awake)
    for tid in threads:
        since = _runs(tid)
        if tid == own or _asleep_at.get(tid) == since:
            found[tid] = since
        elif tid not in awake and _sleeps(tid):
            found[tid] = _asleep_at[tid] = since
        else:
            found.pop(tid)
    for gone in _asleep_at.keys() - threads:
        del _asleep_at[gone]
    return found


def _always() -> bool:
    return True


def _moved(before: dict[int, object], others: int) -> int | None:
    """A thread that does not sleep, or has run since then; 0 if one has been started besides ``others``."""
    sleep(0)  # lets go of the interpreter lock: whoever waits for it is woken
    for tid, then in before.items():
        if not _sleeps(tid) or _runs(tid) != then:
            return tid
    return None if os.stat(_TASKS).st_nlink - _ONE_THREAD == len(before) + others else 0


def _frames_by_tid(threads: dict[int | None, threading.Thread]) -> dict[int, FrameType]:
    frames = sys._current_frames()
    found = {tid: frames.pop(thread.ident) for tid, thread in threads.items() if tid and thread.ident in frames}
    for ident, frame in frames.items():  # of threads that were started without threading
        if _is_bystander(None, frame):
            found[_tid_of_foreign(ident)] = frame
    return found


def _tid_of_foreign(ident: int) -> int:
    return ~(pthread_getcpuclockid(ident) >> 3)  # the inverse of what _cpu_time does


class Children:
    """The child processes, from the moment on at which this was made."""

    def __init__(self) -> None:
        self._older = set(_living_children() or ()) if _has_children() else set()
        self._older_alive: set[int] = set()
        """As of the last look."""
        self._not_held: set[int] = set()

    def running(self) -> str | None:
        """None when no child process lives that was started since this was made; else which, in words.

        Most children are seen by their pipes too, but one that is polled (``while process.poll() is None``) is not, nor
        is one that is about to connect to a server of ours. Helpers of multiprocessing do not count.
        """
        self._older_alive.clear()
        if not _has_children():
            return None
        children = _living_children()
        if children is None:
            return "a child process is running (this system does not tell which)"
        helpers = _helpers()
        for pid, name in children.items():
            if pid in self._older:
                self._older_alive.add(pid)
            elif pid not in helpers:
                return f"a child process is running: {name} (pid {pid})"
        return None

    def hold(self, inode: int) -> bool:
        """Whether an older child, or a descendant of one, has this pipe or socket open too, or may have."""
        if not self._older_alive or inode in self._not_held:
            return False
        if any(_holds(pid, inode) for pid in self._older_alive):
            return True
        self._not_held.add(inode)  # nor will they ever: descriptors are only inherited
        return False


def _holds(pid: int, inode: int) -> bool:
    wanted = {f"socket:[{inode}]", f"pipe:[{inode}]"}
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(f"/proc/{pid}/fd/{fd}") in wanted:
                    return True
        children = [child for tid in os.listdir(f"/proc/{pid}/task") for child in _children_of(pid, tid)]
    except (FileNotFoundError, ProcessLookupError):
        return False  # it has ended
    except OSError:
        return True
    return any(_holds(child, inode) for child in children)


def _has_children() -> bool:
    if not _CAN_ASK_FOR_CHILDREN:
        return False  # asyncio's own subprocesses are seen by their pipes, and by the thread that waits for them
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _living_children() -> dict[int, str] | None:
    """Name by process id; None when this system does not tell."""
    alive: dict[int, str] = {}
    try:
        for tid in os.listdir(_TASKS):
            for pid in _children_of("self", tid):
                try:
                    name, _, rest = _read(f"/proc/{pid}/stat").partition(b"(")[2].rpartition(b")")
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if rest.split(None, 1)[0] not in (b"Z", b"X"):
                    alive[pid] = name.decode(errors="replace")
    except OSError:
        return None
    return alive


def _children_of(pid: int | str, tid: str) -> list[int]:
    try:
        return [int(child) for child in _read(f"/proc/{pid}/task/{tid}/children").split()]
    except FileNotFoundError:
        if os.path.exists(f"/proc/{pid}/task/{tid}"):
            raise PermissionError("this kernel does not list children") from None
        return []  # the thread has ended


def _helpers() -> set[int]:
    """Children that only serve multiprocessing, and say nothing unless asked."""
    found: set[int] = set()
    for module, holder, attribute in (
        ("multiprocessing.resource_tracker", "_resource_tracker", "_pid"),
        ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid"),
    ):
        pid = getattr(getattr(sys.modules.get(module), holder, None), attribute, None)
        if pid is not None:
            found.add(pid)
    for thread, jobs in _process_pool_threads(threading.enumerate()).items():
        if not jobs:
            found.update(getattr(thread, "processes", None) or ())
    return found
