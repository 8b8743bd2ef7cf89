import subprocess


def describe(commit):
    return subprocess.check_output(["git", "describe", commit], text=True)  # BUG: LW101


async def tags(commits):
    return [describe(c) async for c in commits]
