import time


class Robot:
    def halt(self) -> None:
        time.sleep(0.2)  # BUG: LW101


class Fleet:
    def __init__(self) -> None:
        self.robots: list[Robot] = []

    def add(self) -> None:
        self.robots.append(Robot())

    async def halt_all(self) -> None:
        for i, robot in enumerate(self.robots):
            robot.halt()
            print(i)
