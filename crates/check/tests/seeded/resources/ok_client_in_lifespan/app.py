from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with httpx.AsyncClient() as client:  # OK: one for the whole life
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/proxy")
async def proxy() -> dict:
    return (await app.state.client.get("http://upstream.internal")).json()
