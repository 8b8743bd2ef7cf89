import subprocess
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def first(items: Sequence[T], default: T) -> T:
    return items[0] if items else default


class Box:
    def __init__(self, name: str) -> None:
        self.name = name

    def inspect(self) -> bytes:
        return subprocess.check_output(["docker", "inspect", self.name])  # BUG: LW101


async def describe(boxes: list[Box]) -> bytes:
    box = first(boxes, Box("none"))
    return box.inspect()
