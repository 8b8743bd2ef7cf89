import asyncio


def ask(question: str) -> bool:
    answer = input(f"{question} [y/N] ")  # BUG: LW101
    return answer.lower() == "y"


async def chat(server) -> None:
    keepalive = asyncio.create_task(server.keepalive())
    while ask("another round?"):
        await server.round()
    keepalive.cancel()


asyncio.run(chat(None))
