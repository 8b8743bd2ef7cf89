import asyncio
import time


def wait_sync(check):
    while not check():
        time.sleep(0.1)


async def wait(check):
    while not check():
        await asyncio.sleep(0.1)


async def main(check):
    await wait(check)  # OK: its own twin


def cli(check):
    wait_sync(check)
