"""Which functions calls run."""

import functools
import threading

import driver
import missing
from driver import *

LOCK = threading.Lock()


class Base:
    def __init__(self):
        self.connection = driver.connect()
        self.client = missing.Session()
        self.hook = plain
        self.lock = threading.Lock()

    def run(self):
        self.connection.execute("x")

    def __call__(self):
        self.client.get("x")


class Child(Base):
    def run(self):
        super().run()


def plain():
    pass


def other():
    pass


def make():
    return Child()


@functools.cache
def cached():
    pass


def untyped(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


@untyped
def decorated():
    pass


TABLE = {"a": plain, "b": other}
PAIRS = [("a", plain), ("b", other)]


def call_it(function):
    function()


def with_default(function=plain):
    function()


async def main(flag, base: Base):
    plain()
    make().run()
    base.run()
    base()
    base.hook()
    cached()
    decorated()
    TABLE["a"]()
    TABLE[flag]()
    TABLE.get(flag, plain)()
    for function in TABLE.values():
        function()
    for _, function in TABLE.items():
        function()
    for _, function in PAIRS:
        function()
    bound = functools.partial(plain, 1)
    bound()
    (plain if flag else other)()
    call_it(plain)
    call_it(lambda: plain())
    call_it(functools.partial(other, 2))
    call_it(base.run)
    connect().execute("x")
    driver.connect().execute("x")
    missing.fetch("x").read()
    with LOCK, base.lock:
        plain()
    nested = untyped(plain)
    nested()

    def inner():
        call_it(flag)

    inner()
    await main(flag, base)
    undefined()
