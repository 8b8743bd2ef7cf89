"""What each step of a test touches, found by watching its lines: what ``dpor`` needs to leave schedules out.

Every line that runs is analysed once, from its bytecode, into accesses *by name*: an attribute ``x`` of whatever object
is one location, and so is a global or a closure's variable of that name; what containers hold is one location, with a
part for each constant key. Futures and tasks are told apart. So two steps may be taken to conflict that do not (the
search then runs more schedules than it had to), and not the other way round, but for what lines do not show: reflection
(``setattr``, ``__dict__``) and C extensions that keep state of their own.

Lives here: the analysis, ``sys.monitoring``, the futures and tasks that report. Does not live here: the tables
(``crates/python/src/footprints.rs``), the search (``crates/core/src/schedule/dpor.rs``).

Loopwright's own objects have no lines inside: a call of one of their methods counts by the method's name.
"""

from __future__ import annotations

import asyncio
import builtins
import dis
import inspect
import io
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from loopwright._loopwright import _Footprints
from loopwright.testing._loop import SimLoop, SimTask

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Unavailable", "Watch"]

T = TypeVar("T")


class Unavailable(RuntimeError):
    """Lines cannot be watched here; the message says why."""


# Locations: the upper half names a whole, the lower half a part of it (0: all).

_ITEMS, _OWN, _FUTURES, _TASKS, _MEETINGS, _FIRST_NAME = range(1, 7)
_PARTS = 0x10000
_GATHERED = _PARTS - 1
"""The part of ``_FUTURES`` that stands for what ``gather()`` returns."""


class _Names:
    """Numbers for names. A name keeps its number for the life of the process."""

    def __init__(self, first: int) -> None:
        self._numbers: dict[Any, int] = {}
        self._first = first

    def number(self, name: Any) -> int:
        # What does not fit shares one number: more conflicts, and none fewer.
        return self._numbers.setdefault(name, min(self._first + len(self._numbers), _PARTS - 1))


_names = _Names(_FIRST_NAME)
_keys = _Names(1)
_libraries = _Names(1)

_Access = tuple[int, bool]


def _named(name: str, write: bool) -> _Access:
    return _names.number(name) * _PARTS, write


# What calls do, by the name of the method or function


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_READ = _words(
    "get keys values items copy index count join union intersection difference symmetric_difference issubset "
    "issuperset isdisjoint getvalue decode hex startswith endswith find most_common elements total"
)
_CONTAINERS = (list, dict, set, deque, OrderedDict, bytearray, io.StringIO, io.BytesIO)
_WRITE = frozenset(
    name for kind in _CONTAINERS for name in dir(kind) if not name.startswith("_") and name not in {*_READ, *dir(bytes)}
) | {"move_to_end", "subtract", "frombytes", "byteswap", "send", "throw"}
_STRINGS = frozenset(name for name in dir(str) if not name.startswith("_"))
_OWN_METHODS = _words(
    "acquire try_acquire release locked put put_nowait try_put get get_nowait try_get join task_done shutdown qsize "
    "empty full set clear is_set wait cancel cancelled spawn reschedule expired stats sleep"
)
_PURE = _words(
    "range isinstance issubclass type id int float complex bool abs round divmod pow chr ord bin hex oct object "
    "callable property staticmethod classmethod super slice globals locals vars dir __build_class__ memoryview hash "
    "breakpoint input open getattr hasattr setattr delattr"
)
_NUMBERS = (int, float, complex, bool, str, bytes, type(None))
_PURE_MODULES = frozenset({"math", "time", "_operator", "operator", "cmath"})

_FRESH_CALLS = frozenset({"range"})

# asyncio: whose lines count, and the containers that only these lines touch

_TRACED = tuple(f"asyncio/{name}.py" for name in ("locks", "queues", "tasks", "taskgroups", "timeouts", "mixins"))
_TRACED += tuple(f"asyncio/{name}.py" for name in ("futures", "staggered", "streams", "events", "transports"))
_PRIVATE = frozenset({"_queue", "_waiters", "_tasks", "_getters", "_putters", "_errors"})

