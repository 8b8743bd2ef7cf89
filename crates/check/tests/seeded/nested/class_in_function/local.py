import time


def make_device():
    class Device:
        def reset(self):
            time.sleep(1)  # BUG: LW101

    return Device()


async def main():
    make_device().reset()
