import threading
import time


def report(gauge):
    while True:
        print(gauge())
        time.sleep(10)


async def start(gauge):
    # OK: a thread of its own
    threading.Thread(target=report, args=(gauge,), daemon=True).start()
