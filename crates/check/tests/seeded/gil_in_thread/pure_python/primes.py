import asyncio


def primes(limit):
    found = []
    for n in range(2, limit):
        if all(n % p for p in found):
            found.append(n)
    return found


async def handle(request):
    return await asyncio.to_thread(primes, 200_000)  # BUG: LW105
