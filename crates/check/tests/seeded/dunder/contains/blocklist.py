import socket


class Blocklist:
    def __init__(self, zone: str) -> None:
        self.zone = zone

    def __contains__(self, address: str) -> bool:
        name = ".".join(reversed(address.split("."))) + "." + self.zone
        try:
            socket.gethostbyname(name)  # BUG: LW101
        except OSError:
            return False
        return True


blocked = Blocklist("zen.internal")


async def on_connect(peer: str, writer) -> bool:
    if peer in blocked:
        writer.close()
        return False
    return True
