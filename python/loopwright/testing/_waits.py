"""What a task waits for: the library's frame, operation or future at the end of its chain, in words.

Lives here: how to recognise the primitives of asyncio, anyio and Loopwright, and what is missing to wake who waits in
one. Does not live here: who is to provide it, see :mod:`loopwright.testing._holders`.

Below the innermost frame of the program's own code are frames of libraries; the outermost of these that is known is
the call that the program made: ``Queue.join()``, not the ``Event.wait()`` in it. Locals are read of such library frames
alone.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from loopwright import _loopwright as native
from loopwright.testing._awaits import OPERATION, Step, future_of, is_user, locals_of, module_of, referents

__all__ = ["Holder", "Waiting", "describe", "name_of", "recognise"]

Needs = Literal["permit", "item", "room", "flag", "tasks", "time", "outside", "future"]


@dataclass(frozen=True, slots=True)
class Holder:
    """A task that has what another waits for."""

    task: asyncio.Task[Any]
    certain: bool
    """It is in the body of an ``async with`` on the very object, or the object itself names it. Otherwise all that is
    known is that it refers to the object and does not wait for it."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a suspended task waits for."""

    operation: str
    """``Queue.get``, ``sleep``, ``gather``."""
    needs: Needs
    """What would wake it: a permit that is released, an item, room for one, a flag (an event, a condition, a token),
    the end of tasks, time, something outside of the loop, or a bare future."""
    object: Any
    """The primitive or the future."""
    text: str
    """In a few words: ``waits in Queue.get()``, ``sleeps 1.0 s``."""
    missing: str = ""
    """What nobody can do, if nobody wakes it: ``put into it``."""
    state: str = ""
    """The object's state, as far as it says why it waits: ``empty``, ``3 unfinished``."""
    futures: tuple[Any, ...] = ()
    """The tasks and futures that have to end first."""
    holders: tuple[Holder, ...] = ()
    """Who has what it waits for (locks, semaphores)."""
    anchor: Any = field(default=None, repr=False)
    """Where the waking happens, if that is not the object itself: the state that two ends of a stream share."""

    @property
    def tasks(self) -> tuple[asyncio.Task[Any], ...]:
        """Those of :attr:`futures` that are tasks and have not ended."""
        return tuple(one for one in self.futures if isinstance(one, asyncio.Task) and not one.done())

    @property
    def repr(self) -> str:
        """The object's ``repr()``; one that fails is told instead of raised."""
        try:
            return repr(self.object)
        except Exception as error:
            return f"<{type(self.object).__name__}, whose repr() raises {type(error).__name__}>"


def name_of(task: Any) -> str:
    """How reports call a task."""
    return task.get_name() if isinstance(task, asyncio.Task) else f"<{type(task).__name__}>"


def recognise(task: asyncio.Task[Any], chain: list[Step], leaf: Any) -> Waiting | None:
    """What a task waits for, given its chain; None when it waits for nothing. Without holders."""
    future = future_of(task)
    if future is None:
        return None
    first = len(chain)
    while first and not is_user(chain[first - 1]):
        first -= 1
    fallback: Waiting | None = None
    library = [step for step in chain[first:] if step.frame is not None]
    for index, step in enumerate(library):
        found = _known(step, library[index + 1 :])
        if found is None:
            continue
        if not isinstance(found, _Transparent):
            return found
        fallback = fallback or found.waiting
    if type(leaf) is OPERATION or type(future).__name__ == "_Fut":
        return _operation(leaf if type(leaf) is OPERATION else _operation_of(future))
    if fallback is not None and not _says_something(future):
        return fallback
    return _bare(future)


def describe(task: asyncio.Task[Any], chain: list[Step], waiting: Waiting | None) -> str:
    """In a few words what a task does: ``waits in Queue.get()``, ``runs``, ``has ended``."""
    if waiting is not None:
        return waiting.text
    if task.done():
        return "has ended"
    if any(step.awaited is None for step in chain):
        return "runs"
    if chain and chain[-1].code is not None and chain[-1].code.co_qualname == "__sleep0":
        return "yields"
    if chain and getattr(type(chain[0].awaited), "cr_suspended", None) and not chain[0].awaited.cr_suspended:
        return "has not started"
    return "is about to run"


# --------------------------------------------------------------------------------------------------- library frames


@dataclass(frozen=True, slots=True)
class _Transparent:
    """A frame that only passes on the wait of what it was given; what it waits for itself, if there is nothing."""

    waiting: Waiting | None = None


_Locals = dict[str, Any]
_Reader = Callable[[_Locals, list[Step]], "Waiting | _Transparent"]


