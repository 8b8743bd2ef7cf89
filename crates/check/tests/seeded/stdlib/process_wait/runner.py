import subprocess


class Server:
    def __init__(self, argv):
        self.process = subprocess.Popen(argv)

    def stop(self):
        self.process.terminate()
        self.process.wait()  # BUG: LW101


class Manager:
    def __init__(self):
        self.server = Server(["server"])

    async def restart(self):
        self.server.stop()
        self.server = Server(["server"])
