class Worker:
    def __init__(self, pool):
        self.pool = pool

    async def run(self, job):
        lease = await self.pool.acquire()
        try:
            return await job(lease)
        finally:
            await self.pool.release(lease)  # BUG: LW210
