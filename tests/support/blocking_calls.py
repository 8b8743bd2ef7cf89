"""How each name of the analyser's table is called so that it has something to wait for; run as a program, the proof.

`CALLS` gives for a name a function that prepares what is waited for and returns the call. `RAISES` are those that
refuse to run where a loop runs. `COMPUTES` get more to do until they are seen at work. `LOOK_ALIKES` stop nothing.
"""

from __future__ import annotations

import asyncio
import cmd
import code
import codecs
import concurrent.futures
import configparser
import dbm.dumb
import ensurepip
import ftplib
import getpass
import glob
import hashlib
import http.client
import imaplib
import io
import json
import logging.config
import multiprocessing
import multiprocessing.connection
import multiprocessing.managers
import multiprocessing.pool
import netrc
import os
import pathlib
import pdb
import poplib
import pty
import queue
import runpy
import sched
import select
import selectors
import shelve
import shutil
import signal
import smtplib
import socket
import socketserver
import sqlite3
import ssl
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import traceback
import types
import urllib.request
import urllib.robotparser
import venv
import warnings
import xmlrpc.client
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any

from support.blocked_loop import Call, NotHeld, Probe, Things

Make = Callable[[Things], Call]
FOREVER = 3600
BIG = b"x" * (8 << 20)
FORK = multiprocessing.get_context("fork")

CALLS: dict[str, Make] = {}
RAISES: dict[str, Make] = {}
LOOK_ALIKES: dict[str, Make] = {
    "returns at once": lambda _: time.time,
    "waits in a thread": lambda t: t.stuck,
    "asks without waiting": lambda t: partial(select.select, [t.pipe()[0]], [], [], 0),
}
"""These stop no loop: the probe has to say so."""
COMPUTES: dict[str, Callable[[int], Call]] = {
    "hashlib.pbkdf2_hmac": lambda times: partial(hashlib.pbkdf2_hmac, "sha256", b"secret", b"salt", 100_000 * times),
    "hashlib.scrypt": lambda times: partial(
        hashlib.scrypt, b"secret", salt=b"salt", n=1 << 14, r=8, p=times, maxmem=1 << 30
    ),
}


def call(*names: str) -> Callable[[Make], Make]:
    def register(make: Make) -> Make:
        for name in names:
            assert name not in CALLS, name
            CALLS[name] = make
        return make

    return register


def methods(prefix: str, made: Callable[[Things, str], object], arguments: dict[str, tuple[object, ...]]) -> None:
    """The same for many methods of what `made` returns for the name of one."""

    def bound(things: Things, name: str) -> Call:
        return partial(getattr(made(things, name), name), *arguments[name])

    for name in arguments:
        call(f"{prefix}.{name}")(partial(bound, name=name))


# ------------------------------------------------------------------------------------------------------ time, signals

call("time.sleep")(lambda _: lambda: time.sleep(FOREVER))
call("signal.pause")(lambda _: signal.pause)


@call("sched.scheduler.run")
def _(_: Things) -> Call:
    scheduler = sched.scheduler()
    scheduler.enter(FOREVER, 0, print)
    return scheduler.run


def waits_for_signal(function: Callable[..., object], *arguments: object) -> Make:
    def make(things: Things) -> Call:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        things.stack.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
        ident = threading.get_ident()
        things.release = lambda: signal.pthread_kill(ident, signal.SIGUSR2)
        return partial(function, [signal.SIGUSR2], *arguments)

    return make


call("signal.sigwait")(waits_for_signal(signal.sigwait))
call("signal.sigwaitinfo")(waits_for_signal(signal.sigwaitinfo))
call("signal.sigtimedwait")(waits_for_signal(signal.sigtimedwait, FOREVER))


# ------------------------------------------------------------------------------------------------------------ sockets

call("socket.getaddrinfo")(lambda t: t.audited("socket.getaddrinfo", lambda: socket.getaddrinfo("localhost", 1)))
call("socket.gethostbyname")(lambda t: t.audited("socket.gethostbyname", lambda: socket.gethostbyname("localhost")))
call("socket.gethostbyname_ex")(
    lambda t: t.audited("socket.gethostbyname", lambda: socket.gethostbyname_ex("localhost"))
)
call("socket.gethostbyaddr")(lambda t: t.audited("socket.gethostbyaddr", lambda: socket.gethostbyaddr("127.0.0.1")))
call("socket.getnameinfo")(lambda t: t.audited("socket.getnameinfo", lambda: socket.getnameinfo(("127.0.0.1", 1), 0)))
call("socket.getfqdn")(lambda t: t.audited("socket.gethostbyaddr", lambda: socket.getfqdn("localhost")))
call("socket.create_connection")(lambda t: partial(socket.create_connection, t.full()))
call("socket.socket.connect")(lambda t: partial(t.stack.enter_context(socket.socket()).connect, t.full()))
call("socket.socket.connect_ex")(lambda t: partial(t.stack.enter_context(socket.socket()).connect_ex, t.full()))
call("socket.socket.accept")(lambda t: t.stack.enter_context(socket.create_server(("127.0.0.1", 0))).accept)
methods(
    "socket.socket",
    lambda t, _: t.pair()[0],
    {
        "recv": (1,),
        "recvfrom": (1,),
        "recvmsg": (1,),
        "recv_into": (bytearray(1),),
        "recvfrom_into": (bytearray(1),),
        "recvmsg_into": ([bytearray(1)],),
        "sendall": (BIG,),
    },
)
call("socket.recv_fds")(lambda t: partial(socket.recv_fds, t.pair()[0], 1, 1))


