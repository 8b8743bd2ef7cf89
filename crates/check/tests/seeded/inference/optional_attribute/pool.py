import sqlite3


class Store:
    def __init__(self, path: str) -> None:
        self.path = path
        self._db: sqlite3.Connection | None = None

    def open(self) -> None:
        self._db = sqlite3.connect(self.path)

    async def count(self) -> int:
        if self._db is None:
            raise RuntimeError("not open")
        return self._db.execute("select count(*) from big").fetchone()[0]  # BUG: LW101
