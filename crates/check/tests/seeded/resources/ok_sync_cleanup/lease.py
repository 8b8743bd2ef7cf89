import asyncio


async def use(pool, work):
    lease = await pool.acquire()
    try:
        return await work(lease)
    finally:
        pool.release(lease)  # OK: not awaited


async def upload(writer, data):
    try:
        writer.write(data)
        await writer.drain()
    finally:
        await asyncio.shield(writer.wait_closed())  # OK: shielded