@call("socket.socket.sendfile")
def _(things: Things) -> Call:
    path = things.path()
    pathlib.Path(path).write_bytes(BIG)
    return partial(things.pair()[0].sendfile, things.stack.enter_context(open(path, "rb")))


call("ssl.get_server_certificate")(lambda t: partial(ssl.get_server_certificate, t.silent()))


def tls(things: Things, *, client: bool = True) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if client else ssl.PROTOCOL_TLS_SERVER)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    socket_ = context.wrap_socket(things.pair()[0], do_handshake_on_connect=False, server_side=not client)
    return things.stack.enter_context(socket_)


call("ssl.SSLSocket.do_handshake")(lambda t: tls(t).do_handshake)
call("ssl.SSLSocket.read")(lambda t: tls(t).read)
call("ssl.SSLSocket.recv")(lambda t: partial(tls(t).recv, 1))
call("ssl.SSLSocket.recv_into")(lambda t: partial(tls(t).recv_into, bytearray(1)))
call("ssl.SSLSocket.send")(lambda t: partial(tls(t).send, b"x"))
call("ssl.SSLSocket.sendall")(lambda t: partial(tls(t).sendall, b"x"))
call("ssl.SSLSocket.write")(lambda t: partial(tls(t).write, b"x"))
call("ssl.SSLContext.wrap_socket")(
    lambda t: partial(ssl.create_default_context().wrap_socket, t.pair()[0], server_hostname="localhost")
)
call("ssl.SSLContext.load_verify_locations")(
    lambda t: partial(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations, t.fifo())
)
call("ssl.SSLContext.load_cert_chain")(
    lambda t: partial(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain, t.fifo())
)


def certificates(function: Callable[[], object]) -> Make:
    def make(things: Things) -> Call:
        before = dict(os.environ)
        os.environ["SSL_CERT_FILE"] = things.fifo()

        def restore() -> None:
            os.environ.clear()
            os.environ.update(before)

        things.stack.callback(restore)
        return function

    return make


call("ssl.create_default_context")(certificates(ssl.create_default_context))
call("ssl.SSLContext.load_default_certs")(
    certificates(lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_default_certs())
)
call("ssl.SSLContext.set_default_verify_paths")(
    certificates(lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_default_verify_paths())
)

call("select.select")(lambda t: partial(select.select, [t.pipe()[0]], [], []))


def polls(make: Callable[[], Any], method: str) -> Make:
    def prepare(things: Things) -> Call:
        selector = make()
        selector.register(things.pipe()[0], 1)
        poll: Call = getattr(selector, method)
        return poll

    return prepare


call("select.poll.poll")(polls(select.poll, "poll"))
call("select.epoll.poll")(polls(select.epoll, "poll"))
call("selectors.DefaultSelector.select")(polls(selectors.DefaultSelector, "select"))
call("selectors.SelectSelector.select")(polls(selectors.SelectSelector, "select"))
call("selectors.PollSelector.select")(polls(selectors.PollSelector, "select"))
call("selectors.EpollSelector.select")(polls(selectors.EpollSelector, "select"))


# ---------------------------------------------------------------------------------------------------------- protocols

call("urllib.request.urlopen")(lambda t: partial(urllib.request.urlopen, t.url()))
call("urllib.request.urlretrieve")(lambda t: partial(urllib.request.urlretrieve, t.url(), t.path()))
call("urllib.request.OpenerDirector.open")(lambda t: partial(urllib.request.build_opener().open, t.url()))
call("urllib.robotparser.RobotFileParser.read")(lambda t: urllib.robotparser.RobotFileParser(t.url()).read)
if hasattr(urllib.request, "URLopener"):
    call("urllib.request.URLopener.open")(lambda t: partial(urllib.request.URLopener().open, t.url()))
    call("urllib.request.URLopener.retrieve")(lambda t: partial(urllib.request.URLopener().retrieve, t.url(), t.path()))

HTTP = "http.client.HTTPConnection."
call(HTTP + "connect")(lambda t: http.client.HTTPConnection(*t.full()).connect)
call("http.client.HTTPSConnection.connect")(lambda t: http.client.HTTPSConnection(*t.silent()).connect)
call(HTTP + "request")(lambda t: partial(http.client.HTTPConnection(*t.silent()).request, "POST", "/", BIG))
call(HTTP + "send")(lambda t: partial(http.client.HTTPConnection(*t.silent()).send, BIG))


@call(HTTP + "endheaders")
def _(things: Things) -> Call:
    connection = http.client.HTTPConnection(*things.full())
    connection.putrequest("GET", "/")
    return connection.endheaders


@call(HTTP + "getresponse")
def _(things: Things) -> Call:
    connection = http.client.HTTPConnection(*things.silent())
    connection.request("GET", "/")
    return connection.getresponse


def response(things: Things, *, begun: bool = True) -> http.client.HTTPResponse:
    here, there = things.pair()
    answer = http.client.HTTPResponse(here)
    if begun:
        there.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        answer.begin()
    return answer


RESPONSE = "http.client.HTTPResponse."
call(RESPONSE + "begin")(lambda t: response(t, begun=False).begin)
call(RESPONSE + "read")(lambda t: response(t).read)
call(RESPONSE + "read1")(lambda t: response(t).read1)
call(RESPONSE + "readline")(lambda t: response(t).readline)
call(RESPONSE + "peek")(lambda t: response(t).peek)
call(RESPONSE + "readinto")(lambda t: partial(response(t).readinto, bytearray(1)))


def smtp(things: Things) -> smtplib.SMTP:
    client = smtplib.SMTP()
    client.sock, _ = things.pair()
    client.file = client.sock.makefile("rb")
    client.ehlo_resp = b""
    client.does_esmtp = True
    client.esmtp_features = {"starttls": "", "auth": "PLAIN"}
    return client