# Callbacks that count how many children are left: their order makes a difference only when one of them failed.
_MEET = frozenset({"gather.<locals>._done_callback", "TaskGroup._on_task_done"})
_FAILED = frozenset(
    {"set_exception", "_errors", "_abort", "cancel", "call_exception_handler", "_parent_cancel_requested"}
)


gaps: set[str] = set()
"""What was met that lines do not tell, in words: no search of this process can claim to be complete any more."""


class _Value(NamedTuple):
    """What is known of a value on the stack."""

    kind: str
    """const, global, local, cell, attr, coroutine, fresh (made on this line), plain (a number or a bool) or unknown."""
    name: Any = None
    base: Any = None


_UNKNOWN = _Value("unknown")
_FRESH = _Value("fresh")
_PLAIN = _Value("plain")
_COROUTINE = _Value("coroutine")


class _Instruction(NamedTuple):
    offset: int
    line: int
    accesses: tuple[_Access, ...]
    jumps_back: bool


class _Code:
    """The accesses of one code object, instruction by instruction."""

    def __init__(self, code: types.CodeType, globals_: dict[str, Any]) -> None:
        self.globals = globals_
        self.library = _traced_library(code)
        self.meets = self.library is not None and code.co_qualname in _MEET
        self.stack: list[_Value] = []
        self.iterates_fresh = False
        self.found: list[_Access] = []
        self.instructions = list(self._analyse(code))

    def _analyse(self, code: types.CodeType) -> Iterator[_Instruction]:
        line = code.co_firstlineno
        for instruction in dis.get_instructions(code):
            if instruction.positions is not None and instruction.positions.lineno is not None:
                line = instruction.positions.lineno
            if instruction.is_jump_target:
                self.stack.clear()
            self.found = []
            self._step(instruction)
            jumps_back = instruction.opname == "JUMP_BACKWARD"
            yield _Instruction(instruction.offset, line, tuple(self.found), jumps_back)

    # The stack, as far as it is known

    def _pop(self, count: int = 1) -> list[_Value]:
        values = [self.stack.pop() if self.stack else _UNKNOWN for _ in range(count)]
        values.reverse()
        return values

    def _push(self, *values: _Value) -> None:
        self.stack.extend(values)

    def _items(self, write: bool, key: _Value = _UNKNOWN) -> None:
        """What a container holds is touched."""
        if self.library is not None:
            self.found.append((_OWN * _PARTS + _libraries.number(self.library), write))
            return
        part = 0
        if key.kind == "const" and isinstance(key.name, str | int):
            part = _keys.number(key.name)
        self.found.append((_ITEMS * _PARTS + part, write))

    def _own(self, write: bool = True) -> None:
        """An object without lines inside is touched."""
        if self.library is None:
            self.found.append((_OWN * _PARTS + _libraries.number("loopwright"), write))

    def _name(self, name: str, write: bool) -> None:
        self.found.append(_named(name, write))
        if self.library is None and name in _PRIVATE:
            self.found.append((_OWN * _PARTS, True))

    # Instructions

    def _step(self, instruction: dis.Instruction) -> None:
        name, argument = instruction.opname, instruction.argval
        handler = getattr(self, f"_do_{_GROUPS.get(name, 'other')}")
        handler(name, argument, instruction)

    def _do_nothing(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        pass

    def _do_other(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        self.stack.clear()

    def _do_load_const(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        self._push(_Value("const", argument))

    def _do_load_local(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        names = argument if isinstance(argument, tuple) else (argument,)
        self._push(*(_Value("local", each) for each in names))

    def _do_store_local(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        if name == "STORE_FAST_LOAD_FAST":
            self._pop()
            self._push(_Value("local", argument[1]))
        else:
            self._pop(len(argument) if isinstance(argument, tuple) else 1)

    def _do_load_global(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        self._name(argument, write=False)
        if name in ("LOAD_FROM_DICT_OR_GLOBALS", "LOAD_FROM_DICT_OR_DEREF"):
            self._pop()
        is_call = name == "LOAD_GLOBAL" and bool((instruction.arg or 0) & 1)
        value = _Value("global", argument)
        self._push(*((value, _UNKNOWN) if is_call and sys.version_info >= (3, 13) else (value,)))
        if is_call and sys.version_info < (3, 13):
            self.stack.insert(max(len(self.stack) - 1, 0), _UNKNOWN)

    def _do_load_cell(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        self._name(argument, write=False)
        self._push(_Value("cell", argument))

    def _do_store_name(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        if name.startswith("STORE"):
            self._pop()
        self._name(argument, write=True)

    def _do_load_attr(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        if name == "LOAD_SUPER_ATTR":
            self._pop(2)
            (base,) = (_UNKNOWN,)
        else:
            (base,) = self._pop()
        is_method = bool((instruction.arg or 0) & 1) and name != "LOAD_METHOD"
        self._name(argument, write=False)
        value = _Value("attr", argument, base)
        if is_method or name == "LOAD_METHOD":
            self._push(*((value, _UNKNOWN) if sys.version_info >= (3, 13) else (_UNKNOWN, value)))
        else:
            self._push(value)

    def _do_store_attr(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        self._pop(2 if name == "STORE_ATTR" else 1)
        self._name(argument, write=True)

    def _do_load_item(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        if name == "BINARY_SLICE":
            self._pop(3)
            self._items(write=False)
        else:
            container, key = self._pop(2)
            if container.kind not in ("const", "fresh"):
                self._items(write=False, key=key)
        self._push(_UNKNOWN)

    def _do_store_item(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        if name == "STORE_SLICE":
            self._pop(4)
            self._items(write=True)
            return
        values = self._pop(3 if name == "STORE_SUBSCR" else 2)
        self._items(write=True, key=values[-1])
        if values[-1].kind == "const" and name == "DELETE_SUBSCR":
            self._items(write=True)

    def _do_operator(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        operator = instruction.argrepr
        if operator.startswith("[]"):
            self._do_load_item("BINARY_SUBSCR", argument, instruction)
            return
        left, right = self._pop(2)
        plain = any(_is_plain(value) for value in (left, right))
        if not plain:
            self._items(write=operator.endswith("="))
        self._push(_PLAIN if plain else _UNKNOWN)

    def _do_compare(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        left, right = self._pop(2)
        if name == "CONTAINS_OP":
            if right.kind not in ("const", "fresh"):
                self._items(write=False)
        elif name == "COMPARE_OP" and not any(_is_plain(value) for value in (left, right)):
            self._items(write=False)
        self._push(_PLAIN)

    def _do_truth(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        (value,) = self._pop()
        if value.kind not in ("plain", "const"):
            self._items(write=False)
        if not name.startswith("POP_JUMP"):
            self._push(_PLAIN)

    def _do_jump_on_bool(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        # From 3.13 on these take a real bool: TO_BOOL made it.
        if sys.version_info >= (3, 13):
            self._pop()
        else:
            self._do_truth(name, argument, instruction)

    def _do_build(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        self._pop((instruction.arg or 0) * (2 if name == "BUILD_MAP" else 1))
        self._push(_FRESH)

    def _do_iterate(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        if name == "GET_ITER":
            (value,) = self._pop()
            self.iterates_fresh = value.kind in ("fresh", "const")
            if not self.iterates_fresh:
                self._items(write=False)
            self._push(_FRESH if self.iterates_fresh else _UNKNOWN)
            return
        if not self.iterates_fresh:
            self._items(write=False)
        self.iterates_fresh = False
        self.stack.clear()

    def _do_copy(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        depth = instruction.arg or 1
        if name == "COPY":
            self._push(self.stack[-depth] if depth <= len(self.stack) else _UNKNOWN)
            return
        while len(self.stack) < depth:
            self.stack.insert(0, _UNKNOWN)
        self.stack[-1], self.stack[-depth] = self.stack[-depth], self.stack[-1]

    def _do_pop(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        self._pop()

    def _do_push_null(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        self._push(_UNKNOWN)

    def _do_bulk(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        self._pop()
        self._items(write=False)

    def _do_unpack(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        (value,) = self._pop()
        if value.kind not in ("fresh", "const"):
            self._items(write=False)
        self.stack.clear()

    def _do_look(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        self._items(write=False)
        self.stack.clear()

    def _do_format(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        (value,) = self._pop()
        if not _is_plain(value):
            self._items(write=False)
        self.stack.clear()

    def _do_await(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        (value,) = self._pop()
        self._push(_UNKNOWN)
        if value.kind == "coroutine":
            return
        # Futures tell who awaits them, but for the one that gather() makes.
        self.found.append((_FUTURES * _PARTS + _GATHERED, False))
        if value.kind in ("local", "cell", "global", "attr"):
            self._own()

    def _do_with(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        self._own()
        self.stack.clear()

    def _do_call(self, name: str, argument: Any, instruction: dis.Instruction) -> None:
        if name == "CALL_FUNCTION_EX":
            self._items(write=False)
            self.stack.clear()
            self._items(write=True)
            self._own()
            self._push(_UNKNOWN)
            return
        if name == "CALL_KW":
            self._pop()
        arguments = self._pop(instruction.arg or 0)
        first, second = self._pop(2)
        callee = first if first.kind != "unknown" else second
        self._push(self._call(callee, arguments))

    def _call(self, callee: _Value, arguments: list[_Value]) -> _Value:
        """What a call touches; what is known of its result."""
        target = self._resolve(callee)
        if target is None and callee.kind == "attr":
            self._method(callee)
            return _UNKNOWN
        if target is None:
            # Some function, which may be written in C and do anything to what it is given.
            self._items(write=True)
            self._own()
            return _UNKNOWN
        return self._known_call(target, arguments)

    def _method(self, callee: _Value) -> None:
        name = callee.name
        if self.meets and name.startswith("set_"):
            self.found.append((_FUTURES * _PARTS + _GATHERED, True))
        if callee.base.kind in ("const", "fresh") and name in _STRINGS:
            if name == "join":
                self._items(write=False)
            return
        if name in _WRITE:
            self._items(write=True)
        elif name in _READ:
            self._items(write=False)
        if name in _OWN_METHODS:
            self._own()

    def _known_call(self, target: Any, arguments: list[_Value]) -> _Value:  # noqa: PLR0911 (one per kind of callee)
        name = getattr(target, "__name__", "")
        if isinstance(target, types.FunctionType):
            if not _is_watched(target.__code__):
                self._items(write=True)
            return _COROUTINE if target.__code__.co_flags & inspect.CO_COROUTINE else _UNKNOWN
        if isinstance(target, types.MethodType) and isinstance(target.__func__, types.FunctionType):
            if not _is_watched(target.__func__.__code__):
                self._items(write=True)
            return _UNKNOWN
        module = getattr(target, "__module__", None)
        if module in _PURE_MODULES:
            return _PLAIN
        if module == "builtins" or getattr(builtins, name, None) is target:
            if name in _PURE or (isinstance(target, type) and issubclass(target, BaseException)):
                return _FRESH if name in _FRESH_CALLS else _UNKNOWN
            if all(value.kind in ("const", "plain") for value in arguments):
                return _FRESH
            # next() and what consumes an iterator that somebody else may hold.
            self._items(write=name in ("next", "anext", "exec", "eval"))
            return _UNKNOWN if name not in ("len", "sum") else _PLAIN
        if isinstance(target, type):
            if self.library is None and issubclass(target, asyncio.Future) and not issubclass(target, asyncio.Task):
                gaps.add("a future was made by its class, not by loop.create_future(): who touches it is not known")
            if target.__module__.split(".")[0] != "loopwright" and not _is_pure_python(target):
                self._items(write=False)
            return _UNKNOWN
        if module is not None and module.split(".")[0] in ("asyncio", "_asyncio", "loopwright", "_contextvars"):
            return _UNKNOWN
        self._items(write=True)
        return _UNKNOWN

    def _resolve(self, callee: _Value) -> Any:
        """The object that a global's name, or an attribute of a global module or class, stands for."""
        if callee.kind == "global":
            found = self.globals.get(callee.name, getattr(builtins, callee.name, None))
            return found
        if callee.kind == "attr" and callee.base.kind in ("global", "attr"):
            base = self._resolve(callee.base)
            if isinstance(base, types.ModuleType | type):
                return getattr(base, callee.name, None)
        return None

    # By place

    def of_line(self, line: int) -> set[_Access]:
        return {access for each in self.instructions if each.line == line for access in each.accesses}

    def of_resumption(self, offset: int) -> set[_Access]:
        """What the rest of a line touches, from an await on. A loop within one line starts it again."""
        line = next((each.line for each in self.instructions if each.offset >= offset), None)
        rest = [each for each in self.instructions if each.line == line]
        if not any(each.jumps_back and each.offset > offset for each in rest):
            rest = [each for each in rest if each.offset > offset]
        accesses = {access for each in rest for access in each.accesses}
        # An awaited operation of an object without lines inside takes effect as it ends.
        own = (_OWN * _PARTS + _libraries.number("loopwright"), True)
        if any(own in each.accesses for each in self.instructions if each.line == line):
            accesses.add(own)
        return accesses


def _is_plain(value: _Value) -> bool:
    return value.kind == "plain" or (value.kind == "const" and isinstance(value.name, _NUMBERS))


def _is_pure_python(kind: type) -> bool:
    """Whether a call of this class runs lines alone."""
    made_by: tuple[object, ...] = (getattr(kind, "__new__", None), getattr(kind, "__init__", None))
    return all(isinstance(each, types.FunctionType) or each in (object.__new__, object.__init__) for each in made_by)


_GROUPS: dict[str, str] = {}
for _group, _opnames in {
    "nothing": "NOP RESUME CACHE EXTENDED_ARG PRECALL KW_NAMES MAKE_CELL COPY_FREE_VARS NOT_TAKEN RETURN_GENERATOR",
    "load_const": "LOAD_CONST LOAD_SMALL_INT LOAD_CONST_IMMORTAL",
    "load_local": "LOAD_FAST LOAD_FAST_CHECK LOAD_FAST_BORROW LOAD_FAST_AND_CLEAR LOAD_FAST_LOAD_FAST "
    "LOAD_FAST_BORROW_LOAD_FAST_BORROW LOAD_CLOSURE",
    "store_local": "STORE_FAST STORE_FAST_STORE_FAST STORE_FAST_LOAD_FAST",
    "load_global": "LOAD_GLOBAL LOAD_NAME LOAD_FROM_DICT_OR_GLOBALS LOAD_FROM_DICT_OR_DEREF",
    "load_cell": "LOAD_DEREF LOAD_CLASSDEREF",
    "store_name": "STORE_GLOBAL DELETE_GLOBAL STORE_NAME DELETE_NAME STORE_DEREF DELETE_DEREF",
    "load_attr": "LOAD_ATTR LOAD_METHOD LOAD_SUPER_ATTR",
    "store_attr": "STORE_ATTR DELETE_ATTR",
    "load_item": "BINARY_SUBSCR BINARY_SLICE",
    "store_item": "STORE_SUBSCR DELETE_SUBSCR STORE_SLICE",
    "operator": "BINARY_OP",
    "compare": "COMPARE_OP CONTAINS_OP IS_OP",
    "truth": "TO_BOOL UNARY_NOT",
    "jump_on_bool": "POP_JUMP_IF_TRUE POP_JUMP_IF_FALSE",
    "pop": "POP_TOP POP_JUMP_IF_NONE POP_JUMP_IF_NOT_NONE",
    "build": "BUILD_TUPLE BUILD_LIST BUILD_SET BUILD_MAP BUILD_STRING",
    "iterate": "GET_ITER FOR_ITER GET_YIELD_FROM_ITER",
    "copy": "COPY SWAP",
    "push_null": "PUSH_NULL",
    "bulk": "LIST_EXTEND SET_UPDATE DICT_UPDATE DICT_MERGE",
    "unpack": "UNPACK_SEQUENCE UNPACK_EX",
    "look": "MATCH_KEYS MATCH_SEQUENCE MATCH_MAPPING MATCH_CLASS GET_LEN",
    "format": "FORMAT_VALUE FORMAT_SIMPLE FORMAT_WITH_SPEC CONVERT_VALUE",
    "await": "GET_AWAITABLE",
    "with": "BEFORE_WITH BEFORE_ASYNC_WITH LOAD_SPECIAL GET_AITER GET_ANEXT",
    "call": "CALL CALL_KW CALL_FUNCTION_EX",
}.items():
    _GROUPS.update(dict.fromkeys(_opnames.split(), _group))


# Whose lines count


def _traced_library(code: types.CodeType) -> str | None:
    file = code.co_filename.replace("\\", "/")
    return next((library for library in _TRACED if file.endswith(library)), None)


_inside: tuple[str, ...] = tuple({f"{dis.__file__.replace(chr(92), '/').rsplit('/', 1)[0]}/"})
_OURS = __file__.replace("\\", "/").rsplit("/", 2)[0] + "/"


def _is_watched(code: types.CodeType) -> bool:
    """Whether the lines of this code count: not those of the standard library, of asyncio's loop and of Loopwright."""
    file = code.co_filename.replace("\\", "/")
    if file.startswith("<frozen") or file.startswith(_OURS):
        return False
    if file.startswith(_inside) and "/site-packages/" not in file:
        return _traced_library(code) is not None
    return True


_codes: dict[int, tuple[types.CodeType, _Code | None]] = {}
"""By identity: equal code may have different globals. The code object is kept, and so its address."""


def _analysed(code: types.CodeType) -> _Code | None:
    known = _codes.get(id(code))
    if known is None:
        known = _codes[id(code)] = (code, _Code(code, _globals_of(code)) if _is_watched(code) else None)
    return known[1]


def _globals_of(code: types.CodeType) -> dict[str, Any]:
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is code:
            return frame.f_globals
        frame = frame.f_back
    return {}


_Touches = tuple[list[_Access], list[int]]


def _of_line(code: types.CodeType, line: int) -> _Touches | None:
    analysed = _analysed(code)
    return None if analysed is None else _touches(analysed, analysed.of_line(line), code)


def _of_resumption(code: types.CodeType, offset: int) -> _Touches | None:
    analysed = _analysed(code)
    return None if analysed is None else _touches(analysed, analysed.of_resumption(offset), code)


def _touches(analysed: _Code, accesses: set[_Access], code: types.CodeType) -> _Touches | None:
    meetings = []
    if analysed.meets:
        meetings = [_MEETINGS * _PARTS + _libraries.number(code.co_qualname)]
        if any(_names.number(name) * _PARTS == location for name in _FAILED for location, _ in accesses):
            accesses.add((meetings[0], True))
    written = {location for location, write in accesses if write}
    kept = sorted(access for access in accesses if access[1] or access[0] not in written)
    return (kept, meetings) if kept or meetings else None


# Futures and tasks report themselves


class _Watched:
    """What every future of a watched loop does beside its work."""

    def _touch(self, write: bool) -> None:
        raise NotImplementedError

    def __await__(self) -> Any:
        self._touch(write=False)
        return super().__await__()  # type: ignore[misc]

    __iter__ = __await__


def _reporting(name: str, write: bool) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._touch(write)
        return getattr(super(self._watched_type, self), name)(*args, **kwargs)

    method.__name__ = name
    return method


_METHODS = {
    "done": False,
    "result": False,
    "exception": False,
    "cancelled": False,
    "cancel": True,
    "add_done_callback": True,
    "remove_done_callback": True,
}


class WatchedFuture(_Watched, asyncio.Future[Any]):
    """A future that tells who touches it."""

    def __init__(self, number: int, **options: Any) -> None:
        self._number = min(number, _PARTS - 1)
        super().__init__(**options)

    def _touch(self, write: bool) -> None:
        _footprints().touched(_FUTURES * _PARTS + self._number, write)


class WatchedTask(_Watched, SimTask[Any]):
    """A task that tells who touches it."""

    def _touch(self, write: bool) -> None:
        lane = getattr(self, "_loopwright_lane", _PARTS)
        _footprints().touched(_TASKS * _PARTS + (lane + 1 if lane < _PARTS - 1 else 0), write)


_KINDS: tuple[tuple[Any, dict[str, bool]], ...] = (
    (WatchedFuture, {**_METHODS, "set_result": True, "set_exception": True}),
    (WatchedTask, {**_METHODS, "uncancel": True, "cancelling": False}),
)
for _kind, _methods in _KINDS:
    _kind._watched_type = _kind
    for _method, _write in _methods.items():
        setattr(_kind, _method, _reporting(_method, _write))


# Watching

_monitoring: Any = getattr(sys, "monitoring", None)
"""``sys.monitoring``, which CPython 3.12 brought."""

_native: list[_Footprints] = []


def _footprints() -> _Footprints:
    if not _native:
        _native.append(_Footprints(_of_line, _of_resumption, _monitoring.DISABLE))
    return _native[0]


class Watch:
    """A context in which the loops that are given to :meth:`watch` are told what their steps touch.

    Raises:
        Unavailable: at the beginning: this interpreter is too old, or all tool ids of ``sys.monitoring`` are taken.
    """

    _tool: int

    def __enter__(self) -> Self:
        if sys.version_info < (3, 12):
            raise Unavailable("lines are watched by sys.monitoring, which CPython 3.12 brought")
        self._tool = _free_tool()
        events = _monitoring.events
        footprints = _footprints()
        _monitoring.register_callback(self._tool, events.LINE, footprints.line)
        # A function of a single line, a lambda say, starts without a LINE.
        for event in (events.PY_START, events.PY_RESUME):
            _monitoring.register_callback(self._tool, event, footprints.resumed)
        _monitoring.set_events(self._tool, events.LINE | events.PY_START | events.PY_RESUME)
        # A tool id that somebody else had may come with places that are switched off.
        _monitoring.restart_events()
        return self

    def __exit__(self, *_: object) -> None:
        _footprints().watch(None)
        events = _monitoring.events
        _monitoring.set_events(self._tool, events.NO_EVENTS)
        for event in (events.LINE, events.PY_START, events.PY_RESUME):
            _monitoring.register_callback(self._tool, event, None)
        _monitoring.free_tool_id(self._tool)

    gaps = gaps

    def watch(self, loop: SimLoop) -> None:
        """This loop's steps are told from now on, and no other's."""
        made = 0

        def create_future() -> asyncio.Future[Any]:
            nonlocal made
            made += 1
            return WatchedFuture(made, loop=loop)

        loop.task_type = WatchedTask
        loop.create_future = create_future  # type: ignore[method-assign]
        loop._watch_tasks(_TASKS * _PARTS)
        _footprints().watch(loop)


def _free_tool() -> int:
    # The ids that have no meaning of their own first.
    for tool in (4, 3, 2, 5, 1, 0):
        try:
            _monitoring.use_tool_id(tool, "loopwright")
        except ValueError:
            continue
        return tool
    raise Unavailable("all tool ids of sys.monitoring are taken: by coverage, a profiler, a debugger ...")
