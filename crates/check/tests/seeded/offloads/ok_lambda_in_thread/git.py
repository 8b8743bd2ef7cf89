import asyncio
import subprocess


class Repo:
    def __init__(self, path):
        self.path = path

    def log(self, n):
        return subprocess.check_output(["git", "-C", self.path, "log", f"-{n}"])

    async def recent(self):
        # OK: the lambda is called in the thread
        return await asyncio.to_thread(lambda: self.log(10).splitlines())
