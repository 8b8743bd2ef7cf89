from helpers import *


async def upload(client, items):
    for chunk in chunks(items, 10):
        await client.send(chunk)
        settle()
