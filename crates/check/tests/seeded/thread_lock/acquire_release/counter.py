from threading import RLock

guard = RLock()
total = 0


async def add(amount, persist):
    global total
    guard.acquire()  # BUG: LW108
    try:
        total += amount
        await persist(total)
    finally:
        guard.release()
