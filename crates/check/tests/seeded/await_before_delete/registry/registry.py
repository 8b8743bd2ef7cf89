class Registry:
    def __init__(self):
        self.connections = {}

    async def evict(self, host):
        connection = self.connections[host]
        await connection.close()
        del self.connections[host]  # BUG: LW505

    def get(self, host):
        return self.connections.get(host)
