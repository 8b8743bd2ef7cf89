import multiprocessing
import time


def burn(seconds):
    time.sleep(seconds)


async def start():
    process = multiprocessing.Process(target=burn, args=(10,))
    process.start()  # OK: another process sleeps
    return process.pid
