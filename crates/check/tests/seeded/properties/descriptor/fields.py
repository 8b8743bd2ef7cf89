import sqlite3


class Column:
    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        with sqlite3.connect("app.db") as db:  # BUG: LW101
            row = db.execute(f"select {self.name} from t where id = ?", (instance.id,)).fetchone()  # BUG: LW101
        return row[0]


class Person:
    email = Column()

    def __init__(self, id):
        self.id = id


async def address(person: Person):
    return str(person.email)
