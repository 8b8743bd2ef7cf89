import socket


class Control:
    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)

    async def command(self, text: str) -> bytes:
        self.sock.sendall(text.encode())
        return self.sock.recv(65536)  # BUG: LW101
