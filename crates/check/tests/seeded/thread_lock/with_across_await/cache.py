import threading


class Cache:
    def __init__(self):
        self._lock = threading.Lock()
        self._values = {}

    async def get(self, key, load):
        with self._lock:  # BUG: LW108
            if key not in self._values:
                self._values[key] = await load(key)
            return self._values[key]
