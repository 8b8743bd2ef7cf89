import acme.transfer


async def replicate(source: str, target: str) -> None:
    while True:
        acme.transfer.copy(source, target)