def _known(step: Step, below: list[Step]) -> Waiting | _Transparent | None:
    assert step.frame is not None and step.code is not None
    module, name = module_of(step.frame), step.code.co_qualname
    reader = _READERS.get((module, name))
    if reader is not None:
        return reader(locals_of(step.frame), below)
    top = module.partition(".")[0]
    if top in ("asyncio", "anyio", "loopwright") and not name.endswith(("__aenter__", "__await__", "__anext__")):
        local = locals_of(step.frame)
        subject = local.get("self")
        called = _public(module, name, subject)
        return _Transparent(Waiting(called, "outside", subject, f"waits in {called}()"))
    return None


def _public(module: str, name: str, subject: Any) -> str:
    """What the program calls a library's method: by the class of the object, which may be a subclass."""
    method = name.rpartition(".")[2]
    return f"{type(subject).__name__}.{method}" if subject is not None else name.replace("<locals>.", "")


def _method(needs: Needs, method: str, missing: str = "", state: Callable[[Any], str] = lambda _: "") -> _Reader:
    def read(local: _Locals, below: list[Step]) -> Waiting:
        subject = local.get("self")
        called = f"{type(subject).__name__}.{method}"
        return Waiting(called, needs, subject, f"waits in {called}()", missing, _quietly(state, subject))

    return read


def _quietly(state: Callable[[Any], str], subject: Any) -> str:
    try:
        return state(subject)
    except Exception:  # a subclass that is not what it says
        return ""


def _condition(local: _Locals, below: list[Step]) -> Waiting:
    """Notified, it has to take its lock again: then that is what it waits for."""
    for step in below:
        if step.frame is not None and step.code is not None and step.code.co_qualname == "Lock.acquire":
            lock = locals_of(step.frame).get("self")
            return Waiting("Condition.wait", "permit", lock, "waits in Condition.wait() for its lock", "release it")
    subject = local.get("self")
    called = f"{type(subject).__name__}.wait"
    return Waiting(called, "flag", subject, f"waits in {called}()", "notify it")


def _tasks_of(called: str, futures: Iterable[Any], subject: Any) -> Waiting:
    pending = tuple(one for one in futures if not one.done())
    return Waiting(called, "tasks", subject, f"waits in {called}() for {_several(pending)}", futures=pending)


def _several(futures: tuple[Any, ...]) -> str:
    if not futures:
        return "nothing"
    tasks = sum(isinstance(one, asyncio.Task) for one in futures)
    if len(futures) == 1:
        return f"task {name_of(futures[0])!r}" if tasks else "a future"
    return f"{len(futures)} {'tasks' if tasks == len(futures) else 'futures'}"


def _by_name(futures: Iterable[Any]) -> list[Any]:
    """A set of tasks in an order that does not depend on addresses."""
    return sorted(futures, key=lambda one: (len(name_of(one)), name_of(one)))


def _group(local: _Locals, below: list[Step]) -> Waiting:
    group = local.get("self")
    return _tasks_of("TaskGroup.__aexit__", _by_name(getattr(group, "_tasks", ())), group)


def _wait(local: _Locals, below: list[Step]) -> Waiting:
    return _tasks_of("wait", _by_name(local.get("fs") or ()), None)


def _wait_for(local: _Locals, below: list[Step]) -> Waiting | _Transparent:
    """Up to 3.11 it makes a task of what it is given; later it awaits it itself."""
    inner = local.get("fut")
    if isinstance(inner, asyncio.Task) and local.get("waiter") is not None:
        return _tasks_of("wait_for", [inner], inner)
    return _Transparent(Waiting("wait_for", "future", inner, "waits in wait_for()"))


def _as_completed(local: _Locals, below: list[Step]) -> Waiting:
    """Which tasks are left only 3.13 and later tell."""
    iterator = local.get("self")
    futures = tuple(_by_name(getattr(iterator, "_todo", ())))
    text = f"waits in as_completed() for {_several(futures)}" if futures else "waits in as_completed()"
    return Waiting("as_completed", "tasks", iterator, text, futures=futures)


def _sleep(local: _Locals, below: list[Step]) -> Waiting:
    delay = local.get("delay")
    text = f"sleeps {delay} s" if isinstance(delay, (int, float)) else "sleeps"
    return Waiting("sleep", "time", local.get("future"), text)


def _thread(local: _Locals, below: list[Step]) -> Waiting:
    called = getattr(local.get("func"), "__qualname__", None) or repr(local.get("func"))
    return Waiting("to_thread", "outside", local.get("func"), f"waits for to_thread({called})")


def _through(local: _Locals, below: list[Step]) -> _Transparent:
    return _Transparent()


