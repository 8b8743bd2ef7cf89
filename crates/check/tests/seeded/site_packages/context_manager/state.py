from filemutex import FileMutex

mutex = FileMutex("/run/app.lock")


async def apply(change, store):
    with mutex:  # BUG: LW102
        await store.apply(change)
