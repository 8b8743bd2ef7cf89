import asyncio


def read_config(path):
    with open(path) as file:
        return file.read()


async def load(path):
    text = await asyncio.to_thread(read_config(path))  # BUG: LW107
    return text.splitlines()
