import subprocess


class DiskReport:
    def __init__(self, mount: str) -> None:
        self.mount = mount

    def __str__(self) -> str:
        return subprocess.check_output(["df", "-h", self.mount], text=True)  # BUG: LW101


async def status(channel) -> None:
    report = DiskReport("/")
    await channel.send(f"disk: {report}")
