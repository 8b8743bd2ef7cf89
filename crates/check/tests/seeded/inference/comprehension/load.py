from pathlib import Path


def load(path: Path) -> str:
    return path.read_text()  # BUG: LW101


async def prompts(root: Path) -> dict[str, str]:
    return {path.stem: load(path) for path in root.iterdir()}
