import socket


class Printer:
    def __init__(self, host: str) -> None:
        self.sock = socket.create_connection((host, 9100))  # BUG: LW101

    def feed(self) -> bytes:
        return b"\n" * 4


async def label(host: str) -> bytes:
    printer = Printer(host)
    return printer.feed()
