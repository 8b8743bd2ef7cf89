import subprocess
from functools import partial


def run_tool(tool: str, path: str, *, check: bool = True) -> int:
    return subprocess.run([tool, path], check=check).returncode  # BUG: LW101


lint = partial(run_tool, "linter")
fmt = partial(run_tool, "formatter", check=False)


async def on_save(path: str) -> dict[str, int]:
    return {"lint": lint(path), "format": fmt(path)}
