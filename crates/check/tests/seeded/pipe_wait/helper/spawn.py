from asyncio import create_subprocess_shell
from asyncio.subprocess import PIPE


async def spawn(command):
    return await create_subprocess_shell(command, stdout=PIPE, stderr=PIPE)
