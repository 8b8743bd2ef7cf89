import asyncio


async def grep(pattern, root):
    command = "grep -r " + repr(pattern) + f" {root}"  # BUG: LW509
    process = await asyncio.create_subprocess_shell(command, stdout=asyncio.subprocess.PIPE)  # BUG: LW509
    out, _ = await process.communicate()
    return out
