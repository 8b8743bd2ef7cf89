import subprocess

from watcher import Watcher


def rebuild(name):
    subprocess.run(["make", name], check=True)  # BUG: LW101


watcher = Watcher(rebuild)


async def tick(source):
    await watcher.poll(source)
