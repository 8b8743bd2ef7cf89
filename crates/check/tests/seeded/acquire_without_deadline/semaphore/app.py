import asyncio

from fastapi import FastAPI

app = FastAPI()
slots = asyncio.Semaphore(4)


async def run_model(prompt: str) -> str:
    await slots.acquire()  # BUG: LW402
    try:
        await asyncio.sleep(1)
        return prompt
    finally:
        slots.release()


@app.post("/generate")
async def generate(prompt: str) -> str:
    return await run_model(prompt)
