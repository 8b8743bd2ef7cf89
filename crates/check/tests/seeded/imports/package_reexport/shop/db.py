import sqlite3

_connection = sqlite3.connect(":memory:", check_same_thread=False)


def find_product(sku):
    return _connection.execute("select * from products where sku = ?", (sku,)).fetchone()  # BUG: LW101
