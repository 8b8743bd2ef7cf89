import time

__all__ = ["settle", "chunks"]


def settle():
    time.sleep(0.25)  # BUG: LW101


def chunks(items, n):
    for i in range(0, len(items), n):
        yield items[i : i + n]


def _private():
    pass
