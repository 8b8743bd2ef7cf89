from typing import Protocol


class Clock(Protocol):
    def pause(self, seconds: float) -> None: ...


class Notifier(Protocol):
    def notify(self, text: str) -> bool: ...
