class Job:
    name = "job"

    def prepare(self) -> None:
        """What has to be there before the job runs."""

    async def execute(self) -> None:
        raise NotImplementedError

    async def run(self) -> None:
        self.prepare()
        await self.execute()
