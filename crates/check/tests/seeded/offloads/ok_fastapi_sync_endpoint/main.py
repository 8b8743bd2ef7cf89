import sqlite3
import time

from fastapi import BackgroundTasks, Depends, FastAPI

app = FastAPI()


def database():
    db = sqlite3.connect("app.db")
    try:
        yield db
    finally:
        db.close()


def mail(address: str) -> None:
    time.sleep(1)


@app.get("/items")
def items(db=Depends(database)):
    return db.execute("select * from items").fetchall()  # OK: sync endpoints run in threads


@app.post("/signup")
async def signup(address: str, tasks: BackgroundTasks, db=Depends(database)):
    tasks.add_task(mail, address)  # OK: sync dependencies and background tasks run in threads
    return {"ok": True}
