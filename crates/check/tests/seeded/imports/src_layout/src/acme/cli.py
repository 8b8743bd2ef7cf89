import asyncio

from acme.sync import replicate

if __name__ == "__main__":
    asyncio.run(replicate("a", "b"))
