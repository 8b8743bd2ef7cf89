import threading


class Counter:
    def __init__(self):
        self._lock = threading.Lock()
        self.value = 0

    async def add(self, n, notify):
        with self._lock:  # OK: nothing is awaited while it is held
            self.value += n
        await notify(self.value)
