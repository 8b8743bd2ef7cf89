import asyncio
from concurrent.futures import ThreadPoolExecutor


def convert(path):
    return path.replace(".png", ".webp")


async def convert_all(paths):
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(max_workers=4) as pool:  # BUG: LW106
        return await asyncio.gather(*(loop.run_in_executor(pool, convert, path) for path in paths))