def forgotten(client: smtplib.SMTP) -> smtplib.SMTP:
    client.ehlo_resp = client.helo_resp = None
    return client


call("smtplib.SMTP")(lambda t: partial(smtplib.SMTP, *t.silent()))
call("smtplib.SMTP_SSL")(lambda t: partial(smtplib.SMTP_SSL, *t.silent()))
call("smtplib.LMTP")(lambda t: partial(smtplib.LMTP, *t.silent()))
call("smtplib.SMTP.connect")(lambda t: partial(smtplib.SMTP().connect, *t.silent()))
call("smtplib.LMTP.connect")(lambda t: partial(smtplib.LMTP("").connect, *t.silent()))
call("smtplib.SMTP.ehlo_or_helo_if_needed")(lambda t: forgotten(smtp(t)).ehlo_or_helo_if_needed)
call("smtplib.SMTP.send_message")(
    lambda t: partial(smtp(t).send_message, __import__("email.message").message.EmailMessage(), "a@b", ["a@b"])
)
call("smtplib.SMTP.__exit__")(lambda t: partial(smtp(t).__exit__, None, None, None))
call("smtplib.SMTP.auth")(lambda t: partial(smtp(t).auth, "PLAIN", lambda _=None: "x"))
methods(
    "smtplib.SMTP",
    lambda t, _: smtp(t),
    {
        "send": (BIG,),
        "putcmd": ("x" * len(BIG),),
        "getreply": (),
        "docmd": ("NOOP",),
        "helo": (),
        "ehlo": (),
        "rset": (),
        "noop": (),
        "mail": ("a@b",),
        "rcpt": ("a@b",),
        "data": ("x",),
        "verify": ("a@b",),
        "vrfy": ("a@b",),
        "expn": ("a@b",),
        "login": ("a", "b"),
        "starttls": (),
        "sendmail": ("a@b", ["a@b"], "x"),
        "quit": (),
    },
)


def ftp(things: Things, kind: type[ftplib.FTP] = ftplib.FTP) -> Any:
    client = kind()
    client.sock, _ = things.pair()
    client.af = socket.AF_INET
    client.file = client.sock.makefile("r")
    client.host = "127.0.0.1"
    return client


def entries(client: Any) -> Call:
    return lambda: list(client.mlsd())


call("ftplib.FTP")(lambda t: partial(connect_ftp, ftplib.FTP, t.silent()))
call("ftplib.FTP_TLS")(lambda t: partial(connect_ftp, ftplib.FTP_TLS, t.silent()))
call("ftplib.FTP.connect")(lambda t: partial(ftplib.FTP().connect, *t.silent()))
call("ftplib.FTP.mlsd")(lambda t: entries(ftp(t)))
call("ftplib.FTP.__exit__")(lambda t: partial(ftp(t).__exit__, None, None, None))
call("ftplib.ftpcp")(lambda t: partial(ftplib.ftpcp, ftp(t), "a", ftp(t), "b"))


def connect_ftp(kind: type[ftplib.FTP], address: tuple[str, int]) -> object:
    """The constructor has no argument for the port."""
    before, kind.port = kind.port, address[1]
    try:
        return kind(address[0])
    finally:
        kind.port = before


methods(
    "ftplib.FTP",
    lambda t, _: ftp(t),
    {
        "getresp": (),
        "voidresp": (),
        "sendcmd": ("NOOP",),
        "voidcmd": ("NOOP",),
        "login": (),
        "ntransfercmd": ("LIST",),
        "transfercmd": ("LIST",),
        "retrbinary": ("RETR a", print),
        "retrlines": ("LIST", print),
        "storbinary": ("STOR a", io.BytesIO()),
        "storlines": ("STOR a", io.BytesIO()),
        "nlst": (),
        "dir": (),
        "rename": ("a", "b"),
        "delete": ("a",),
        "cwd": ("a",),
        "size": ("a",),
        "mkd": ("a",),
        "rmd": ("a",),
        "pwd": (),
        "quit": (),
        "abort": (),
    },
)
for name in ("login", "auth", "prot_p", "prot_c"):
    call(f"ftplib.FTP_TLS.{name}")(lambda t, name=name: getattr(ftp(t, ftplib.FTP_TLS), name))


@call("ftplib.FTP_TLS.ccc")
def _(things: Things) -> Call:
    client = ftp(things, ftplib.FTP_TLS)
    client.sock = tls(things)
    client.file = things.pair()[0].makefile("r")
    ccc: Call = client.ccc
    return ccc


def imap(things: Things, command: str = "") -> imaplib.IMAP4:
    client = imaplib.IMAP4(*things.speaks(b"* OK\r\n", b"* CAPABILITY IMAP4REV1 STARTTLS ENABLE\r\nTAG OK done\r\n"))
    things.stack.callback(client.shutdown)
    states = imaplib.Commands.get(command.upper(), ("NONAUTH",))
    client.state = states[-1]
    return client


