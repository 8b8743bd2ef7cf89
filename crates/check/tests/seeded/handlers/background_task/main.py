import asyncio

from fastapi import FastAPI

from cleanup import purge

app = FastAPI()


async def janitor() -> None:
    while True:
        purge("/tmp/uploads")
        await asyncio.sleep(60)


@app.on_event("startup")
async def start() -> None:
    app.state.janitor = asyncio.create_task(janitor())
