import asyncio


class Model:
    async def _load_author(self):
        return "someone"

    @property
    def author(self):
        with asyncio.Runner() as runner:
            return runner.run(self._load_author())  # BUG: LW104


async def show(model: Model):
    return {"author": model.author}
