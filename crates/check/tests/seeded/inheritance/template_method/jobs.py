import shutil
import subprocess

from base import Job


class Build(Job):
    name = "build"

    async def execute(self) -> None:
        print("built")


class Restore(Job):
    name = "restore"

    def prepare(self) -> None:
        shutil.rmtree("/srv/data", ignore_errors=True)
        subprocess.check_call(["tar", "-xf", "/backup/data.tar", "-C", "/srv"])  # BUG: LW101

    async def execute(self) -> None:
        print("restored")
