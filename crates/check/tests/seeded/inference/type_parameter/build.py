import socket


class Link:
    def ping(self) -> None:
        socket.getaddrinfo("gateway.internal", 80)  # BUG: LW101


def build[T](kind: type[T]) -> T:
    return kind()


async def check() -> None:
    build(Link).ping()
