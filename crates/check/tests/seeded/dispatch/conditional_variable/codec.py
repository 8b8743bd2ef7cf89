import json
import subprocess


def plain(data: bytes) -> bytes:
    return data


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-19"], input=data, stdout=subprocess.PIPE).stdout  # BUG: LW101


async def respond(request, payload: dict) -> bytes:
    encode = zstd if "zstd" in request.headers["accept-encoding"] else plain
    return encode(json.dumps(payload).encode())
