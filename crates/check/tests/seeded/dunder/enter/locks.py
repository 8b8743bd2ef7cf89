import fcntl
import os


class FileLock:
    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1

    def __enter__(self) -> "FileLock":
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(self.fd, fcntl.LOCK_EX)  # BUG: LW101
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.fd)


async def update(state, path: str) -> None:
    with FileLock(path + ".lock"):
        state.version += 1