call("imaplib.IMAP4")(lambda t: partial(imaplib.IMAP4, *t.silent()))
call("imaplib.IMAP4_SSL")(lambda t: partial(imaplib.IMAP4_SSL, *t.silent()))
call("imaplib.IMAP4_stream")(lambda _: partial(imaplib.IMAP4_stream, f"sleep {FOREVER}"))
call("imaplib.IMAP4.open")(lambda t: partial(imap(t).open, *t.full()))
call("imaplib.IMAP4.__exit__")(lambda t: partial(imap(t).__exit__, None, None, None))
methods(
    "imaplib.IMAP4",
    imap,
    {
        "read": (1,),
        "readline": (),
        "send": (BIG,),
        "append": ("a", None, None, b"x"),
        "authenticate": ("PLAIN", lambda _: b""),
        "capability": (),
        "check": (),
        "close": (),
        "copy": ("1", "a"),
        "create": ("a",),
        "delete": ("a",),
        "enable": ("A",),
        "expunge": (),
        "fetch": ("1", "(UID)"),
        "list": (),
        "login": ("a", "b"),
        "logout": (),
        "lsub": (),
        "noop": (),
        "rename": ("a", "b"),
        "search": (None, "ALL"),
        "select": (),
        "sort": ("SUBJECT", "UTF-8", "ALL"),
        "starttls": (),
        "status": ("a", "(UIDNEXT)"),
        "store": ("1", "FLAGS", "x"),
        "subscribe": ("a",),
        "thread": ("REFERENCES", "UTF-8", "ALL"),
        "uid": ("SEARCH", "ALL"),
        "unsubscribe": ("a",),
        "unselect": (),
        "xatom": ("NOOP",),
    },
)


def pop(things: Things) -> poplib.POP3:
    client = poplib.POP3(*things.speaks(b"+OK <1@localhost>\r\n"))
    things.stack.callback(client.close)
    return client


call("poplib.POP3")(lambda t: partial(poplib.POP3, *t.silent()))
call("poplib.POP3_SSL")(lambda t: partial(poplib.POP3_SSL, *t.silent()))
methods(
    "poplib.POP3",
    lambda t, _: pop(t),
    {
        "user": ("a",),
        "pass_": ("a",),
        "stat": (),
        "list": (),
        "retr": (1,),
        "dele": (1,),
        "noop": (),
        "rset": (),
        "quit": (),
        "rpop": ("a",),
        "apop": ("a", "b"),
        "top": (1, 1),
        "uidl": (),
        "utf8": (),
        "capa": (),
        "stls": (),
    },
)

call("xmlrpc.client._Method.__call__")(lambda t: xmlrpc.client.ServerProxy(t.url()).method)


def transported(method: str) -> Make:
    return lambda t: partial(
        getattr(xmlrpc.client.Transport(), method), "{}:{}".format(*t.silent()), "/", b"<methodCall/>"
    )


call("xmlrpc.client.Transport.request")(transported("request"))
call("xmlrpc.client.Transport.single_request")(transported("single_request"))


@call("xmlrpc.client.MultiCall.__call__")
def _(things: Things) -> Call:
    calls = xmlrpc.client.MultiCall(xmlrpc.client.ServerProxy(things.url()))
    calls.method()
    return calls


def server(things: Things) -> socketserver.TCPServer:
    return things.stack.enter_context(socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler))


call("socketserver.BaseServer.handle_request")(lambda t: server(t).handle_request)
call("socketserver.BaseServer.serve_forever")(lambda t: partial(server(t).serve_forever, FOREVER))
call("socketserver.BaseServer.shutdown")(lambda t: server(t).shutdown)


# ---------------------------------------------------------------------------------------------------------- processes

SLEEP = ["sleep", str(FOREVER)]
call("subprocess.run")(lambda _: partial(subprocess.run, SLEEP))
call("subprocess.call")(lambda _: partial(subprocess.call, SLEEP))
call("subprocess.check_call")(lambda _: partial(subprocess.check_call, SLEEP))
call("subprocess.check_output")(lambda _: partial(subprocess.check_output, SLEEP))
call("subprocess.getoutput")(lambda _: partial(subprocess.getoutput, f"exec sleep {FOREVER}"))
call("subprocess.getstatusoutput")(lambda _: partial(subprocess.getstatusoutput, f"exec sleep {FOREVER}"))
call("subprocess.Popen.wait")(lambda t: t.child().wait)
call("subprocess.Popen.communicate")(lambda t: t.child().communicate)
call("subprocess.Popen.__exit__")(lambda t: partial(t.child().__exit__, None, None, None))


@call("subprocess.Popen")
def _(things: Things) -> Call:
    reads, writes = things.pipe()
    things.release = lambda: os.write(writes, b"x")

    def start() -> None:
        waits = partial(os.read, reads, 1)
        subprocess.Popen(["true"], preexec_fn=waits).wait()  # noqa: PLW1509 (it is what holds the call up)

    return start


def released_by_fifo(make: Callable[[str], Call]) -> Make:
    def prepare(things: Things) -> Call:
        fifo = things.fifo()
        things.release = lambda: os.close(os.open(fifo, os.O_WRONLY))
        return make(f"cat {fifo}")

    return prepare


call("os.system")(released_by_fifo(lambda command: partial(os.system, command)))
call("os._wrap_close.close")(released_by_fifo(lambda command: os.popen(command).close))
call("os.popen")(lambda t: t.audited("subprocess.Popen", lambda: os.popen("true")))
call("pty.spawn")(lambda t: t.audited("pty.spawn", lambda: pty.spawn(SLEEP)))


def waits_for_child(make: Callable[[int], Call]) -> Make:
    return lambda t: make(t.child().pid)


call("os.wait")(waits_for_child(lambda _: os.wait))
call("os.waitpid")(waits_for_child(lambda pid: partial(os.waitpid, pid, 0)))
call("os.wait3")(waits_for_child(lambda _: partial(os.wait3, 0)))
call("os.wait4")(waits_for_child(lambda pid: partial(os.wait4, pid, 0)))
call("venv.create")(lambda t: t.audited("os.mkdir", partial(venv.create, t.path())))
call("venv.EnvBuilder.create")(lambda t: t.audited("os.mkdir", partial(venv.EnvBuilder().create, t.path())))
call("ensurepip.bootstrap")(lambda t: t.audited("tempfile.mkdtemp", partial(ensurepip.bootstrap, root=t.path())))