def _stream(method: str, missing: str, needs: Needs) -> _Reader:
    def read(local: _Locals, below: list[Step]) -> Waiting:
        subject = local.get("self")
        called = f"{type(subject).__name__}.{method}"
        shared = getattr(subject, "_state", None)
        return Waiting(called, needs, subject, f"waits in {called}()", missing, anchor=shared)

    return read


def _race(local: _Locals, below: list[Step]) -> Waiting:
    return _tasks_of("race", _children(local.get("group")), local.get("group"))


def _finish(local: _Locals, below: list[Step]) -> Waiting:
    return _tasks_of("finish", [one for one in [local.get("task")] if one is not None], local.get("task"))


def _background(local: _Locals, below: list[Step]) -> Waiting:
    subject = local.get("self")
    here = local.get("here")
    return _tasks_of("Background.aclose", [one for one in getattr(subject, "_jobs", ()) if one is not here], subject)


def _map(local: _Locals, below: list[Step]) -> Waiting:
    subject = local.get("self")
    called = str(getattr(subject, "_name", "amap"))
    waiting = _tasks_of(called.partition("(")[0], _calls(getattr(subject, "_window", None)), subject)
    return replace(waiting, text=f"waits in {called}{'' if '(' in called else '()'} for {_several(waiting.futures)}")


def _calls(window: Any) -> list[asyncio.Task[Any]]:
    """The tasks of a map's calls; it also knows its parent, which is the one that waits for it."""
    known = [] if window is None else referents(window)
    own = {id(one) for one in known}
    return _by_name({one for one in known if isinstance(one, asyncio.Task) and id(future_of(one)) not in own})


def _reader_task(local: _Locals, below: list[Step]) -> Waiting:
    subject = local.get("self")
    return _tasks_of("prefetch", [one for one in [getattr(subject, "_reader", None)] if one is not None], subject)


def _queue_state(queue: Any) -> str:
    return "empty" if queue.empty() else f"{queue.qsize()} items"


def _room_state(queue: Any) -> str:
    return f"full, maxsize={queue.maxsize}"


def _join_state(queue: Any) -> str:
    return f"{queue._unfinished_tasks} unfinished"


def _unset(_event: Any) -> str:
    return "not set"


_GET: Final = _method("item", "get", "put into it", _queue_state)
_PUT: Final = _method("room", "put", "get from it", _room_state)
_JOIN: Final = _method("flag", "join", "call task_done() on it", _join_state)
_ACQUIRE: Final = _method("permit", "acquire", "release it")
_EVENT: Final = _method("flag", "wait", "set it", _unset)
_ANYIO: Final = "anyio._backends._asyncio"
_ANYIO_SYNC: Final = "anyio._core._synchronization"

_READERS: Final[dict[tuple[str, str], _Reader]] = {
    ("asyncio.locks", "Lock.acquire"): _ACQUIRE,
    ("asyncio.locks", "Semaphore.acquire"): _ACQUIRE,
    ("asyncio.locks", "Event.wait"): _EVENT,
    ("asyncio.locks", "Condition.wait"): _condition,
    ("asyncio.locks", "Condition.wait_for"): _through,
    ("asyncio.locks", "Barrier.wait"): _method("flag", "wait", "come to it", lambda b: f"{b.n_waiting} of {b.parties}"),
    ("asyncio.queues", "Queue.get"): _GET,
    ("asyncio.queues", "Queue.put"): _PUT,
    ("asyncio.queues", "Queue.join"): _JOIN,
    ("asyncio.taskgroups", "TaskGroup.__aexit__"): _group,
    ("asyncio.tasks", "sleep"): _sleep,
    ("asyncio.tasks", "wait"): _wait,
    ("asyncio.tasks", "_wait"): _wait,
    ("asyncio.tasks", "wait_for"): _wait_for,
    ("asyncio.tasks", "_cancel_and_wait"): lambda local, _: _tasks_of("wait_for", [local["fut"]], local["fut"]),
    ("asyncio.tasks", "as_completed.<locals>._wait_for_one"): _as_completed,
    ("asyncio.tasks", "_AsCompletedIterator._wait_for_one"): _as_completed,
    ("asyncio.threads", "to_thread"): _thread,
    (_ANYIO, "AsyncIOBackend.sleep"): _through,
    ("anyio._core._eventloop", "sleep"): _through,
    ("anyio._core._eventloop", "sleep_until"): _through,
    (_ANYIO, "Event.wait"): _EVENT,
    (_ANYIO, "Lock.acquire"): _ACQUIRE,
    (_ANYIO, "Semaphore.acquire"): _ACQUIRE,
    (_ANYIO, "CapacityLimiter.acquire"): _ACQUIRE,
    (_ANYIO, "CapacityLimiter.acquire_on_behalf_of"): _ACQUIRE,
    (_ANYIO, "TaskGroup.__aexit__"): _group,
    (_ANYIO_SYNC, "Condition.wait"): _condition,
    (_ANYIO_SYNC, "Condition.wait_for"): _through,
    ("anyio.streams.memory", "MemoryObjectReceiveStream.receive"): _stream("receive", "send into it", "item"),
    ("anyio.streams.memory", "MemoryObjectSendStream.send"): _stream("send", "receive from it", "room"),
    ("loopwright.groups", "_race"): _race,
    ("loopwright.cancellation", "_finish"): _finish,
    ("loopwright.background", "Background.aclose"): _background,
    ("loopwright.mapping", "AsyncMap._collect"): _map,
    ("loopwright.mapping", "AsyncMap.__anext__"): _map,
    ("loopwright.mapping", "AsyncMap.__aexit__"): _map,
    ("loopwright.mapping", "Prefetch.__anext__"): _reader_task,
}

