import time


class Device:
    def reset(self):
        pass


class Serial(Device):
    def reset(self):
        time.sleep(1.5)  # BUG: LW101
        super().reset()


class Logged(Device):
    def reset(self):
        print("reset", self)
        super().reset()


class Modem(Logged, Serial):
    pass


async def recover(modem: Modem) -> None:
    modem.reset()
