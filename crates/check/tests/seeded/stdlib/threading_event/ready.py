import threading


class Model:
    def __init__(self):
        self.loaded = threading.Event()
        threading.Thread(target=self._load, daemon=True).start()

    def _load(self):
        self.weights = [0.0] * 1000
        self.loaded.set()

    async def predict(self, x):
        self.loaded.wait()  # BUG: LW101
        return self.weights[0] * x
