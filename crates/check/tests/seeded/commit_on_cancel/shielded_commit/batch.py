import asyncio


async def import_rows(session, rows):
    try:
        for row in rows:
            await session.insert(row)
        await session.commit()
    except asyncio.CancelledError:
        await asyncio.shield(session.commit())  # BUG: LW211
        raise
