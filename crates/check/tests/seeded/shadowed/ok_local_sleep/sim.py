class Clock:
    def __init__(self):
        self.now = 0.0

    def sleep(self, seconds):
        self.now += seconds


time = Clock()


def settle():
    time.sleep(5)  # OK: the clock of the simulation


async def step():
    settle()
