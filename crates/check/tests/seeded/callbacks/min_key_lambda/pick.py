import os
import time


class Node:
    def __init__(self, name: str) -> None:
        self.name = name

    def load(self) -> float:
        time.sleep(0.01)  # BUG: LW101
        return os.getloadavg()[0]


async def choose(nodes: list[Node]) -> Node:
    return min(nodes, key=lambda node: node.load())
