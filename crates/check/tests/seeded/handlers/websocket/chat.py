import json
from pathlib import Path

from fastapi import FastAPI, WebSocket

app = FastAPI()
HISTORY = Path("history.jsonl")


def remember(message: dict) -> None:
    with HISTORY.open("a") as file:  # BUG: LW101
        file.write(json.dumps(message) + "\n")


@app.websocket("/chat")
async def chat(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:
        message = await websocket.receive_json()
        remember(message)
        await websocket.send_json(message)
