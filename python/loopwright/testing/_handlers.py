"""What the exception handlers of a function do, read from its bytecode.

Two questions are answered: which line of a handler takes an error of a given kind, and whether closing a suspended
generator would run any code of it.
"""

from __future__ import annotations

import dis
import functools
from collections.abc import Iterator
from types import CodeType
from typing import Literal, NamedTuple

__all__ = ["Handler", "cleans_up_at", "handler_at"]

_STOPITERATION_ERROR = 3
"""The intrinsic in the handler that CPython 3.12+ puts around every generator by itself."""
_MOST_NESTED = 100


class Handler(NamedTuple):
    """A handler, as an error of some kind meets it."""

    kind: Literal["with", "clause", "catch-all", "refuses", "re-raises", "implicit"]
    """A context manager; an ``except`` that names the error; an ``except:`` or a ``finally``; an ``except`` for other
    errors; the end of a handler, on the way out; CPython's own."""
    line: int


@functools.lru_cache(maxsize=256)
def handler_at(code: CodeType, offset: int, takes: frozenset[str]) -> Handler:
    """The handler that begins at ``offset``, for an error that clauses with one of the names in ``takes`` take."""
    instructions = list(dis.get_instructions(code))
    index = {instruction.offset: number for number, instruction in enumerate(instructions)}
    first: int | None = None
    line: int | None = None
    names: set[str] = set()
    chain = refused = False  # Whether there is a clause at all; whether the next jump leads over one.
    number = index.get(offset, len(instructions))
    if number < len(instructions) and instructions[number].opname not in {"PUSH_EXC_INFO", "CALL_INTRINSIC_1"}:
        return Handler("re-raises", code.co_firstlineno)
    while number < len(instructions):
        instruction = instructions[number]
        operation = instruction.opname
        line = line or (instruction.positions and instruction.positions.lineno)
        first = first or line
        number += 1
        here = line or code.co_firstlineno
        if refused and "JUMP" in operation:
            number, line, refused = index[instruction.argval], None, False
            names.clear()
        elif operation == "WITH_EXCEPT_START":
            return Handler("with", here)
        elif operation in {"CHECK_EXC_MATCH", "CHECK_EG_MATCH"}:
            if names & takes:
                return Handler("clause", here)
            chain = refused = True
        elif operation.startswith("LOAD_"):
            names.add(str(instruction.argval))
        elif operation == "CALL_INTRINSIC_1" and instruction.arg == _STOPITERATION_ERROR:
            return Handler("implicit", here)
        elif operation == "RERAISE" and chain:
            return Handler("refuses", first or here)
        elif operation in {"POP_TOP", "POP_EXCEPT", "RERAISE", "STORE_FAST", "STORE_DEREF", "CALL"}:
            break
    return Handler("catch-all", line or code.co_firstlineno)


_CLOSING = frozenset({"BaseException", "GeneratorExit"})


@functools.lru_cache(maxsize=256)
def cleans_up_at(code: CodeType, offset: int) -> bool:
    """Whether closing a generator that is suspended at ``offset`` runs code of it: a ``finally``, a ``with``."""
    entries = list(_exception_table(code))
    for _ in range(_MOST_NESTED):
        target = next((target for start, end, target in entries if start <= offset < end), None)
        if target is None:
            return False
        kind = handler_at(code, target, _CLOSING).kind
        if kind in {"with", "clause", "catch-all"}:
            return True
        offset = target
    return False


def _exception_table(code: CodeType) -> Iterator[tuple[int, int, int]]:
    """(start, end, handler) in bytes; see Objects/exception_handling_notes.txt of CPython."""
    table = iter(code.co_exceptiontable)

    def number() -> int:
        byte = next(table)
        value = byte & 63
        while byte & 64:
            byte = next(table)
            value = value << 6 | byte & 63
        return value

    try:
        while True:
            start, length, target, _ = number() * 2, number() * 2, number() * 2, number()
            yield start, start + length, target
    except StopIteration:
        return
