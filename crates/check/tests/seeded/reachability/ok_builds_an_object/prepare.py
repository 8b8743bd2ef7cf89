import shlex
import sqlite3
import subprocess
import threading
import urllib.request


class Job:
    def __init__(self, argv):
        self.argv = argv
        self.error = subprocess.CalledProcessError
        self.thread = threading.Thread(target=self.run)

    def run(self):
        subprocess.run(self.argv)

    def text(self):
        return shlex.join(self.argv)


async def prepare(argv):
    job = Job(argv)  # OK: starts nothing
    request = urllib.request.Request("http://a.internal", data=job.text().encode())  # OK: sends nothing
    return job, request, sqlite3.Row
