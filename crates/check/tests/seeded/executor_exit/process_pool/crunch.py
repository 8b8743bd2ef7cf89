import asyncio
from concurrent import futures


def crunch(n):
    return sum(range(n))


async def handle(request):
    loop = asyncio.get_running_loop()
    with futures.ProcessPoolExecutor() as executor:  # BUG: LW106
        job = loop.run_in_executor(executor, crunch, int(request.query["n"]))
        return await asyncio.wait_for(job, timeout=5)
