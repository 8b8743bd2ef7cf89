from kvfile import Store

store = Store("/var/lib/kv")


async def read(key: str) -> bytes:
    return store.get(key)  # BUG: LW102
