"""Two tests that pass under pytest-asyncio, every time, over code that is wrong. ``pytest examples/test_bank.py``

The first account is overdrawn under another order of the same tasks; the pool loses a permit for every task that is
cancelled while it connects. README.md shows what the kit has to say.
"""

from __future__ import annotations

import asyncio

import pytest


class Account:
    """Checks the balance, waits, then takes the money: the check is old by then."""

    def __init__(self, balance: int) -> None:
        self.balance = balance

    async def withdraw(self, amount: int) -> None:
        if self.balance >= amount:
            await asyncio.sleep(0.01)  # the ledger, over the network
            self.balance -= amount


@pytest.mark.loopwright(seeds=100)
async def test_the_account_is_never_overdrawn() -> None:
    account = Account(100)
    first = asyncio.create_task(account.withdraw(60), name="first")
    await asyncio.sleep(0.01)
    await asyncio.gather(first, account.withdraw(60))
    assert account.balance >= 0


class Pool:
    """Two connections; what happens between ``acquire`` and ``try`` is nobody's to clean up."""

    def __init__(self) -> None:
        self.free = asyncio.Semaphore(2)

    async def query(self) -> None:
        await self.free.acquire()
        await asyncio.sleep(0.1)  # connect
        try:
            await asyncio.sleep(0.1)  # the query
        finally:
            self.free.release()


@pytest.mark.loopwright(cancel="every")
async def test_the_pool_never_shrinks() -> None:
    pool = Pool()
    await asyncio.gather(*(pool.query() for _ in range(3)), return_exceptions=True)
    assert not pool.free.locked()
    async with asyncio.timeout(1), pool.free, pool.free:
        pass
