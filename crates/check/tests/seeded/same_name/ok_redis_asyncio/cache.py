from redis import asyncio as redis

client = redis.Redis(host="cache")


async def get(key):
    return await client.get(key)  # OK: the asyncio client
