import requests


async def enqueue(item):
    requests.post(item)  # OK: the project's own module
    return requests.get(item)
