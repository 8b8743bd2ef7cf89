from jobkit import BaseWorker


class ImageWorker(BaseWorker):
    queue = "images"

    async def work(self, job):
        result = await self.resize(job)
        self.report(job, result)  # BUG: LW102

    async def resize(self, job):
        return job
