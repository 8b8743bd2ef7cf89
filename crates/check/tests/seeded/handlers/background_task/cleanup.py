import os
import shutil
import time


def purge(root: str) -> None:
    for entry in os.scandir(root):
        if entry.stat().st_mtime < time.time() - 3600:
            shutil.rmtree(entry.path)  # BUG: LW101
