import asyncio


async def push_all(clients, payload):
    results = await asyncio.gather(*(c.push(payload) for c in clients), return_exceptions=True)
    failed = [r for r in results if isinstance(r, Exception)]  # BUG: LW207
    return {"ok": len(results) - len(failed), "failed": len(failed)}
