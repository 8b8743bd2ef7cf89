import asyncio
import json


async def import_dump(request):
    body = await request.read()
    return await asyncio.to_thread(json.loads, body)  # BUG: LW105
