import asyncio


class Bridge:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    async def _answer(self, question: str) -> str:
        return question[::-1]

    def ask(self, question: str) -> str:
        future = asyncio.run_coroutine_threadsafe(self._answer(question), self.loop)
        return future.result()  # BUG: LW101

    async def serve(self, websocket) -> None:
        async for message in websocket:
            await websocket.send(self.ask(message))
