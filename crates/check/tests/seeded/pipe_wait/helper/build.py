from spawn import spawn


async def build(target):
    process = await spawn(f"make {target}")
    if await process.wait() != 0:  # BUG: LW109
        raise RuntimeError((await process.stderr.read()).decode())
