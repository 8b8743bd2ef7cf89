import psycopg2


class Users:
    def __init__(self, dsn):
        self.connection = psycopg2.connect(dsn)

    def find(self, email):
        with self.connection.cursor() as cursor:
            cursor.execute("select id from users where email = %s", (email,))  # BUG: LW101
            return cursor.fetchone()

    async def login(self, email):
        return self.find(email) is not None
