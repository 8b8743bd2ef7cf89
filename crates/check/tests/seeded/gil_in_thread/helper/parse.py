import ast
import asyncio


def parse(source: str) -> ast.Module:
    return ast.parse(source)  # BUG: LW105


async def analyse(path: str, read) -> list[str]:
    loop = asyncio.get_running_loop()
    tree = await loop.run_in_executor(None, parse, await read(path))
    return [type(node).__name__ for node in tree.body]
