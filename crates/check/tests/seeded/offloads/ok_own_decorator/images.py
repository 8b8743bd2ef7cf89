import subprocess

from offload import offloaded


@offloaded
def optimise(path):
    subprocess.run(["optipng", path], check=True)


async def on_upload(path):
    await optimise(path)  # OK: the decorator moves it to a thread
