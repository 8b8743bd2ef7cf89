import select
import threading
import time


class Poll:
    def __init__(self, sock):
        self.sock = sock
        self.stopped = threading.Event()

    def readable(self):
        ready, _, _ = select.select([self.sock], [], [], 0)  # OK: polls
        return bool(ready)

    def is_stopped(self):
        return self.stopped.wait(timeout=0)  # OK: polls

    def yield_gil(self):
        time.sleep(0)  # OK: gives the GIL away, nothing else


async def loop(poll: Poll, read):
    while not poll.is_stopped():
        if poll.readable():
            await read()
        poll.yield_gil()
