import asyncio


async def run(*argv):
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    code = await process.wait()  # BUG: LW109
    output = await process.stdout.read()
    return code, output
