import socket
from functools import lru_cache


class Resolver:
    @lru_cache(maxsize=1024)
    def resolve(self, host: str) -> str:
        return socket.gethostbyname(host)  # BUG: LW101


class Proxy:
    def __init__(self) -> None:
        self.resolver = Resolver()

    async def connect(self, host: str, port: int, open_to):
        return await open_to(self.resolver.resolve(host), port)
