import asyncio
import subprocess
from concurrent.futures import ProcessPoolExecutor

pool = ProcessPoolExecutor(2)


def compile_one(path):
    return subprocess.run(["cc", "-c", path]).returncode


async def compile_all(paths):
    # OK: submitted, and awaited as asyncio futures
    futures = [asyncio.wrap_future(pool.submit(compile_one, path)) for path in paths]
    return await asyncio.gather(*futures)
