from pkg.b import summarise


async def report(account: int) -> str:
    return summarise(account)
