import concurrent.futures


def collect(jobs: list[concurrent.futures.Future]) -> list:
    concurrent.futures.wait(jobs, timeout=30)  # BUG: LW101
    return [job for job in jobs if job.done()]


async def finish(jobs: list[concurrent.futures.Future], report) -> None:
    await report(collect(jobs))
