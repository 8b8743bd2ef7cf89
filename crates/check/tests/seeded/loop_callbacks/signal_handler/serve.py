import asyncio
import signal
import subprocess


def flush() -> None:
    subprocess.run(["sync"])  # BUG: LW103


async def main(server) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, flush)
    await server.serve_forever()
