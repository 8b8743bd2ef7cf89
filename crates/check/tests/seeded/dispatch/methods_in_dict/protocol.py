import time


class Session:
    def __init__(self):
        self._verbs = {"GET": self._get, "WAIT": self._wait}

    def _get(self, arg):
        return arg

    def _wait(self, arg):
        time.sleep(float(arg))  # BUG: LW101
        return "done"

    async def serve(self, reader, writer):
        while line := await reader.readline():
            verb, arg = line.decode().split()
            writer.write(self._verbs[verb](arg).encode())
            await writer.drain()
