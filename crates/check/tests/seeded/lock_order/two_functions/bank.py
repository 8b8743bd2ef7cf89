import asyncio

accounts = asyncio.Lock()
journal = asyncio.Lock()


async def _write(entry, store):
    async with journal:
        await store.append(entry)


async def transfer(a, b, amount, store):
    async with accounts:
        a.balance -= amount
        b.balance += amount
        await _write((a, b, amount), store)


async def rebuild(store):
    async with journal:
        entries = await store.all()
        async with accounts:  # BUG: LW503
            for a, b, amount in entries:
                a.balance -= amount
                b.balance += amount
