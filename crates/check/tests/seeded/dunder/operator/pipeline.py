import subprocess


class Command:
    def __init__(self, *argv: str) -> None:
        self.argv = argv
        self.stdin = b""

    def __or__(self, other: "Command") -> "Command":
        done = subprocess.run(self.argv, input=self.stdin, stdout=subprocess.PIPE)  # BUG: LW101
        other.stdin = done.stdout
        return other


async def count(path: str) -> Command:
    return Command("cat", path) | Command("wc", "-l")
