"""From a task down to what it waits for: every coroutine, generator and awaitable between them.

Lives here: the walk (:func:`steps`), and which frames are a library's and which are the user's own. Does not live
here: what the library frame at the end means (:mod:`loopwright.testing._waits`), who holds what
(:mod:`loopwright.testing._holders`).

CPython tells what a coroutine awaits, and stops at everything else: at the ``__anext__()`` of an async generator, at
``coroutine.__await__()``, at ``anext(it, default)``, at an object with a custom ``__await__``. What these refer to the
garbage collector knows, so it is asked: among the referents of such an object is the coroutine that it drives. Where
there are several, the right one is the one that leads to the future which the task waits for.

Nothing here runs code of the program: attributes are looked up on types, never on foreign objects. Frames are walked
but not kept, nor is anything that is local in them.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import operator
import sys
import types
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any, Final, Literal, NamedTuple

from loopwright import Event

__all__ = [
    "OPERATION",
    "Kind",
    "Step",
    "coroutine_of",
    "follow",
    "frame_of",
    "future_of",
    "is_user",
    "locals_of",
    "module_of",
    "referents",
    "steps",
]

Kind = Literal["coroutine", "generator", "async generator", "awaitable", "function"]


def _type_of_operations() -> type:
    """The extension has no public name for it."""
    probe = Event().wait()
    probe.close()
    return type(probe)


OPERATION: Final = _type_of_operations()
"""What the methods of Loopwright's objects give to ``await``."""

DEEPEST: Final = 10_000
"""Links of one chain that are followed; more is a cycle that Python itself cannot run."""

_WIDEST: Final = 500
"""Objects looked at in search of the coroutine behind one opaque object."""


class Step(NamedTuple):
    """One link of a chain, with its live objects: for the length of one report."""

    awaited: Any
    """The coroutine, generator or other awaitable; None for a plain function on the stack of the running task."""
    frame: FrameType | None
    """None for an awaitable without one, and for a coroutine that has ended."""
    code: CodeType | None
    kind: Kind


class _Shape:
    """How a kind of coroutine tells about itself."""

    __slots__ = ("awaits", "kind", "look", "suspended", "type")

    def __init__(self, prefix: str, awaits: str, type_: type, kind: Kind) -> None:
        self.awaits = f"{prefix}_{awaits}"
        self.suspended = f"{prefix}_suspended"
        self.look = operator.attrgetter(f"{prefix}_frame", f"{prefix}_code", self.awaits, f"{prefix}_running")
        self.type = type_
        self.kind = kind


_SHAPES: Final = (
    _Shape("cr", "await", types.CoroutineType, "coroutine"),
    _Shape("gi", "yieldfrom", types.GeneratorType, "generator"),
    _Shape("ag", "await", types.AsyncGeneratorType, "async generator"),
)
_BUILT_IN: Final = {shape.type: shape for shape in _SHAPES}

_PLUMBING: Final = {
    "async_generator_asend",
    "async_generator_athrow",
    "anext_awaitable",
    "coroutine_wrapper",
    "_GeneratorWrapper",  # of types.coroutine
}
"""Types whose objects only pass a coroutine on; nobody wrote them into a program."""

_CONTAINERS: Final = (dict, tuple, list, types.MethodType, types.BuiltinMethodType, types.CellType)
_NEVER_THROUGH: Final = (type, types.ModuleType, types.CodeType, types.FrameType, asyncio.AbstractEventLoop)


def referents(owner: Any) -> list[Any]:
    """What an object refers to: for a suspended coroutine also its locals and what is on its value stack."""
    return gc.get_referents(owner)


def frame_of(coroutine: Any) -> FrameType | None:
    """The frame of a coroutine or generator; None for anything else, and for one that has ended."""
    shape = _shape(coroutine)
    frame: FrameType | None = None if shape is None else shape.look(coroutine)[0]
    return frame


def locals_of(frame: FrameType) -> dict[str, Any]:
    """The local variables of a frame, without any trace of the question.

    Up to CPython 3.12 a frame keeps the dict that it answers with, and so all that was local at that moment.
    """
    kept = frame.f_locals
    found = dict(kept)
    if sys.version_info < (3, 13) and frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # else it is the namespace itself
        kept.clear()
    return found


def future_of(task: asyncio.Future[Any]) -> Any:
    """The future that a task waits for; None when it is about to run, runs, or has ended."""
    future = getattr(task, "_fut_waiter", None)
    return None if future is None or future.done() else future


def coroutine_of(task: asyncio.Task[Any]) -> Any:
    """The coroutine of a task; None where it is let go: that of a task which ended within its eager start.

    Asking such a task by ``get_coro()`` crashes CPython 3.12.1.
    """
    return getattr(task, "_coro", None) if sys.version_info[:2] == (3, 12) else task.get_coro()


def steps(task: asyncio.Task[Any]) -> tuple[list[Step], Any]:
    """The links of a task, outermost first, and what is below the last of them: a future, an operation of
    Loopwright, or None.
    """
    coroutine = None if task.done() else coroutine_of(task)
    if coroutine is None:
        return [], None
    return follow(coroutine, future_of(task))


def module_of(frame: FrameType) -> str:
    """The name of the module that a frame's code belongs to."""
    return str(frame.f_globals.get("__name__", ""))


def is_user(step: Step) -> bool:
    """Whether a link is of the program's own code or of a library's that is neither asyncio, anyio nor Loopwright."""
    return step.frame is not None and not is_library(module_of(step.frame))


