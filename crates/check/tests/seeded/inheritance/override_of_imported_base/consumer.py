import socketserver
import time
from collections import UserDict


class SlowDict(UserDict):
    """A dict that asks the catalogue for what it does not know."""

    def __missing__(self, key):
        return None

    def refresh(self, key):
        time.sleep(0.5)  # BUG: LW101
        self[key] = object()


class Catalogue(SlowDict):
    async def warm(self, keys):
        for key in keys:
            self.refresh(key)


SERVER = socketserver.TCPServer
