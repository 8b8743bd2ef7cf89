import socket
import time


def latency(host: str) -> float:
    started = time.perf_counter()
    with socket.create_connection((host, 80), timeout=1):  # BUG: LW101
        return time.perf_counter() - started


async def best(hosts: list[str]) -> str:
    return sorted(hosts, key=latency)[0]
