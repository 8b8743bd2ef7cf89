import httpx
from fastapi import FastAPI

app = FastAPI()


@app.get("/proxy/{name}")
async def proxy(name: str) -> dict:
    async with httpx.AsyncClient() as client:  # BUG: LW301
        answer = await client.get(f"http://upstream.internal/{name}")
    return answer.json()
