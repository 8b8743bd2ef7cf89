import sqlite3


def _page(db, offset):
    return db.execute("select * from events limit 100 offset ?", (offset,)).fetchall()  # BUG: LW101


async def events(path):
    db = sqlite3.connect(path)
    offset = 0
    while rows := _page(db, offset):
        for row in rows:
            yield row
        offset += len(rows)


async def export(path, sink):
    async for row in events(path):
        await sink.send(row)
