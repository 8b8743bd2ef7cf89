import asyncio
from concurrent.futures import ThreadPoolExecutor

pool = ThreadPoolExecutor(4)


def convert(path):
    return path.upper()


def convert_in_script(paths):
    with ThreadPoolExecutor() as own:  # OK: no loop here
        return list(own.map(convert, paths))


async def handle(path):
    return await asyncio.get_running_loop().run_in_executor(pool, convert, path)


if __name__ == "__main__":
    print(convert_in_script(["a"]))
