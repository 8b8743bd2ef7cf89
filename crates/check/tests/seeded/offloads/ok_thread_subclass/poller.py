import threading
import time


class Poller(threading.Thread):
    def __init__(self, device):
        super().__init__(daemon=True)
        self.device = device
        self.value = None

    def run(self):
        while True:
            self.value = self.device()
            time.sleep(1)


async def watch(device):
    poller = Poller(device)
    poller.start()  # OK: run() is in the new thread
    return poller
