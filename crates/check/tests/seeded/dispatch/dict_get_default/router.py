import sqlite3


def by_id(key):
    with sqlite3.connect("items.db") as db:  # BUG: LW101
        return db.execute("select * from items where id = ?", (key,)).fetchone()  # BUG: LW101


def unknown(key):
    return None


LOOKUPS: dict = {"id": by_id}


async def find(kind, key):
    lookup = LOOKUPS.get(kind, unknown)
    return lookup(key)
