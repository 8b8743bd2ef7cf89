from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def with_retries(call: Callable[..., T], *args, attempts: int = 3) -> T:
    for left in reversed(range(attempts)):
        try:
            return call(*args)
        except OSError:
            if not left:
                raise
    raise AssertionError
