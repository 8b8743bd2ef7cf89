import os
from urllib.request import urlretrieve


def ensure(name: str) -> str:
    path = f"/models/{name}"
    if not os.path.exists(path):
        urlretrieve(f"http://models.internal/{name}", path)  # BUG: LW101
    return path


async def complete(request, engine):
    body = await request.json()
    return await engine.run(ensure(body["model"]), body["prompt"])
