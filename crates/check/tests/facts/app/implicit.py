"""Calls that nobody wrote."""

import contextlib
import threading


class Row:
    limit = 1

    @property
    def name(self):
        return 1

    @name.setter
    def name(self, value):
        pass

    def __getattr__(self, name):
        return 1

    def __len__(self):
        return 1

    def __getitem__(self, key):
        return key

    def __eq__(self, other):
        return True

    def __add__(self, other):
        return self

    def __str__(self):
        return ""

    def __contains__(self, item):
        return True

    def __del__(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __iter__(self):
        return Rows()


class Rows:
    def __next__(self):
        return Row()

    def __iter__(self):
        return self


class Descriptor:
    def __get__(self, instance, owner):
        return 1


class Holder:
    value = Descriptor()


@contextlib.contextmanager
def opened():
    yield Row()


@contextlib.asynccontextmanager
async def aopened():
    yield Row()


def lines():
    yield Row()


async def main(row: Row, holder: Holder):
    row.name
    row.name = 2
    row.limit
    row.unknown
    holder.value
    len(row)
    row["x"]
    row == 2
    row + row
    str(row)
    f"{row}"
    2 in row
    if row:
        pass
    for item in row:
        item.name
    [item.name for item in lines()]
    list(lines())
    with row as entered:
        entered.name
    with opened() as made:
        made.name
    async with aopened() as made:
        made.name
    with open("x") as file:
        for _ in file:
            pass
    with threading.Lock():
        pass
    with contextlib.ExitStack() as stack:
        stack.enter_context(opened())
    del row


def use():
    from app import calls
