import socket


def is_open(host: str, port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((host, port)) == 0  # BUG: LW101


async def healthy(hosts: list[str]) -> bool:
    return any(is_open(host, 443) for host in hosts)
