import fcntl
from contextlib import contextmanager


@contextmanager
def locked(path: str):
    with open(path, "w") as handle:
        fcntl.lockf(handle, fcntl.LOCK_EX)  # BUG: LW101
        try:
            yield handle
        finally:
            fcntl.lockf(handle, fcntl.LOCK_UN)


async def bump(counter, path: str) -> None:
    with locked(path):
        counter.value += 1
