import time


class Relay:
    def __init__(self, port) -> None:
        self._port = port
        self._on = False

    @property
    def on(self) -> bool:
        return self._on

    @on.setter
    def on(self, value: bool) -> None:
        self._port.write(b"1" if value else b"0")
        time.sleep(0.05)  # BUG: LW101
        self._on = value


async def toggle(relay: Relay) -> None:
    relay.on = not relay.on
