import asyncio
import subprocess


def _git(*args: str, cwd: str) -> str:
    done = subprocess.run(["git", *args], cwd=cwd, check=True, capture_output=True, text=True)  # BUG: LW101
    return done.stdout.strip()


def current_revision(checkout: str) -> str:
    return _git("rev-parse", "HEAD", cwd=checkout)


async def watch(checkout: str, on_change) -> None:
    last = None
    while True:
        revision = current_revision(checkout)
        if revision != last:
            await on_change(revision)
            last = revision
        await asyncio.sleep(5)


asyncio.run(watch(".", print))
