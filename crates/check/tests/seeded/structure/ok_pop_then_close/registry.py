class Registry:
    def __init__(self):
        self.connections = {}

    async def evict(self, host):
        connection = self.connections.pop(host, None)
        if connection is not None:
            await connection.close()  # OK: nobody finds it any more
