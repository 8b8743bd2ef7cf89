from fastapi import FastAPI, UploadFile
from fastapi.concurrency import run_in_threadpool

app = FastAPI()


def save(name: str, data: bytes) -> None:
    with open(name, "wb") as file:
        file.write(data)


@app.post("/files")
async def upload(file: UploadFile) -> None:
    # OK: Starlette's thread pool
    await run_in_threadpool(save, file.filename, await file.read())
