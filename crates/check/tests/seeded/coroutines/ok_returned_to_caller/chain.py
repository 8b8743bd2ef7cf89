import asyncio


async def _save(row):
    await asyncio.sleep(0)


def save(row):
    return _save(row)


def save_twice(row):
    return asyncio.gather(save(row), save(row))  # OK: the caller awaits it


async def main(row):
    await save_twice(row)
