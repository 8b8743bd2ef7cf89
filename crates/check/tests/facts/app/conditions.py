"""Under which conditions sites run."""

import asyncio
import time


def in_loop() -> bool:
    return True


def by_handler():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        time.sleep(1)
    time.sleep(2)


def by_return():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        return
    time.sleep(1)


def by_variable():
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    if loop is None:
        time.sleep(1)
    if loop and loop.is_running():
        time.sleep(2)
    else:
        time.sleep(3)


def by_guard():
    if in_loop():
        return
    time.sleep(1)


async def main():
    by_handler()
    by_return()
    by_variable()
    by_guard()
