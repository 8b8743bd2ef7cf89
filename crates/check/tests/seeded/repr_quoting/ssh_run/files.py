class Remote:
    def __init__(self, connection):
        self.connection = connection

    async def read(self, path):
        result = await self.connection.run(f"cat {path!r}", check=True)  # BUG: LW509
        return result.stdout
