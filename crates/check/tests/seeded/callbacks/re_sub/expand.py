import re
import subprocess


def run(match: re.Match[str]) -> str:
    return subprocess.check_output(match[1], shell=True, text=True)  # BUG: LW101


async def expand(template: str) -> str:
    return re.sub(r"\$\((.*?)\)", run, template)
