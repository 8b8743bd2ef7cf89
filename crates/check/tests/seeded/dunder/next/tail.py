import time


class Tail:
    def __init__(self, path):
        self._file = open(path)

    def __iter__(self):
        return self

    def __next__(self):
        while True:
            line = self._file.readline()
            if line:
                return line
            time.sleep(0.1)  # BUG: LW101


async def forward(path, websocket):
    for line in Tail(path):
        await websocket.send(line)
