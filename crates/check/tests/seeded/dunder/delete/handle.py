import subprocess


class Mount:
    def __init__(self, device: str, at: str) -> None:
        self.at = at
        self.device = device

    def path(self, name: str) -> str:
        return f"{self.at}/{name}"

    def __del__(self) -> None:
        subprocess.call(["umount", self.at])  # BUG: LW101


async def listing(device: str, read) -> list[str]:
    mount = Mount(device, "/mnt/x")
    names = await read(mount.path("index"))
    del mount
    return names
