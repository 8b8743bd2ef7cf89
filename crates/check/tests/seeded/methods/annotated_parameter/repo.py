import sqlite3
from dataclasses import dataclass


@dataclass
class User:
    id: int
    name: str


class UserRepository:
    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path)

    def by_name(self, name: str) -> User | None:
        row = self._db.execute("select id, name from users where name = ?", (name,)).fetchone()  # BUG: LW101
        return User(*row) if row else None
