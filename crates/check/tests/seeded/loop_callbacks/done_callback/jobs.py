import asyncio
import sqlite3


def record(task: asyncio.Task) -> None:
    with sqlite3.connect("jobs.db") as db:  # BUG: LW103
        db.execute("insert into done values (?)", (task.get_name(),))  # BUG: LW103


def submit(coro) -> asyncio.Task:
    task = asyncio.get_running_loop().create_task(coro)
    task.add_done_callback(record)
    return task
