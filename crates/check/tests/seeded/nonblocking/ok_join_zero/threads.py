import threading


def reap(threads: list[threading.Thread]) -> list[threading.Thread]:
    for thread in threads:
        thread.join(timeout=0)  # OK: does not wait
    return [thread for thread in threads if thread.is_alive()]


async def tick(threads):
    return reap(threads)
