import asyncio
import csv


async def export(rows, path):
    def write():
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows(rows)

    await asyncio.to_thread(write)  # OK: only the thread calls write
