import time


class Connection:
    def execute(self, query):
        time.sleep(1)


def connect():
    return Connection()
