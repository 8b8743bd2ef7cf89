import asyncio
import socket


class Heartbeat:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def beat(self) -> None:
        with socket.create_connection(("monitor", 9000)) as sock:  # BUG: LW103
            sock.sendall(b"alive")
        self.loop.call_later(5, self.beat)


async def main() -> None:
    heartbeat = Heartbeat(asyncio.get_running_loop())
    heartbeat.loop.call_soon(heartbeat.beat)
    await asyncio.Event().wait()
