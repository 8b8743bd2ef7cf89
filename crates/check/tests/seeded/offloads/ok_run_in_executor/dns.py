import asyncio
import functools
import socket


def lookup(host: str, *, family: int = socket.AF_INET) -> list:
    return socket.getaddrinfo(host, None, family)


async def resolve(host: str) -> list:
    loop = asyncio.get_running_loop()
    # OK: the executor's thread waits
    return await loop.run_in_executor(None, functools.partial(lookup, host, family=socket.AF_INET6))
