class ConnectionLost(Exception):
    pass


class Executor:
    async def connect(self, host):
        return host

    async def execute(self, host, command):
        connection = await self.connect(host)
        try:
            return await connection.run(command)
        except ConnectionLost:
            return await self.execute(host, command)  # BUG: LW407
