from mixins import ThrottleMixin


class Transport:
    async def post(self, path: str, body: bytes) -> int:
        return 200


class Client(ThrottleMixin, Transport):
    rate = 10.0

    async def submit(self, body: bytes) -> int:
        self.throttle()
        return await self.post("/submit", body)
