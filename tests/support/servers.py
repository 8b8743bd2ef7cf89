"""PostgreSQL, Redis and OpenSSH of the tests' own: on loopback, on free ports, in one temporary directory.

Each is started once per test session, by whichever process needs it first, and shared by the workers of pytest-xdist.
Whoever uses them holds a shared lock on one file. A janitor, a process of its own, waits for the exclusive lock: it
gets it when the last user has ended in any way, be it SIGKILL, and then ends the servers and removes the directory.

The programs come from Debian packages, see ``tools/debian.py``. Nothing here needs a driver, except the servers' own
view (:meth:`Server.sessions`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, ClassVar

import debian

from support import requires

__all__ = ["OpenSSH", "Postgres", "Redis", "Server", "Servers", "free_port"]

HOST = "127.0.0.1"
MARK = "LOOPWRIGHT_TEST_SERVER"
"""In the environment of every process of a server: where its directory is."""
START_LIMIT = 30.0
"""Seconds that a server may take to answer after it was started."""


def free_port() -> int:
    """A port nobody listens on, below those that the kernel gives to clients.

    A client of a server that is just being restarted could otherwise be given the server's own port.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port


def _until(condition: Callable[[], bool], limit: float, what: str) -> None:
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {limit:g} s")
        time.sleep(0.01)


# Processes


