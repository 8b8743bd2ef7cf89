import asyncio

from adapters import ConsoleNotifier, HookNotifier
from service import Orders


def build(debug: bool) -> Orders:
    return Orders(ConsoleNotifier() if debug else HookNotifier("http://hooks.internal/x"))


async def main() -> None:
    await build(debug=False).place({"id": "1"})


asyncio.run(main())
