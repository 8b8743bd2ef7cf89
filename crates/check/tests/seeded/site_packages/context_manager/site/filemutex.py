import os
import time


class FileMutex:
    def __init__(self, path):
        self.path = path

    def __enter__(self):
        while True:
            try:
                self.fd = os.open(self.path, os.O_CREAT | os.O_EXCL)
                return self
            except FileExistsError:
                time.sleep(0.1)

    def __exit__(self, *exc):
        os.close(self.fd)
        os.unlink(self.path)