def _stat(pid: int) -> tuple[str, int] | None:
    """The state and the parent of a process; None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1])


def _children(pids: set[int]) -> set[int]:
    """The direct children of these processes, zombies left out."""
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(int(entry))) and stat[1] in pids and stat[0] != "Z":
            found.add(int(entry))
    return found


def _family(pid: int, mark: bytes) -> set[int]:
    """A process, everything below it, and every orphan of it: PostgreSQL's backends and sshd's sessions leave the
    process group, and a command outlives its session. ``mark`` is in the environment of all of them."""
    family, new = set(), {pid} if _alive(pid) else set()
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            if mark in Path(f"/proc/{entry}/environ").read_bytes() and _alive(int(entry)):
                new.add(int(entry))
    while new:
        family |= new
        new = _children(new) - family
    return family


def _alive(pid: int) -> bool:
    stat = _stat(pid)
    return stat is not None and stat[0] not in "ZX"


def _send(pids: set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


# Servers


class Server:
    """One server. Its state is in its directory, so every process can hold a handle of it."""

    kind: ClassVar[str]
    program: ClassVar[str]

    def __init__(self, home: Path) -> None:
        self.home = home
        self.host = HOST
        self.port = 0
        self.password = ""
        self._child: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<{self.kind} on {self.host}:{self.port}, {'running' if self.running() else 'down'}>"

    # What each kind says of itself

    def _prepare(self) -> None:
        """Once, before the first start."""

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        """Whether it takes connections."""
        raise NotImplementedError

    async def sessions(self, name: str) -> set[int]:
        """The server's own view: the connections of the application ``name``, each by a number."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Gives up what :meth:`sessions` keeps open."""

    # Its life

    @property
    def _pid(self) -> int:
        try:
            return int((self.home / "pid").read_text())
        except (OSError, ValueError):
            return 0

    def running(self) -> bool:
        return _alive(self._pid)

    def ensure(self) -> None:
        """Prepared, running and answering; whoever used it before may have left it stopped."""
        with _locked(self.home.with_suffix(".lock")):
            noted = self.home / "server.json"
            if not noted.exists():
                self.home.mkdir(mode=0o755, exist_ok=True)
                self.port, self.password = free_port(), secrets.token_hex(8)
                self._prepare()
                noted.write_text(json.dumps([self.port, self.password]))
                noted.chmod(0o600)
            self.port, self.password = json.loads(noted.read_text())
            if self.running():
                self.resume()
                _until(self._answers, START_LIMIT, f"{self.kind} answers")
            else:
                self.start()

    def start(self) -> None:
        """Starts it, and returns when it takes connections."""
        with open(self.home / "log", "ab") as log:
            environment = os.environ | {MARK: str(self.home)}
            options: dict[str, Any] = {"start_new_session": True, "env": environment}
            options |= {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self._child = subprocess.Popen(self._command(), cwd=self.home, **options, **self._as_user())
        (self.home / "pid").write_text(str(self._child.pid))
        try:
            _until(lambda: self._child.poll() is not None or self._answers(), START_LIMIT, f"{self.kind} answers")
        except TimeoutError:
            self.kill()
            raise
        if self._child.poll() is not None:
            log_text = (self.home / "log").read_text(errors="replace")
            raise RuntimeError(f"{self.kind} did not start:\n{log_text[-2000:]}")

    def _as_user(self) -> dict[str, Any]:
        """Arguments for Popen: the user whose processes these are."""
        return {}

    def _family(self) -> set[int]:
        return _family(self._pid, f"{MARK}={self.home}\0".encode())

    def pause(self) -> None:
        """SIGSTOP to all of its processes: connections stay open, nothing is answered."""
        _send({self._pid} - {0}, signal.SIGSTOP)  # the parent first: it makes no more children
        _send(self._family(), signal.SIGSTOP)

    def resume(self) -> None:
        _send(self._family(), signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to all of its processes: as when the machine loses its power."""
        pid = self._pid
        if pid:
            _send({pid}, signal.SIGSTOP)
            family = self._family()
            _send(family, signal.SIGKILL)
            if self._child is not None:
                self._child.wait()
                self._child = None
            _until(lambda: not any(map(_alive, family)), START_LIMIT, f"{self.kind} is gone")
            (self.home / "pid").unlink(missing_ok=True)


class Postgres(Server):
    """PostgreSQL without its durability. It refuses to run as root: then it is run by the package's own user."""

    kind, program = "postgres", "postgres"
    user = "postgres"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._watcher: Any = None

    @property
    def dsn(self) -> str:
        return self.dsn_at(self.host, self.port)

    def dsn_at(self, host: str, port: int, **options: str) -> str:
        """The same server behind another address, a proxy's for example."""
        query = "&".join(f"{name}={value}" for name, value in {"sslmode": "disable", **options}.items())
        return f"postgresql://{self.user}:{self.password}@{host}:{port}/postgres?{query}"

    def _bin(self, program: str) -> str:
        return str(Path(os.path.realpath(debian.find("postgres") or "")).parent / program)

    def _as_user(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        try:
            entry = pwd.getpwnam("postgres")
        except KeyError:
            entry = pwd.getpwnam("nobody")
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def _prepare(self) -> None:
        if owner := self._as_user():
            os.chown(self.home, owner["user"], owner["group"])
        secret = self.home / "password"
        secret.write_text(self.password)
        secret.chmod(0o600)
        if owner:
            os.chown(secret, owner["user"], owner["group"])
        options = ["--no-sync", "--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C"]
        command = [self._bin("initdb"), f"--pgdata={self.home / 'data'}", f"--username={self.user}", *options]
        done = subprocess.run(command, cwd=self.home, capture_output=True, text=True, check=False, **self._as_user())
        if done.returncode:
            raise RuntimeError(f"initdb failed:\n{done.stdout}{done.stderr}")

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 100,
            "shared_buffers": "16MB",
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            "autovacuum": "off",
            "jit": "off",
        }
        flags = [f"--{name}={value}" for name, value in settings.items()]
        return [self._bin("postgres"), "-D", str(self.home / "data"), *flags]

    def _answers(self) -> bool:
        command = [self._bin("pg_isready"), "--quiet", f"--host={self.host}", f"--port={self.port}"]
        return subprocess.run(command, check=False).returncode == 0

    def kill(self) -> None:
        super().kill()
        (self.home / "data" / "postmaster.pid").unlink(missing_ok=True)  # its number may be somebody's by now

    async def sessions(self, name: str) -> set[int]:
        asyncpg = requires.module("asyncpg")
        if self._watcher is None or self._watcher.is_closed():
            self._watcher = await asyncpg.connect(self.dsn, timeout=5)
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND backend_type = 'client backend'"
        return {row["pid"] for row in await self._watcher.fetch(query, name, timeout=5)}

    async def aclose(self) -> None:
        if self._watcher is not None:
            self._watcher.terminate()
            self._watcher = None


class Redis(Server):
    """Redis that keeps nothing."""

    kind, program = "redis", "redis-server"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._watcher: Any = None

    @property
    def url(self) -> str:
        return self.url_at(self.host, self.port)

    def url_at(self, host: str, port: int) -> str:
        """The same server behind another address, a proxy's for example."""
        return f"redis://:{self.password}@{host}:{port}/0"

    def _command(self) -> list[str]:
        settings = self.home / "redis.conf"
        lines = [f"bind {self.host}", f"port {self.port}", f"requirepass {self.password}", 'save ""', "appendonly no"]
        settings.touch(0o600)
        settings.write_text("\n".join([*lines, f"dir {self.home}", ""]))
        return [debian.find(self.program) or self.program, str(settings)]

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=2) as client:
            client.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
            return client.recv(100).startswith(b"+OK")
        return False

    async def sessions(self, name: str) -> set[int]:
        """Every client but this one: the first command of a connection comes before it has a name."""
        redis = requires.module("redis.asyncio")
        if self._watcher is None:
            self._watcher = redis.Redis.from_url(self.url, single_connection_client=True, socket_timeout=5)
        own = await self._watcher.client_id()
        return {int(client["id"]) for client in await self._watcher.client_list()} - {own}

    async def aclose(self) -> None:
        if self._watcher is not None:
            await self._watcher.aclose()
            self._watcher = None


class OpenSSH(Server):
    """sshd with a key of its own; it lets in the user who runs the tests, by one key."""

    kind, program = "openssh", "sshd"

    @property
    def user(self) -> str:
        return pwd.getpwuid(os.geteuid()).pw_name

    @property
    def client_key(self) -> str:
        return str(self.home / "client_key")

    @property
    def known_hosts(self) -> bytes:
        """What asyncssh takes for ``known_hosts``: the server's key under any address."""
        return b"* " + (self.home / "host_key.pub").read_bytes()

    def _prepare(self) -> None:
        keygen = requires.command("ssh-keygen")
        for name in ("host_key", "client_key"):
            command = [keygen, "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.home / name)]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where its unprivileged half locks itself in

    def _command(self) -> list[str]:
        lines = [
            f"ListenAddress {self.host}:{self.port}",
            f"HostKey {self.home / 'host_key'}",
            f"AuthorizedKeysFile {self.home / 'client_key.pub'}",
            "AuthenticationMethods publickey",
            "PermitRootLogin prohibit-password",
            f"AllowUsers {self.user}",
            "StrictModes no",
            "UsePAM no",
            "PidFile none",
            "PrintMotd no",
            "PrintLastLog no",
            "MaxStartups 1000",
            "MaxSessions 100",
            "PerSourceMaxStartups none",
            "Subsystem sftp internal-sftp",
            f"SetEnv {MARK}={self.home} HOME={self.home}",  # bash reads no .bashrc of the user's
        ]
        settings = self.home / "sshd_config"
        settings.write_text("\n".join([*lines, ""]))
        return [debian.find(self.program) or "/usr/sbin/sshd", "-D", "-e", "-f", str(settings)]

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=2) as client:
            client.settimeout(2)
            return client.recv(100).startswith(b"SSH-")
        return False

    async def sessions(self, name: str) -> set[int]:
        """Each connection is a child of the listener."""
        await asyncio.sleep(0)
        return _children({self._pid})


KINDS: dict[str, type[Server]] = {server.kind: server for server in (Postgres, Redis, OpenSSH)}


# Who uses them, and who tidies up


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Servers:
    """The servers of one test session: ``with Servers() as servers, servers.one("redis") as redis: ...``."""

    def __init__(self) -> None:
        run = os.environ.get("PYTEST_XDIST_TESTRUNUID")  # the same in all workers of one run
        temp = tempfile.gettempdir()
        self.home = Path(temp, f"loopwright-servers-{run}" if run else f"loopwright-servers-{secrets.token_hex(8)}")
        self._users: IO[str] | None = None
        self._servers: dict[str, Server] = {}

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends what this process uses. The last user waits until the servers are gone."""
        if self._users is None:
            return
        self._users.close()
        self._users = None
        if "PYTEST_XDIST_TESTRUNUID" not in os.environ:
            _until(lambda: not self.home.exists(), START_LIMIT, "the janitor ended the servers")

    def _join(self) -> None:
        """Makes this process a user: the janitor waits for it from now on."""
        while self._users is None:
            try:
                self.home.mkdir(mode=0o755)
                first = True
            except FileExistsError:
                first = False
            try:
                users = open(self.home / "users", "a")  # noqa: SIM115 (held until the session ends)
            except FileNotFoundError:  # the janitor has just removed it all
                continue
            fcntl.flock(users, fcntl.LOCK_SH)
            if not (self.home / "users").exists():
                users.close()
                continue
            self._users = users
            if first:
                environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
                command = [sys.executable, "-m", "support.servers", str(self.home)]
                null = subprocess.DEVNULL
                subprocess.Popen(command, env=environment, start_new_session=True, stdin=null, stdout=null, stderr=null)

    @contextlib.contextmanager
    def one(self, kind: str) -> Iterator[Any]:
        """A server that runs, for this test alone: tests stop and kill them, so two never use one at a time."""
        if debian.find(KINDS[kind].program) is None:
            requires.missing(f"{KINDS[kind].program} (make installs Debian's {debian.PACKAGES[KINDS[kind].program]})")
        self._join()
        with _locked(self.home / f"{kind}.use"):
            server = self._servers.setdefault(kind, KINDS[kind](self.home / kind))
            server.ensure()
            try:
                yield server
            finally:
                server.resume()


def _janitor(home: Path) -> None:
    """Waits for the last user's end, then ends the servers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(home / "users", "a") as users:
        fcntl.flock(users, fcntl.LOCK_EX)
        for kind, server in KINDS.items():
            if (home / kind).exists():
                with contextlib.suppress(TimeoutError):
                    server(home / kind).kill()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    _janitor(Path(sys.argv[1]))
