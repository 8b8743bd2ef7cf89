import asyncio

from base import Job
from jobs import Build, Restore


async def run_all(jobs: list[Job]) -> None:
    for job in jobs:
        await job.run()


if __name__ == "__main__":
    asyncio.run(run_all([Build(), Restore()]))
