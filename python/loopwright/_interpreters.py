"""Subinterpreters that :func:`loopwright.offload` runs calls in: an interpreter lock of their own, without a process.

Only on CPython 3.14 and later. What runs there cannot be stopped from outside, and cannot import extension modules that
know one interpreter only: Loopwright's own is such a one, and so is numpy's.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

from loopwright.errors import RemoteError

__all__ = ["Interpreters"]

_PRELUDE = """
import sys
sys.path[:] = _path.split("\\0")

def _loopwright_call(data, replies):
    import pickle
    try:
        function, args, kwargs = pickle.loads(data)
        reply = pickle.dumps((True, function(*args, **kwargs), ""), 5)
    except BaseException as error:
        import traceback
        words = "".join(traceback.format_exception(error))
        try:
            pickled = pickle.dumps(error, 5)
            pickle.loads(pickled)
        except Exception:
            pickled = None
        reply = pickle.dumps((False, pickled, words), 5)
    replies.put(reply)
"""


class _Interpreter:
    """One subinterpreter, for one call at a time."""

    def __init__(self) -> None:
        from concurrent import interpreters  # type: ignore[attr-defined]  # noqa: PLC0415 (3.14 and later)

        self._replies = interpreters.create_queue()
        self._interpreter = interpreters.create()
        self._interpreter.prepare_main(_path="\0".join(sys.path))
        self._interpreter.exec(_PRELUDE)

    def call(self, data: bytes) -> bytes:
        self._interpreter.prepare_main(_data=data, _replies=self._replies)
        self._interpreter.exec("_loopwright_call(_data, _replies); del _data, _replies")
        reply: bytes = self._replies.get_nowait()
        return reply

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._interpreter.close()


class Interpreters:
    """The subinterpreters of this process. They are kept; each costs some megabytes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Interpreter] = []
        atexit.register(self.close)
        os.register_at_fork(before=self.close)  # CPython 3.15.0 crashes in a child that inherits one

    def run(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs ``function(*args, **kwargs)`` in a subinterpreter, in this thread."""
        if getattr(function, "__module__", None) == "__main__":
            raise ValueError(
                f"offload(on='interpreter'): {function!r} is of the main module, which a subinterpreter does not have: "
                "put it into a module of its own, one that imports neither loopwright nor numpy"
            )
        data = pickle.dumps((function, args, kwargs), 5)
        with self._lock:
            interpreter = self._idle.pop() if self._idle else None
        interpreter = interpreter or _Interpreter()
        reply = interpreter.call(data)
        with self._lock:
            self._idle.append(interpreter)
        is_result, value, words = pickle.loads(reply)
        if is_result:
            return value
        remote = RemoteError(f'\n"""\n{words}"""')
        if value is None:
            raise remote
        error = pickle.loads(value)
        error.__cause__ = remote
        raise error

    def close(self) -> None:
        """Ends those that rest."""
        with self._lock:
            idle, self._idle = self._idle, []
        for interpreter in idle:
            interpreter.close()
