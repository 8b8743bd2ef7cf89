import subprocess


def alive(host):
    return subprocess.call(["ping", "-c", "1", "-W", "1", host], stdout=subprocess.DEVNULL) == 0  # BUG: LW101


async def targets(inventory):
    hosts = await inventory.hosts()
    return list(filter(alive, hosts))
