import asyncio


async def score(rows):
    total = 0
    for row in rows:
        total += sum(row)
    return total


async def rank(rows):
    return await asyncio.wait_for(score(rows), timeout=1.0)  # BUG: LW401
