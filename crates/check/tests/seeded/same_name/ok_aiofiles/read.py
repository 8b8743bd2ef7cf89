import aiofiles
from aiofiles import open as open_file


async def read(path):
    async with open_file(path) as file:  # OK: aiofiles
        return await file.read()


async def copy(source, target):
    async with aiofiles.open(target, "w") as file:
        await file.write(await read(source))
