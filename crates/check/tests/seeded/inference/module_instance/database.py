import sqlite3


class Database:
    def __init__(self):
        self.connection = sqlite3.connect("app.db")

    def all(self, sql):
        return self.connection.cursor().execute(sql).fetchall()  # BUG: LW101


db = Database()
