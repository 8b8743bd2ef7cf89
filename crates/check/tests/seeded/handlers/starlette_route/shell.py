import os


def run(command: str) -> str:
    with os.popen(command) as pipe:  # BUG: LW101
        return pipe.read()
