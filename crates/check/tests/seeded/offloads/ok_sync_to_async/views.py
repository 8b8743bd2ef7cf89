import sqlite3

from asgiref.sync import sync_to_async


def titles():
    with sqlite3.connect("db") as db:
        return db.execute("select title from articles").fetchall()


async def index(request):
    rows = await sync_to_async(titles)()  # OK: wrapped, then called
    return rows


@sync_to_async
def count():
    with sqlite3.connect("db") as db:
        return db.execute("select count(*) from articles").fetchone()


async def total(request):
    return await count()  # OK: decorated
