import asyncio
from functools import cache
from pathlib import Path


@cache
def template() -> str:
    return Path("page.html").read_text()


async def page(request) -> str:
    return template().replace("$name", request.name)


def main(serve):
    template()  # OK: read here; afterwards from memory
    asyncio.run(serve(page))
