import socket


class BaseWorker:
    queue = "default"

    def _send(self, line):
        with socket.create_connection(("jobs", 7000)) as sock:
            sock.sendall(line)
            return sock.recv(2)

    def report(self, job, result):
        self._send(f"{self.queue} {job} {result}\n".encode())