# -------------------------------------------------------------------------------------------------------------- files

call("builtins.open")(lambda t: partial(open, t.fifo()))
call("io.open_code")(lambda t: partial(io.open_code, t.fifo()))
call("codecs.open")(lambda t: partial(codecs.open, t.fifo()))
call("pathlib.Path.open")(lambda t: pathlib.Path(t.fifo()).open)
call("pathlib.Path.read_text")(lambda t: pathlib.Path(t.fifo()).read_text)
call("pathlib.Path.read_bytes")(lambda t: pathlib.Path(t.fifo()).read_bytes)
call("pathlib.Path.write_text")(lambda t: partial(pathlib.Path(t.fifo()).write_text, "x"))
call("pathlib.Path.write_bytes")(lambda t: partial(pathlib.Path(t.fifo()).write_bytes, b"x"))
call("configparser.RawConfigParser.read")(lambda t: partial(configparser.RawConfigParser().read, t.fifo()))
call("netrc.netrc")(lambda t: partial(netrc.netrc, t.fifo()))
call("logging.config.fileConfig")(
    lambda t: t.audited("open", partial(logging.config.fileConfig, pathlib.Path(tree(t)) / "below" / "file"))
)
call("runpy.run_path")(lambda t: partial(runpy.run_path, t.fifo()))


def raw(things: Things) -> io.FileIO:
    return things.stack.enter_context(io.FileIO(things.pipe()[0], closefd=False))


call("hashlib.file_digest")(lambda t: partial(hashlib.file_digest, raw(t), "sha256"))
call("shutil.copyfileobj")(lambda t: partial(shutil.copyfileobj, raw(t), io.BytesIO()))


@call("runpy.run_module")
def _(things: Things) -> Call:
    folder = pathlib.Path(things.path()).parent
    (folder / "runs_for_ever.py").write_text(f"open({things.fifo()!r})")
    sys.path.insert(0, str(folder))
    things.stack.callback(sys.path.remove, str(folder))
    return partial(runpy.run_module, "runs_for_ever")


def tree(things: Things) -> str:
    folder = pathlib.Path(things.path())
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "file").write_text("x")
    return str(folder)


for name, event, use in (
    ("pathlib.Path.glob", "os.scandir", lambda a, _: list(pathlib.Path(a).glob("*/*"))),
    ("pathlib.Path.rglob", "os.scandir", lambda a, _: list(pathlib.Path(a).rglob("*"))),
    ("pathlib.Path.walk", "os.scandir", lambda a, _: list(pathlib.Path(a).walk())),
    ("os.walk", "os.scandir", lambda a, _: list(os.walk(a))),
    ("os.fwalk", "os.scandir", lambda a, _: list(os.fwalk(a))),
    ("glob.glob", "os.scandir", lambda a, _: glob.glob(a + "/*/*")),
    ("glob.iglob", "os.scandir", lambda a, _: list(glob.iglob(a + "/*/*"))),
    ("glob.glob0", "glob.glob", lambda a, _: glob.glob(a)),
    ("glob.glob1", "glob.glob", lambda a, _: glob.glob(a)),
    ("shutil.copyfile", "shutil.copyfile", lambda a, b: shutil.copyfile(a + "/below/file", b)),
    ("shutil.copy", "shutil.copyfile", lambda a, b: shutil.copy(a + "/below/file", b)),
    ("shutil.copy2", "open", lambda a, b: shutil.copy2(a + "/below/file", b)),
    ("shutil.copytree", "os.scandir", shutil.copytree),
    ("shutil.move", "os.rename", shutil.move),
    ("shutil.rmtree", "os.scandir", lambda a, _: shutil.rmtree(a)),
    ("shutil.make_archive", "open", lambda a, b: shutil.make_archive(b, "zip", a)),
):
    call(name)(lambda t, event=event, use=use: t.audited(event, partial(use, tree(t), t.path())))


@call("shutil.unpack_archive")
def _(things: Things) -> Call:
    archive = shutil.make_archive(things.path(), "zip", tree(things))
    return things.audited("open", partial(shutil.unpack_archive, archive, things.path()))


def temporary(things: Things) -> Any:
    directory = tempfile.TemporaryDirectory()
    things.stack.callback(directory.cleanup)
    return directory


call("tempfile.TemporaryDirectory.cleanup")(lambda t: t.audited("os.scandir", temporary(t).cleanup))
call("tempfile.TemporaryDirectory.__exit__")(
    lambda t: t.audited("os.scandir", partial(temporary(t).__exit__, None, None, None))
)


def zipped() -> zipfile.ZipFile:
    archive = zipfile.ZipFile(io.BytesIO(), "w")
    archive.writestr("file", b"x")
    return archive


def tarred() -> tarfile.TarFile:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("file"))
    return tarfile.open(fileobj=io.BytesIO(data.getvalue()))


call("zipfile.ZipFile.extract")(lambda t: t.audited("open", partial(zipped().extract, "file", t.path())))
call("zipfile.ZipFile.extractall")(lambda t: t.audited("open", partial(zipped().extractall, t.path())))
call("tarfile.TarFile.extract")(lambda t: t.audited("open", partial(tarred().extract, "file", t.path(), filter="data")))
call("tarfile.TarFile.extractall")(lambda t: t.audited("open", partial(tarred().extractall, t.path(), filter="data")))


# ---------------------------------------------------------------------------------------------------------- databases

call("sqlite3.connect")(lambda t: t.audited("sqlite3.connect", partial(sqlite3.connect, t.path())))
call("sqlite3.Connection")(lambda t: t.audited("sqlite3.connect", partial(sqlite3.Connection, t.path())))


