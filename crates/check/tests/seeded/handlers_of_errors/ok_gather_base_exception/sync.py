import asyncio


async def push(clients, payload):
    results = await asyncio.gather(*(c.push(payload) for c in clients), return_exceptions=True)
    failed = sum(isinstance(r, BaseException) for r in results)  # OK: cancels are counted
    return len(results) - failed
