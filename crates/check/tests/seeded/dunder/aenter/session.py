import subprocess


class Tunnel:
    def __init__(self, host: str) -> None:
        self.host = host

    def _open(self) -> None:
        subprocess.check_call(["ssh", "-fN", self.host])  # BUG: LW101

    async def __aenter__(self) -> "Tunnel":
        self._open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None


async def query(host: str, sql: str, run) -> list:
    async with Tunnel(host):
        return await run(sql)
