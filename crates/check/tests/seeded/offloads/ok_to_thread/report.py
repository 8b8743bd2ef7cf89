import asyncio
import subprocess


def render(path: str) -> bytes:
    return subprocess.check_output(["wkhtmltopdf", path, "-"])


async def pdf(request):
    # OK: runs in a thread
    return await asyncio.to_thread(render, request.query["path"])
