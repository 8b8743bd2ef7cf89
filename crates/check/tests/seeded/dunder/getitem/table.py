import sqlite3


class Table:
    def __init__(self, path: str, name: str) -> None:
        self._db = sqlite3.connect(path)
        self._name = name

    def __getitem__(self, key: str) -> str:
        row = self._db.execute(f"select value from {self._name} where key = ?", (key,)).fetchone()  # BUG: LW101
        if row is None:
            raise KeyError(key)
        return row[0]


async def feature(flags: Table, name: str) -> bool:
    return flags[name] == "on"
