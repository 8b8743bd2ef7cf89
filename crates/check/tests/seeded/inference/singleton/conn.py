import socket

_instance = None


class Connection:
    def __init__(self):
        self._sock = socket.socket()

    @classmethod
    def instance(cls):
        global _instance
        if _instance is None:
            _instance = cls()
        return _instance

    def call(self, data):
        self._sock.sendall(data)
        return self._sock.recv(4096)  # BUG: LW101


async def rpc(data):
    return Connection.instance().call(data)
