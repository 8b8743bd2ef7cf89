import subprocess
from contextlib import asynccontextmanager


def start_sidecar() -> None:
    subprocess.check_call(["systemctl", "start", "sidecar"])  # BUG: LW101


@asynccontextmanager
async def sidecar():
    start_sidecar()
    try:
        yield
    finally:
        print("stopped")


async def handle(request):
    async with sidecar():
        return await request.proxy()
