import asyncio


class Api:
    async def _get(self, path):
        await asyncio.sleep(0)
        return path

    def get(self, path):
        return self._get(path)


async def both(api: Api):
    first = api.get("/a")
    second = api.get("/b")
    return await first, await second  # OK: awaited here
