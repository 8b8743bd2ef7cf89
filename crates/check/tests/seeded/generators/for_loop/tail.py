import time


def follow(path):
    with open(path) as file:
        while True:
            line = file.readline()
            if not line:
                time.sleep(0.5)  # BUG: LW101
                continue
            yield line


async def stream(response, path):
    for line in follow(path):
        await response.write(line.encode())
