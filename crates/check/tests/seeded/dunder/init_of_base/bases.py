import subprocess


class Base:
    def __init__(self, workdir: str) -> None:
        self.workdir = workdir
        subprocess.run(["mkdir", "-p", workdir], check=False)  # BUG: LW101


class Sandbox(Base):
    limit = 10

    async def enter(self) -> str:
        return self.workdir


async def spawn(n: int) -> list[Sandbox]:
    return [Sandbox(f"/tmp/box-{i}") for i in range(n)]
