import queue
import threading
import time


class Recorder:
    def __init__(self):
        self._queue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self):
        while True:
            item = self._queue.get()
            self._write(item)

    def _write(self, item):
        time.sleep(0.01)
        print(item)

    def record(self, item):
        self._queue.put(item)  # OK: an unbounded queue takes it at once


async def handle(request, recorder: Recorder):
    recorder.record(request.path)
