import asyncio


async def run(*argv):
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()  # OK: drains
    return await process.wait(), output


async def quiet(*argv):
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.DEVNULL)
    return await process.wait()  # OK: no pipe
