"""Who holds a lock or a semaphore, and who could wake a waiter: what can be known without having watched.

asyncio's locks do not record their holder. Two kinds of evidence are used, and told apart:

* *Certain*: ``async with lock`` keeps the object's ``__aexit__`` on the value stack of its coroutine until the block is
  left, and the garbage collector shows the value stack of a suspended coroutine. A task with one there is in the body
  of that very block (or in ``__aenter__``, which the instruction it is suspended at tells). The same goes for a block
  that is kept open by an ``@asynccontextmanager`` or an ``AsyncExitStack`` which is on the stack itself. anyio's Lock
  and CapacityLimiter name their holders.
* *Perhaps*: a task that can get at the object, by its locals, by what these refer to, by the globals that its code
  names, by its context variables, and does not wait for it.

The second kind also answers "who could put into this queue": those who can get at it. It is exact as long as a
program does not fetch objects by their names or from the garbage collector. The search is bounded; when the bound is
reached, nothing is claimed.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dis
import gc
import signal
import sys
import types
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any, Final

from loopwright import _loopwright as native
from loopwright.testing._awaits import OPERATION, Step, frame_of, is_user, locals_of, referents, steps
from loopwright.testing._waits import Holder, Waiting, recognise

__all__ = ["Evidence", "live_tasks"]

MOST_REFERENCES: Final = 100_000
"""References followed to find out who can get at what: some tenths of a second."""

Task = asyncio.Task[Any]


def live_tasks(loop: asyncio.AbstractEventLoop) -> list[Task]:
    """The tasks of a loop that have not ended, in the order of creation where the loop knows it."""
    known = getattr(loop, "tasks", None)
    if known is not None:
        return list(known())
    return sorted(asyncio.all_tasks(loop), key=_age)


def _age(task: Task) -> tuple[int, str]:
    """asyncio's ``Task-12`` are numbered; named tasks come after these, by name."""
    name = task.get_name()
    number = name.removeprefix("Task-")
    return (int(number) if number.isdecimal() else sys.maxsize, name)