# ----------------------------------------------------------------------------------------- Loopwright's own operations

_OPERATIONS: Final[dict[str, tuple[Needs, str]]] = {
    "acquire": ("permit", "release it"),
    "get": ("item", "put into it"),
    "put": ("room", "get from it"),
    "join": ("flag", "call task_done() on it"),
    "wait": ("flag", "set it"),
    "sleep": ("time", "cancel it"),
}


def _operation_of(future: Any) -> Any:
    return next((one for one in referents(future) if type(one) is OPERATION), future)


_LIMITS: Final = (native.Semaphore, native.Lock)


def _operation(operation: Any) -> Waiting:
    called = str(getattr(operation, "__qualname__", "operation"))
    owner, _, method = called.partition(".")
    kinds = (*_LIMITS, native.Queue, native.Event, native.TaskGroup, native.CancelToken, native._Pool)
    subjects = [one for one in referents(operation) if isinstance(one, kinds)]
    subject = (subjects[-1] if method == "put" else subjects[0]) if subjects else None  # `put` shows its item first
    if owner == "TaskGroup":
        return _tasks_of(called, _children(subject), subject)
    needs, missing = _OPERATIONS.get(method, ("future", ""))
    if owner == "CancelToken" and method == "wait":
        missing = "cancel it"
    return Waiting(called, needs, subject, f"waits in {called}()", missing, _quietly(_state, (subject, method)))


def _state(what: tuple[Any, str]) -> str:
    subject, method = what
    if isinstance(subject, native.Queue):
        if method == "join":
            return f"{subject.stats().unfinished} unfinished"
        return _queue_state(subject) if method == "get" else _room_state(subject)
    return "not set" if isinstance(subject, native.Event) else ""


def _children(group: Any) -> list[asyncio.Task[Any]]:
    """The tasks of a group of Loopwright's, in the order of their start."""
    if group is None:
        return []
    for children in gc.get_referents(group):
        if type(children) is dict:
            return [one for one in children if isinstance(one, asyncio.Task)]
    return []


# ---------------------------------------------------------------------------------------------------------- futures


def _callbacks(future: Any) -> list[Any]:
    found = getattr(future, "_callbacks", None) or ()
    return [one[0] if isinstance(one, tuple) else one for one in found]


def _closure(function: Any, name: str) -> Any:
    """The value that a nested function's free variable has."""
    code = getattr(function, "__code__", None)
    if code is None or name not in code.co_freevars:
        return None
    try:
        return function.__closure__[code.co_freevars.index(name)].cell_contents
    except ValueError:
        return None


def _says_something(future: Any) -> bool:
    return isinstance(future, asyncio.Task) or _bare(future).operation != "future"


def _bare(future: Any) -> Waiting:
    """A task or future that is awaited as such."""
    if isinstance(future, asyncio.Task):
        return Waiting("await", "tasks", future, f"waits for task {name_of(future)!r}", futures=(future,))
    children = getattr(type(future), "__name__", "") == "_GatheringFuture" and getattr(future, "_children", None)
    if children:
        pending = tuple(one for one in children if not one.done())
        return Waiting("gather", "tasks", future, f"waits in gather() for {_several(pending)}", futures=pending)
    for callback in _callbacks(future):
        name = getattr(callback, "__qualname__", "")
        if name == "shield.<locals>._outer_done_callback":
            inner = _closure(callback, "inner")
            if inner is not None:
                return Waiting(
                    "shield", "tasks", inner, f"waits in shield() for {_several((inner,))}", futures=(inner,)
                )
        if name == "_chain_future.<locals>._call_check_cancel":
            source = _closure(callback, "source")
            return Waiting("run_in_executor", "outside", source, "waits for a call in an executor")
    return Waiting("future", "future", future, "waits for a future", "complete it")
