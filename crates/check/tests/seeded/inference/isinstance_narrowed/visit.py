import subprocess


class Node:
    children: list["Node"] = []


class Include(Node):
    def expand(self) -> str:
        return subprocess.check_output(["cat", "x"], text=True)  # BUG: LW101


async def render(node: Node) -> str:
    text = ""
    for child in node.children:
        if isinstance(child, Include):
            text += child.expand()
    return text
