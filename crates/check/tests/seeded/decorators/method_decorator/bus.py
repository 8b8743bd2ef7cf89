import functools
import socket


def connected(method):
    @functools.wraps(method)
    def inner(self, *args):
        if self._sock is None:
            self._sock = socket.create_connection(self._address)  # BUG: LW101
        return method(self, *args)

    return inner


class Bus:
    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._sock: socket.socket | None = None

    @connected
    def topic(self, name: str) -> bytes:
        return f"TOPIC {name}\n".encode()


async def subscribe(bus: Bus, names: list[str]) -> list[bytes]:
    return [bus.topic(name) for name in names]
