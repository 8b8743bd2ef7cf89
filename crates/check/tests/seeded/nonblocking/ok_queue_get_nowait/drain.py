import queue


class Inbox:
    def __init__(self):
        self.items = queue.Queue()

    def drain(self):
        found = []
        while True:
            try:
                found.append(self.items.get(block=False))  # OK: does not wait
            except queue.Empty:
                return found

    def add(self, item):
        self.items.put_nowait(item)


async def tick(inbox: Inbox, sink):
    await sink(inbox.drain())
