import subprocess


class Host:
    def __init__(self, address: str) -> None:
        self.address = address

    @property
    def reachable(self) -> bool:
        return subprocess.call(["ping", "-c1", self.address]) == 0  # BUG: LW101


async def sweep(hosts: list[Host]) -> list[str]:
    return [host.address for host in hosts if host.reachable]
