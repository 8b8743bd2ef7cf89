import functools
import sqlite3


def apply(db: sqlite3.Connection, statement: str) -> sqlite3.Connection:
    db.executescript(statement)  # BUG: LW101
    return db


async def migrate(path: str, statements: list[str]) -> None:
    db = sqlite3.connect(path, check_same_thread=False)
    functools.reduce(apply, statements, db)
