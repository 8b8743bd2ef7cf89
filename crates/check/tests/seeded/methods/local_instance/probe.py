import socket


class Probe:
    def __init__(self, host: str, port: int):
        self.host = host
        self.port = port

    def banner(self) -> bytes:
        sock = socket.create_connection((self.host, self.port), timeout=3)  # BUG: LW101
        with sock:
            return sock.recv(64)


async def check(hosts):
    results = {}
    for host in hosts:
        probe = Probe(host, 22)
        results[host] = probe.banner()
    return results
