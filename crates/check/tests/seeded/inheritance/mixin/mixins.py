import time


class ThrottleMixin:
    rate: float = 5.0
    _last: float = 0.0

    def throttle(self) -> None:
        wait = self._last + 1 / self.rate - time.monotonic()
        if wait > 0:
            time.sleep(wait)  # BUG: LW101
        self._last = time.monotonic()