@lru_cache(maxsize=4096)
def is_library(module: str) -> bool:
    """Whether a module is asyncio's, anyio's or Loopwright's own."""
    return module.partition(".")[0] in _LIBRARIES


_LIBRARIES: Final = {*sys.stdlib_module_names, "loopwright", "anyio", "sniffio", "uvloop"} - {"__main__", "this"}


# ------------------------------------------------------------------------------------------------------- the walk


def _shape(awaited: Any) -> _Shape | None:
    kind = type(awaited)
    found = _BUILT_IN.get(kind)
    if found is None:  # Cython's coroutines look like CPython's
        found = next((shape for shape in _SHAPES if hasattr(kind, shape.awaits)), None)
    return found


def follow(awaited: Any, future: Any, within: frozenset[int] = frozenset()) -> tuple[list[Step], Any]:
    """As :func:`steps`, from any awaitable; ``future`` is what is known to be at the end.

    ``within`` are the opaque objects that are being looked into already: they may know each other.
    """
    chain: list[Step] = []
    while awaited is not None and len(chain) < DEEPEST:
        shape = _shape(awaited)
        if shape is None:
            if _is_leaf(awaited, future):
                return chain, _future_in(awaited) if type(awaited).__name__ == "FutureIter" else awaited
            if type(awaited).__name__ not in _PLUMBING:
                chain.append(Step(awaited, None, None, "awaitable"))
            awaited = None if id(awaited) in within else _behind(awaited, future, within | {id(awaited)})
            continue
        frame, code, following, runs = shape.look(awaited)
        if runs and frame is not None and (running := list(_running(frame))):
            chain.extend(running)
            return chain, None
        chain.append(Step(awaited, frame, code, shape.kind))
        if following is None and future is not None and any(one is future for one in referents(awaited)):
            return chain, future  # a future's `__await__` that is written in Python
        awaited = following
    return chain, None


def _future_in(iterator: Any) -> Any:
    return next((one for one in referents(iterator) if hasattr(type(one), "_asyncio_future_blocking")), None)


def _is_leaf(awaited: Any, future: Any) -> bool:
    kind = type(awaited)
    return awaited is future or kind is OPERATION or kind.__name__ == "FutureIter" or _is_future(awaited)


def _is_future(awaited: Any) -> bool:
    return getattr(type(awaited), "_asyncio_future_blocking", None) is not None


def _is_wait_for(leaf: Any, future: Any) -> bool:
    """Whether this end of a chain is the future, or the operation that waits for it."""
    return leaf is future or (type(leaf) is OPERATION and any(one is future for one in referents(leaf)))


def _behind(opaque: Any, future: Any, within: frozenset[int]) -> Any:
    """The coroutine, generator or future that an opaque object drives; None if it cannot be told."""
    found = list(_candidates(opaque, future))
    if future is None:
        return found[0] if len(found) == 1 else None
    unsure = []
    for candidate in found:
        leaf = candidate if _is_leaf(candidate, future) else follow(candidate, future, within)[1]
        if _is_wait_for(leaf, future):
            return candidate
        if leaf is None:
            unsure.append(candidate)
    return unsure[0] if len(unsure) == 1 else None


def _candidates(opaque: Any, future: Any) -> Iterator[Any]:
    """What an object may drive: coroutines in the middle of something, the wait for ``future``; near ones first."""
    seen: set[int] = {id(opaque)}
    waiting = deque([(opaque, 0)])
    while waiting and len(seen) < _WIDEST:
        owner, depth = waiting.popleft()
        for candidate in referents(owner):
            if id(candidate) in seen or isinstance(candidate, _NEVER_THROUGH):
                continue
            seen.add(id(candidate))
            if type(candidate) is OPERATION or _is_future(candidate):
                if future is not None and _is_wait_for(candidate, future):
                    yield candidate
            elif _is_in_the_middle(candidate) or type(candidate).__name__ in _PLUMBING:
                yield candidate
            elif depth < 3 and _may_hide(candidate):  # noqa: PLR2004 (object, its __dict__, a list in that)
                waiting.append((candidate, depth + 1))


def _may_hide(candidate: Any) -> bool:
    return isinstance(candidate, _CONTAINERS) or hasattr(type(candidate), "__await__")


def _is_in_the_middle(candidate: Any) -> bool:
    """Whether it is a coroutine or generator that waits for something, or runs."""
    shape = _shape(candidate)
    if shape is None:
        return False
    frame, _, following, runs = shape.look(candidate)
    if frame is None:
        return False
    if runs or following is not None:
        return True
    return bool(getattr(candidate, shape.suspended, False)) and shape.kind != "async generator"


def _running(outermost: FrameType) -> Iterator[Step]:
    """The frames of a running coroutine, from itself to what its thread does now."""
    for frame in [sys._getframe(1), *sys._current_frames().values()]:
        stack: list[FrameType] = []
        here: FrameType | None = frame
        while here is not None and here is not outermost:
            stack.append(here)
            here = here.f_back
        if here is None:
            continue
        stack.append(outermost)
        for inner in reversed(stack):
            if module_of(inner).startswith("loopwright.testing."):
                return
            yield Step(None, inner, inner.f_code, _kind(inner.f_code))
        return


def _kind(code: CodeType) -> Kind:
    flags = code.co_flags
    if flags & inspect.CO_COROUTINE:
        return "coroutine"
    if flags & inspect.CO_ASYNC_GENERATOR:
        return "async generator"
    return "generator" if flags & inspect.CO_GENERATOR else "function"
