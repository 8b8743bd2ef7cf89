import asyncio
import re


class Parser:
    async def parse(self, text: str) -> list[str]:
        words = []
        for line in text.splitlines():
            words.extend(re.findall(r"(\w+\s*)+$", line))
        return words


async def handle(request) -> list[str]:
    body = await request.text()
    async with asyncio.timeout(2):  # BUG: LW401
        return await Parser().parse(body)
