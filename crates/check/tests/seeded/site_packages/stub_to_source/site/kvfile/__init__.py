import fcntl
import time


class Store:
    def __init__(self, path):
        self._path = path

    def get(self, key):
        with open(f"{self._path}/{key}", "rb") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.05)
            return file.read()

    def close(self):
        pass