class Evidence:
    """What is known about a set of tasks at one moment; everything is found out once and when it is asked for."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.tasks = [task for task in tasks if not task.done()]
        self._chains: dict[int, tuple[list[Step], Any]] = {}
        self._waits: dict[int, Waiting | None] = {}
        self._held: dict[int, list[Task]] | None = None
        self._reach: _Reach | None = None

    def chain(self, task: Task) -> list[Step]:
        """The links of a task."""
        if id(task) not in self._chains:
            self._chains[id(task)] = steps(task)
        return self._chains[id(task)][0]

    def bare(self, task: Task) -> Waiting | None:
        """What a task waits for, without holders."""
        if id(task) not in self._waits:
            self._waits[id(task)] = recognise(task, self.chain(task), self._chains[id(task)][1])
        return self._waits[id(task)]

    def holders(self, waiting: Waiting) -> tuple[Holder, ...]:
        """Who has the permits that are waited for: the certain ones, else those who may."""
        if waiting.needs != "permit" or waiting.object is None:
            return ()
        certain = self._named(waiting.object) or self._in_blocks(waiting.object)
        if certain:
            return tuple(Holder(task, True) for task in certain)
        others = self.others(waiting) or []
        callers = [task for task in others if self._calls_acquire(task)]
        return tuple(Holder(task, False) for task in callers or others)

    def _calls_acquire(self, task: Task) -> bool:
        """Who holds a lock without `async with` has mostly called this in the function that it is still in."""
        return any(
            step.code is not None and is_user(step) and "acquire" in step.code.co_names for step in self.chain(task)
        )

    def others(self, waiting: Waiting) -> list[Task] | None:
        """The tasks that can get at what is waited for and do not wait in the same way; None when that is not known."""
        found = self._who(waiting)
        if found is None:
            return None
        return [task for task in self.tasks if task in found and not self._is_same(task, waiting)]

    def signals(self, waiting: Waiting) -> list[str]:
        """The signals whose handlers can get at what is waited for."""
        return sorted(one for one in self._who(waiting) or () if isinstance(one, str))

    def _who(self, waiting: Waiting) -> set[Task | str] | None:
        target = waiting.object if waiting.anchor is None else waiting.anchor
        if target is None:
            return None
        if self._reach is None:
            self._reach = _Reach(self._roots())
        return self._reach.who(target)

    def _roots(self) -> Iterator[tuple[Task | str, Iterable[Any]]]:
        for task in self.tasks:
            yield task, _roots(task, self.chain(task))
        loop = self.tasks[0].get_loop() if self.tasks else None
        for number, handle in getattr(loop, "_signal_handlers", {}).items():
            yield signal.Signals(number).name, referents(handle)

    def _is_same(self, task: Task, waiting: Waiting) -> bool:
        mine = self.bare(task)
        if mine is None or mine.object is None:
            return False
        return mine.operation == waiting.operation and mine.object is waiting.object

    def _named(self, permits: Any) -> list[Task]:
        """The holders that the object itself names (anyio)."""
        if not type(permits).__module__.startswith("anyio."):
            return []
        names = {"_owner_task", "_borrowers"} & set(_slots(type(permits)))
        held = [getattr(permits, name, None) for name in sorted(names)]
        tasks = {one for holder in held for one in (holder if isinstance(holder, set) else {holder})}
        return [task for task in self.tasks if task in tasks]

    def _in_blocks(self, permits: Any) -> list[Task]:
        if self._held is None:
            self._held = defaultdict(list)
            for task in self.tasks:
                for one in self._blocks_of(task):
                    self._held[id(one)].append(task)
            for task, generator in self._generators():
                for one in _blocks(generator):
                    self._held[id(one)].append(task)
                    if isinstance(one, asyncio.Condition):
                        self._held[id(one._lock)].append(task)  # type: ignore[attr-defined]
        return list(dict.fromkeys(self._held.get(id(permits), ())))

    def _blocks_of(self, task: Task) -> Iterator[Any]:
        """The objects in whose ``async with`` bodies a task is."""
        waiting = self.bare(task)
        for step in self.chain(task):
            if step.awaited is None:  # running: its stack is not to be seen
                continue
            for entered in _blocks(step.awaited, step):
                if isinstance(entered, asyncio.Condition) and not _gave_back(waiting, entered):
                    yield entered._lock  # type: ignore[attr-defined]
                yield entered

    def _generators(self) -> list[tuple[Task, Any]]:
        """The generators that stand at a ``yield``, each with the one task that iterates it."""
        found: dict[int, tuple[Any, set[Task]]] = {}
        for task in self.tasks:
            chain = self.chain(task)
            driven = {id(step.awaited) for step in chain}
            for step in chain:
                for one in referents(step.awaited) if step.awaited is not None else ():
                    if isinstance(one, types.AsyncGeneratorType | types.GeneratorType) and id(one) not in driven:
                        found.setdefault(id(one), (one, set()))[1].add(task)
        return [(tasks.pop(), generator) for generator, tasks in found.values() if len(tasks) == 1]


def _gave_back(waiting: Waiting | None, condition: asyncio.Condition) -> bool:
    """Whether a task is in ``Condition.wait``, which releases the lock of the block that it is in."""
    if waiting is None or waiting.operation != "Condition.wait":
        return False
    return waiting.object is condition or waiting.object is condition._lock  # type: ignore[attr-defined]


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        yield from base.__dict__.get("__slots__", ()) if isinstance(base.__dict__.get("__slots__"), tuple) else ()


# ----------------------------------------------------------------------------------------------- async with blocks


def _blocks(coroutine: Any, step: Step | None = None) -> Iterator[Any]:
    """The context managers in whose blocks a suspended coroutine or generator is, those nested in others included."""
    frame = frame_of(coroutine)
    if frame is None:
        return
    found = list(_exits(_stack(coroutine, frame)))
    if found and step is not None and _is_entering(step):
        found.pop()  # the innermost: it has been looked up, and `__aenter__` is still at work
    for entered in found:
        yield entered
        yield from _opened_by(entered)


def _stack(coroutine: Any, frame: FrameType) -> list[Any]:
    """The value stack of a suspended coroutine, and what is not local of what comes before that."""
    values = referents(coroutine)
    if not any(_is_exit(value) for value in values):
        return []
    code = frame.f_code
    plain = set(code.co_varnames) - set(code.co_cellvars)  # the others are there as cells
    left = Counter(id(value) for name, value in locals_of(frame).items() if name in plain)
    stack = []
    for value in values:  # the locals come first
        if left[id(value)]:
            left[id(value)] -= 1
        else:
            stack.append(value)
    return stack


def _is_exit(value: Any) -> bool:
    if isinstance(value, native.Lease):
        return sys.version_info < (3, 14) and value._entered
    return isinstance(value, _CALLABLES) and value.__name__ in ("__aexit__", "__exit__")


_CALLABLES: Final = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
)


def _exits(values: list[Any]) -> Iterator[Any]:
    """Whose ``__aexit__`` or ``__exit__`` is there: bound up to 3.13, a function and its object from 3.14 on.

    A lease is its own up to 3.13, and there a second time while it waits.
    """
    last = None
    for index, value in enumerate(values):
        if not _is_exit(value):
            continue
        if isinstance(value, native.Lease):
            if value is not last:
                yield value
            last = value
            continue
        bound = getattr(value, "__self__", None)
        if bound is not None and not isinstance(bound, types.ModuleType):
            yield bound
        elif index + 1 < len(values) and getattr(type(values[index + 1]), value.__name__, None) is value:
            yield values[index + 1]


def _opened_by(manager: Any) -> Iterator[Any]:
    """What a context manager keeps open on its part."""
    if isinstance(manager, contextlib._AsyncGeneratorContextManager | contextlib._GeneratorContextManager):
        yield from _blocks(manager.gen)
    elif isinstance(manager, contextlib.AsyncExitStack | contextlib.ExitStack):
        for _, callback in manager._exit_callbacks:  # type: ignore[union-attr]
            inner = getattr(callback, "__self__", None)
            if inner is not None:
                yield inner
                yield from _opened_by(inner)
    elif isinstance(manager, native.Permit | native.Lease):
        for one in referents(manager):
            if isinstance(one, native.Semaphore | native.Lock | native._Pool):
                yield one


def _is_entering(step: Step) -> bool:
    """Whether a coroutine is suspended in an ``__aenter__``."""
    return step.frame is not None and step.code is not None and _where(step.code, step.frame.f_lasti) == 1


_GET_AWAITABLE: Final = dis.opmap["GET_AWAITABLE"]


@lru_cache(maxsize=4096)
def _where(code: CodeType, position: int) -> int:
    """What the await at this instruction belongs to: 1 for ``__aenter__``, 2 for ``__aexit__``, else 0."""
    instructions = code.co_code
    while position >= 0:
        if instructions[position] == _GET_AWAITABLE:
            return instructions[position + 1]
        position -= 2
    return 0


# ------------------------------------------------------------------------------------------------------ reachability

_OPAQUE: Final = (
    asyncio.Future,  # holding a task is no way to the locals of its coroutine
    asyncio.AbstractEventLoop,
    types.FrameType,
    types.TracebackType,
    OPERATION,
)


class _Reach:
    """Which of the tasks and signal handlers can get at which objects: one search from all, answered backwards."""

    def __init__(self, roots: Iterable[tuple[Task | str, Iterable[Any]]]) -> None:
        self._from: dict[int, list[int]] = defaultdict(list)
        self._owners: dict[int, set[Task | str]] = defaultdict(set)
        self._kept: list[Any] = []  # an id is good for as long as its object
        self._seen: set[int] = set()
        self._waiting: deque[Any] = deque()
        self.complete = True
        for who, values in roots:
            for root in values:
                self._owners[id(root)].add(who)
                self._look_at(root)
        followed = 0
        while self._waiting:
            owner = self._waiting.popleft()
            if followed > MOST_REFERENCES:
                self.complete = False
                return
            for one in _attainable(owner):
                if gc.is_tracked(one):  # else it refers to nothing
                    followed += 1
                    self._from[id(one)].append(id(owner))
                    self._look_at(one)

    def _look_at(self, one: Any) -> None:
        if id(one) in self._seen:
            return
        self._seen.add(id(one))
        self._kept.append(one)
        if not isinstance(one, _OPAQUE) and type(one).__name__ not in ("_Fut", "_Hub"):
            self._waiting.append(one)

    def who(self, target: Any) -> set[Task | str] | None:
        """The tasks that can get at an object; None when that is not known."""
        if not self.complete:
            return None
        found: set[Task | str] = set()
        seen = {id(target)}
        waiting = [id(target)]
        while waiting:
            here = waiting.pop()
            found.update(self._owners.get(here, ()))
            for owner in self._from.get(here, ()):
                if owner not in seen:
                    seen.add(owner)
                    waiting.append(owner)
        return found


def _roots(task: Task, chain: list[Step]) -> Iterator[Any]:
    """What the links of a task refer to: locals and value stacks, the globals that their code names, the context."""
    for step in chain:
        values = referents(step.awaited) if step.awaited is not None else _running_values(step)
        yield from (one for one in values if one is not step.code and not _is_function_of(one, step.code))
        if step.code is not None and step.frame is not None:
            yield from _named_globals(step.code, step.frame.f_globals)
    yield from (one for one in referents(task) if type(one) is contextvars.Context)


def _running_values(step: Step) -> list[Any]:
    return list(locals_of(step.frame).values()) if step.frame is not None else []


def _attainable(owner: Any) -> list[Any]:
    """Where code that has an object can get from it."""
    if isinstance(owner, types.FunctionType):
        inside = [*(owner.__closure__ or ()), *(owner.__defaults__ or ()), owner.__dict__]
        return inside if _is_standard(owner.__module__) else inside + _named_globals(owner.__code__, owner.__globals__)
    if isinstance(owner, type):
        return [] if _is_standard(owner.__module__) else [one for base in owner.__mro__ for one in _body(base)]
    if isinstance(owner, types.CoroutineType | types.GeneratorType | types.AsyncGeneratorType):
        code = getattr(owner, "cr_code", None) or getattr(owner, "gi_code", None) or getattr(owner, "ag_code", None)
        return [one for one in referents(owner) if one is not code and not _is_function_of(one, code)]
    return [] if isinstance(owner, types.ModuleType) else referents(owner)


def _body(kind: type) -> list[Any]:
    return [] if _is_standard(kind.__module__) else list(kind.__dict__.values())


def _is_standard(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _STANDARD


_STANDARD: Final = {*sys.stdlib_module_names, "loopwright", "anyio", "pytest", "_pytest", "hypothesis"} - {"__main__"}
"""Top-level packages that keep nothing of a program's in their globals."""


def _is_function_of(value: Any, code: CodeType | None) -> bool:
    return isinstance(value, types.FunctionType) and value.__code__ is code


def _named_globals(code: CodeType, namespace: dict[str, Any]) -> list[Any]:
    """The globals that a function's code, or code nested in it, can name."""
    found = []
    for name in _names(code):
        value = namespace.get(name)
        if isinstance(value, types.ModuleType):
            if not _is_standard(value.__name__):
                found += [value.__dict__.get(other) for other in _names(code)]
        elif value is not None:
            found.append(value)
    return [one for one in found if one is not None]


@lru_cache(maxsize=4096)
def _names(code: CodeType) -> tuple[str, ...]:
    names = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(dict.fromkeys(_names(constant)))
    return tuple(names)
