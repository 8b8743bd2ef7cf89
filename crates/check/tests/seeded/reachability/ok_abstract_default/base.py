import time


class Driver:
    def reset(self):
        raise NotImplementedError


class Fake(Driver):
    def reset(self):
        self.done = True


class Real(Driver):
    def reset(self):
        time.sleep(5)


async def check():
    driver = Fake()
    driver.reset()  # OK: the receiver is exactly Fake
    return driver.done
