from storage import Storage


async def upload(request, storage: Storage):
    body = await request.read()
    storage.put(request.match_info["name"], body)
    return len(body)
