import sqlite3
from contextlib import contextmanager


class Session:
    def __init__(self, connection):
        self.connection = connection

    def names(self):
        return [row[0] for row in self.connection.execute("select name from t")]  # BUG: LW101


@contextmanager
def session():
    connection = sqlite3.connect("names.db")
    yield Session(connection)
    connection.close()
