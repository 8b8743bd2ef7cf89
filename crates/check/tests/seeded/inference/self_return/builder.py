import sqlite3
from typing import Self


class Select:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._where: list[str] = []

    def where(self, clause: str) -> Self:
        self._where.append(clause)
        return self

    def all(self) -> list:
        return self._db.execute("select * from t where " + " and ".join(self._where)).fetchall()  # BUG: LW101


class Users(Select):
    def active(self) -> Self:
        return self.where("active = 1")


async def active_users(db: sqlite3.Connection) -> list:
    return Users(db).active().where("age > 18").all()
