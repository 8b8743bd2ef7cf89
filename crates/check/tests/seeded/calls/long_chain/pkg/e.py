import sqlite3


def rows(sql, *args):
    db = sqlite3.connect("ledger.db", timeout=30)  # BUG: LW101
    try:
        return db.execute(sql, args).fetchall()  # BUG: LW101
    finally:
        db.close()
