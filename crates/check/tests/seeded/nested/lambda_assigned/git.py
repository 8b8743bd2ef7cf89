import subprocess

git = lambda *args: subprocess.check_output(("git", *args), text=True)  # BUG: LW101


async def branch():
    return git("rev-parse", "--abbrev-ref", "HEAD").strip()
