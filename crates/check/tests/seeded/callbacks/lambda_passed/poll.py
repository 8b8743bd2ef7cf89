import time


def until(condition, timeout=10.0):
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.1)  # BUG: LW101


async def start(server):
    server.start()
    until(lambda: server.ready)
    await server.announce()
