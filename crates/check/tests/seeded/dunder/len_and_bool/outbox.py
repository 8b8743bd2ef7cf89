import sqlite3


class Outbox:
    def __init__(self, path: str) -> None:
        self.db = sqlite3.connect(path)

    def __len__(self) -> int:
        return self.db.execute("select count(*) from outbox").fetchone()[0]  # BUG: LW101


async def flush(outbox: Outbox, send) -> None:
    if not outbox:
        return
    await send(b"flush")
