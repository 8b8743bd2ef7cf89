import time


def make_waiter(seconds):
    def wait():
        time.sleep(seconds)  # BUG: LW101

    return wait


async def settle(device):
    wait = make_waiter(0.5)
    await device.reset()
    wait()
