import subprocess

from eventkit import emit, on


def rebuild(event):
    subprocess.run(["make", "site"], check=True)  # BUG: LW101


async def save(page, store):
    await store.write(page)
    emit("saved", rebuild, page)


on("saved")
