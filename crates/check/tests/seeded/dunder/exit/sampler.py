import threading


class Sampler:
    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.samples: list[float] = []

    def _run(self) -> None:
        while not self._stop.wait(5):
            self.samples.append(1.0)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, exc_type, exc, tb):
        self._stop.set()
        self._thread.join()  # BUG: LW101


async def profile(work):
    with Sampler() as sampler:
        await work()
    return sampler.samples
