import time
from typing import NamedTuple


class Valve:
    def close(self) -> None:
        time.sleep(3)  # BUG: LW101


class Line(NamedTuple):
    valve: Valve
    name: str


async def shut(lines: list[Line]) -> None:
    for line in lines:
        line.valve.close()