def database(things: Things) -> sqlite3.Connection:
    connection = sqlite3.connect(things.path(), timeout=FOREVER, check_same_thread=False)
    things.stack.callback(connection.close)
    connection.execute("CREATE TABLE t(x)")
    connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(1000)])
    connection.commit()
    return connection


def other(things: Things, connection: sqlite3.Connection, sql: str) -> None:
    """Somebody else holds a lock, until the end."""
    path = connection.execute("PRAGMA database_list").fetchone()[2]
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    things.stack.callback(holder.close)
    cursor = holder.execute(sql)
    cursor.fetchone()

    def let_go() -> None:
        cursor.close()
        if holder.in_transaction:
            holder.rollback()

    things.release = let_go


def locked(use: Callable[[sqlite3.Connection], Call]) -> Make:
    def make(things: Things) -> Call:
        connection = database(things)
        call = use(connection)
        other(things, connection, "BEGIN EXCLUSIVE")
        return call

    return make


def committing(use: Callable[[sqlite3.Connection], Call]) -> Make:
    def make(things: Things) -> Call:
        connection = database(things)
        other(things, connection, "SELECT x FROM t")
        connection.execute("DELETE FROM t")
        return use(connection)

    return make


def computing(use: Callable[[sqlite3.Cursor], Call]) -> Make:
    """Each row waits for a pipe when it is computed, but the first."""

    def make(things: Things) -> Call:
        connection = database(things)
        reads, _ = things.pipe()
        connection.create_function("wait", 1, lambda x: os.read(reads, 1) if x else x)
        return use(connection.execute("SELECT wait(x) FROM t"))

    return make


call("sqlite3.Connection.execute")(locked(lambda c: partial(c.execute, "SELECT * FROM t")))
call("sqlite3.Connection.executemany")(locked(lambda c: partial(c.executemany, "DELETE FROM t WHERE x = ?", [(1,)])))
call("sqlite3.Connection.executescript")(locked(lambda c: partial(c.executescript, "DELETE FROM t")))
call("sqlite3.Cursor.execute")(locked(lambda c: partial(c.cursor().execute, "SELECT * FROM t")))
call("sqlite3.Cursor.executemany")(
    locked(lambda c: partial(c.cursor().executemany, "DELETE FROM t WHERE x = ?", [(1,)]))
)
call("sqlite3.Cursor.executescript")(locked(lambda c: partial(c.cursor().executescript, "DELETE FROM t")))
call("sqlite3.Connection.backup")(locked(lambda c: partial(c.backup, sqlite3.connect(":memory:"), sleep=0.01)))
call("sqlite3.Connection.iterdump")(locked(lambda c: lambda: list(c.iterdump())))
call("sqlite3.Connection.commit")(committing(lambda c: c.commit))
call("sqlite3.Connection.__exit__")(committing(lambda c: partial(c.__exit__, None, None, None)))
call("sqlite3.Cursor.fetchall")(computing(lambda c: c.fetchall))
call("sqlite3.Cursor.fetchmany")(computing(lambda c: partial(c.fetchmany, 10)))
call("sqlite3.Cursor.fetchone")(computing(lambda c: lambda: [c.fetchone(), c.fetchone()]))
call("sqlite3.Cursor.__next__")(computing(lambda c: lambda: [next(c), next(c)]))

call("dbm.open")(lambda t: t.audited("open", partial(dbm.open, t.path(), "n")))
call("dbm.dumb.open")(lambda t: t.audited("open", partial(dbm.dumb.open, t.path(), "n")))
if hasattr(sys, "version_info") and sys.version_info >= (3, 13):
    import dbm.sqlite3

    call("dbm.sqlite3.open")(lambda t: t.audited("sqlite3.connect", partial(dbm.sqlite3.open, t.path(), "n")))
call("shelve.open")(lambda t: t.audited("open", partial(shelve.open, t.path(), "n")))
call("shelve.DbfilenameShelf")(lambda t: t.audited("open", partial(shelve.DbfilenameShelf, t.path(), "n")))


def shelf(things: Things) -> shelve.Shelf[int]:
    database = things.stack.enter_context(dbm.dumb.open(things.path(), "n"))  # noqa: SIM115 (the stack closes it)
    kept: shelve.Shelf[int] = shelve.Shelf(database, writeback=True)
    kept["a"] = 1
    return kept


call("shelve.Shelf.sync")(lambda t: t.audited("open", shelf(t).sync))
call("shelve.Shelf.close")(lambda t: t.audited("open", shelf(t).close))
call("shelve.Shelf.__exit__")(lambda t: t.audited("open", partial(shelf(t).__exit__, None, None, None)))


# --------------------------------------------------------------------------------------- other threads and processes

call("threading.Event.wait")(lambda _: threading.Event().wait)
call("threading.Barrier.wait")(lambda _: threading.Barrier(2).wait)
call("threading.Thread.join")(lambda t: t.stuck()[0].join)


def with_condition(condition: Any, method: str, *arguments: object) -> Make:
    def make(things: Things) -> Call:
        made = condition()
        things.stack.enter_context(made)
        return partial(getattr(made, method), *arguments)

    return make


call("threading.Condition.wait")(with_condition(threading.Condition, "wait"))
call("threading.Condition.wait_for")(with_condition(threading.Condition, "wait_for", bool))
call("multiprocessing.synchronize.Condition.wait")(with_condition(FORK.Condition, "wait"))
call("multiprocessing.synchronize.Condition.wait_for")(with_condition(FORK.Condition, "wait_for", bool))


def held(lock: Callable[[], Any]) -> Make:
    def make(_: Things) -> Call:
        taken = lock()
        taken.acquire()
        acquire: Call = taken.acquire
        return acquire

    return make


