import functools
import subprocess
from pathlib import Path


@functools.singledispatch
def thumbnail(source) -> bytes:
    raise TypeError(type(source))


@thumbnail.register
def _(source: bytes) -> bytes:
    return source[:100]


@thumbnail.register
def _(source: Path) -> bytes:
    return subprocess.check_output(["convert", str(source), "-thumbnail", "64", "-"])  # BUG: LW101


async def preview(path: Path) -> bytes:
    return thumbnail(path)
