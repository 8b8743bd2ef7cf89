from refresh import Token


class Client:
    def __init__(self):
        self.token = Token()

    async def call(self, session):
        answer = await session.get("/")
        if answer.status == 401:
            self.token.refresh()  # BUG: LW201
            answer = await session.get("/")
        return answer