call("threading.Lock.acquire")(held(threading.Lock))
call("threading.Semaphore.acquire")(held(threading.Semaphore))
call("multiprocessing.synchronize.SemLock.acquire")(held(FORK.Lock))

call("queue.Queue.get")(lambda _: queue.Queue[int]().get)
call("queue.SimpleQueue.get")(lambda _: queue.SimpleQueue[int]().get)


def unfinished(make: Callable[[], Any]) -> Make:
    def prepare(_: Things) -> Call:
        waiting = make()
        waiting.put(1)
        join: Call = waiting.join
        return join

    return prepare


call("queue.Queue.join")(unfinished(queue.Queue))
call("multiprocessing.queues.JoinableQueue.join")(unfinished(FORK.JoinableQueue))


def pool(things: Things) -> tuple[concurrent.futures.ThreadPoolExecutor, concurrent.futures.Future[object]]:
    """An executor with a call that does not end. What lets it end is what releases whoever waits for it."""
    end = threading.Event()
    things.stack.callback(end.set)
    executor = concurrent.futures.ThreadPoolExecutor(1)
    return executor, executor.submit(end.wait)


call("concurrent.futures.Future.result")(lambda t: pool(t)[1].result)
call("concurrent.futures.Future.exception")(lambda t: pool(t)[1].exception)
call("concurrent.futures.wait")(lambda t: partial(concurrent.futures.wait, [pool(t)[1]]))
call("concurrent.futures.as_completed")(lambda t: partial(next, concurrent.futures.as_completed([pool(t)[1]])))
call("concurrent.futures.Executor.shutdown")(lambda t: pool(t)[0].shutdown)
call("concurrent.futures.Executor.__exit__")(lambda t: partial(pool(t)[0].__exit__, None, None, None))


@call("concurrent.futures.ProcessPoolExecutor.shutdown")
def _(things: Things) -> Call:
    executor = concurrent.futures.ProcessPoolExecutor(1, mp_context=FORK)
    running = executor.submit(time.sleep, FOREVER)
    while not running.running():
        time.sleep(0.001)
    things.stack.callback(lambda: [child.kill() for child in multiprocessing.active_children()])
    return executor.shutdown


call("concurrent.futures.Executor.map")(lambda t: lambda: list(pool(t)[0].map(str, [1])))


def process(things: Things) -> Any:
    child = FORK.Process(target=time.sleep, args=(FOREVER,))
    child.start()
    things.stack.callback(child.join)
    things.stack.callback(child.kill)
    return child


call("multiprocessing.process.BaseProcess.join")(lambda t: process(t).join)
call("multiprocessing.queues.Queue.get")(lambda _: FORK.Queue().get)
call("multiprocessing.queues.SimpleQueue.get")(lambda _: FORK.SimpleQueue().get)
call("multiprocessing.synchronize.Event.wait")(lambda _: FORK.Event().wait)


@call("multiprocessing.queues.Queue.join_thread")
def _(things: Things) -> Call:
    full: Any = FORK.Queue()
    things.stack.callback(full._reader.close)
    things.stack.callback(full.cancel_join_thread)
    full.put(BIG)
    full.close()
    join: Call = full.join_thread
    return join


def connection(things: Things) -> Any:
    here, there = multiprocessing.Pipe()
    things.stack.enter_context(there)
    return things.stack.enter_context(here)


CONNECTION = "multiprocessing.connection._ConnectionBase."
call(CONNECTION + "recv")(lambda t: connection(t).recv)
call(CONNECTION + "recv_bytes")(lambda t: connection(t).recv_bytes)
call(CONNECTION + "recv_bytes_into")(lambda t: partial(connection(t).recv_bytes_into, bytearray(1)))
call(CONNECTION + "poll")(lambda t: partial(connection(t).poll, FOREVER))
call("multiprocessing.connection.wait")(lambda t: partial(multiprocessing.connection.wait, [connection(t)]))
call("multiprocessing.connection.Client")(
    lambda t: partial(multiprocessing.connection.Client, t.silent(), authkey=b"secret")
)
call("multiprocessing.connection.Listener.accept")(
    lambda t: t.stack.enter_context(multiprocessing.connection.Listener()).accept
)


def threads(things: Things) -> tuple[multiprocessing.pool.ThreadPool, Call]:
    end = threading.Event()
    made = multiprocessing.pool.ThreadPool(1)
    things.stack.callback(made.terminate)
    things.stack.callback(end.set)
    return made, end.wait


def with_threads(use: Callable[[multiprocessing.pool.ThreadPool, Any], Call]) -> Make:
    return lambda t: use(*threads(t))


@call("multiprocessing.pool.Pool.join")
def _(things: Things) -> Call:
    made, wait = threads(things)
    made.apply_async(wait)
    made.close()
    return made.join


POOL = "multiprocessing.pool."
call(POOL + "Pool.apply")(with_threads(lambda p, wait: partial(p.apply, wait)))
call(POOL + "Pool.map")(with_threads(lambda p, wait: partial(p.map, lambda _: wait(), [1])))
call(POOL + "Pool.starmap")(with_threads(lambda p, wait: partial(p.starmap, lambda _: wait(), [(1,)])))
call(POOL + "ApplyResult.get")(with_threads(lambda p, wait: p.apply_async(wait).get))
call(POOL + "ApplyResult.wait")(with_threads(lambda p, wait: p.apply_async(wait).wait))
call(POOL + "IMapIterator.next")(with_threads(lambda p, wait: p.imap(lambda _: wait(), [1]).next))
call(POOL + "IMapIterator.__next__")(with_threads(lambda p, wait: p.imap(lambda _: wait(), [1]).__next__))

