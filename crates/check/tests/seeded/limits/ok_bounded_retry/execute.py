import asyncio


class ConnectionLost(Exception):
    pass


async def execute(host, command, attempts=3):
    try:
        return await host.run(command)
    except ConnectionLost:
        if attempts <= 1:
            raise
        await asyncio.sleep(0.1)
        return await execute(host, command, attempts - 1)  # OK: ends
