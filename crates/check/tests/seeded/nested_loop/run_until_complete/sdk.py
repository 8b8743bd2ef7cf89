import asyncio


class Sdk:
    def __init__(self):
        self.loop = asyncio.new_event_loop()

    async def _get(self, path):
        return path

    def get(self, path):
        return self.loop.run_until_complete(self._get(path))  # BUG: LW104


sdk = Sdk()


async def view(request):
    return sdk.get(request.path)