MANAGER = "multiprocessing.managers."
call("multiprocessing.Manager")(lambda t: t.audited("os.fork", FORK.Manager))


@call(MANAGER + "BaseManager.start")
def _(things: Things) -> Call:
    fifo = things.fifo()
    manager = multiprocessing.managers.BaseManager(ctx=FORK)
    things.release = lambda: os.close(os.open(fifo, os.O_WRONLY))

    def start() -> None:
        manager.start(lambda: open(fifo).close())
        manager.shutdown()

    return start


call(MANAGER + "BaseManager.connect")(
    lambda t: multiprocessing.managers.BaseManager(address=t.silent(), authkey=b"secret").connect
)


def manager(things: Things) -> Any:
    made = multiprocessing.managers.SyncManager(ctx=FORK)
    made.start()
    things.stack.callback(made._process.kill)
    return made


call(MANAGER + "BaseManager.join")(lambda t: manager(t).join)


def stopped(use: Callable[[Any], Call]) -> Make:
    def make(things: Things) -> Call:
        made = manager(things)
        call = use(made.Value("i", 1))
        os.kill(made._process.pid, signal.SIGSTOP)
        things.release = lambda: os.kill(made._process.pid, signal.SIGCONT)
        return call

    return make


call(MANAGER + "BaseProxy._callmethod")(stopped(lambda value: partial(value._callmethod, "get")))
call(MANAGER + "ValueProxy.get")(stopped(lambda value: value.get))
call(MANAGER + "ValueProxy.set")(stopped(lambda value: partial(value.set, 2)))


# ------------------------------------------------------------------------------------------------------- the keyboard


def typed(use: Callable[[], object]) -> Make:
    def make(things: Things) -> Call:
        things.stdin()
        things.stack.callback(sys.settrace, None)
        return use

    return make


def without_terminal() -> object:
    """getpass falls back to stdin where there is no terminal to open."""

    def refuse(path: str, *_: object) -> int:
        raise OSError(path)

    before = getpass.os
    getpass.os = types.SimpleNamespace(open=refuse, O_RDWR=0, O_NOCTTY=0)
    try:
        return getpass.getpass()
    finally:
        getpass.os = before


def failed() -> types.TracebackType:
    try:
        raise ValueError
    except ValueError as error:
        sys.last_exc = error
        sys.last_traceback = error.__traceback__
        assert error.__traceback__ is not None
        return error.__traceback__


def traced(set_trace: Callable[[], object]) -> object:
    set_trace()
    return traceback


call("builtins.input")(typed(input))
call("getpass.getpass")(typed(without_terminal))
call("builtins.breakpoint")(typed(lambda: traced(breakpoint)))
call("pdb.set_trace")(typed(lambda: traced(pdb.set_trace)))
call("bdb.Bdb.set_trace")(typed(lambda: traced(pdb.Pdb().set_trace)))
call("pdb.run")(typed(lambda: pdb.run("1")))
call("pdb.runcall")(typed(lambda: pdb.runcall(failed)))
call("pdb.runeval")(typed(lambda: pdb.runeval("1")))
call("pdb.post_mortem")(typed(lambda: pdb.post_mortem(failed())))
call("pdb.pm")(typed(lambda: failed() and pdb.pm()))
call("cmd.Cmd.cmdloop")(typed(lambda: cmd.Cmd().cmdloop()))
call("code.interact")(typed(code.interact))
call("code.InteractiveConsole.interact")(typed(lambda: code.InteractiveConsole().interact()))
call("code.InteractiveConsole.raw_input")(typed(lambda: code.InteractiveConsole().raw_input()))


# -------------------------------------------------------------------------------------------------------------- loops


async def nothing() -> None:
    """What the loops inside of the loop are given."""


def in_new_loop(use: Callable[[asyncio.AbstractEventLoop], object]) -> Make:
    def make(things: Things) -> Call:
        loop = asyncio.new_event_loop()
        things.stack.callback(loop.close)
        return partial(use, loop)

    return make


def given_nothing(use: Callable[[Any], object]) -> Make:
    def make(things: Things) -> Call:
        coroutine = nothing()
        things.stack.callback(coroutine.close)
        return partial(use, coroutine)

    return make


RAISES["asyncio.run"] = given_nothing(asyncio.run)
RAISES["asyncio.Runner.run"] = given_nothing(lambda coroutine: asyncio.Runner().run(coroutine))
RAISES["asyncio.AbstractEventLoop.run_until_complete"] = in_new_loop(
    lambda loop: loop.run_until_complete(loop.create_future())
)
RAISES["asyncio.AbstractEventLoop.run_forever"] = in_new_loop(lambda loop: loop.run_forever())


async def refuses(make: Make, things: Things) -> None:
    with things.stack:
        try:
            make(things)()
        except RuntimeError:
            return
    raise NotHeld("it ran a loop inside of the loop")


def main(names: list[str]) -> None:
    """Prints what was wrong, by name."""
    warnings.simplefilter("ignore")
    sys.breakpointhook = sys.__breakpointhook__
    wrong: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as directory:
        probe = Probe(pathlib.Path(directory))
        sys.stdout = sys.stderr
        for name in names:
            try:
                if make := CALLS.get(name) or LOOK_ALIKES.get(name):
                    probe.prove(make)
                elif name in COMPUTES:
                    probe.computes(COMPUTES[name])
                else:
                    asyncio.run(refuses(RAISES[name], Things(pathlib.Path(directory), probe)))
            except Exception as error:
                wrong[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(wrong), file=sys.__stdout__, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:] or [*CALLS, *COMPUTES, *RAISES])
