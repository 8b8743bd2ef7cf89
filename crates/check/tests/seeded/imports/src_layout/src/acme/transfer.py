import os
import shutil


def copy(source, target):
    if os.path.isdir(source):
        shutil.copytree(source, target, dirs_exist_ok=True)  # BUG: LW101
